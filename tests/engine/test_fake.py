"""Fake data is marked, and only scale=rehearsal trains on it."""

import json

import pytest
from commands import call_forked, is_one_line

from scripts.cli.common import compose_config
from tasks.engine import fake
from tasks.engine.errors import UserError
from tasks.engine.run import run


@pytest.fixture
def made(tmp_path):
    """Return a data folder with a fake data set `Mine`."""
    folder = fake.begin(tmp_path / "data", "mine")
    fake.end(tmp_path / "data", "Mine", {"images": 3}, folder)
    return tmp_path / "data"


def config(data, tmp_path, *more):
    return compose_config(["task=grokking", f"data_dir={data}", f"runs_dir={tmp_path / 'runs'}", "quiet=true", *more])


def test_the_marker_holds_the_facts_and_says_that_the_data_is_fake(made):
    assert fake.facts(made, "Mine") == {"images": 3} and fake.facts(made, "Other") is None
    assert "Fake data" in json.loads((made / "FAKE").read_text())["note"]
    assert (made / "mine" / "FAKE").read_bytes() == (made / "FAKE").read_bytes()


@pytest.mark.parametrize("scale", ["mini", "paper"])
def test_no_other_scale_trains_on_fake_data(made, tmp_path, scale):
    with pytest.raises(UserError, match=r"holds fake data \(.*FAKE\); set data_dir= to real data, or scale=rehearsal"):
        run(config(made, tmp_path, f"scale={scale}", "device=cpu"))
    assert not (tmp_path / "runs").exists()


def test_a_fake_folder_that_was_moved_to_real_data_is_recognized(made, tmp_path):
    (tmp_path / "real").mkdir()
    (made / "mine").rename(tmp_path / "real" / "mine")
    with pytest.raises(UserError, match="holds fake data"):
        run(config(tmp_path / "real", tmp_path, "scale=mini"))


def test_a_rehearsal_never_trains_on_real_data(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError, match="has no file FAKE; make some with"):
        run(config(tmp_path / "data", tmp_path, "scale=rehearsal"))


def test_fake_files_never_join_real_ones(tmp_path):
    (tmp_path / "imagenet").mkdir()
    done = call_forked("fake_data.py", "imagenet", f"data_dir={tmp_path}")
    is_one_line(done, "holds files that are not fake data")
    assert done.returncode == 2 and [path.name for path in tmp_path.iterdir()] == ["imagenet"]


def test_an_interrupted_data_set_is_made_again_and_a_finished_one_is_kept(tmp_path):
    calls = []

    @fake.once("Mine")
    def make(root):
        calls.append(root)
        fake.begin(root, "mine")
        if len(calls) == 1:
            raise KeyboardInterrupt
        fake.end(root, "Mine", {})

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path)
    make(tmp_path)
    make(tmp_path)
    assert len(calls) == 2
