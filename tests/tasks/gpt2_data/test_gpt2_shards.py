"""Shards of GPT-2's tokens: several processes, kills, reading, damage, and a full disk."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT, wait_until
from made_gpt2 import MADE, RECIPE, texts_of

from tasks.engine.errors import UserError
from tasks.gpt2 import prepare, shards
from tasks.gpt2.groups import Recipe, is_validation
from tasks.gpt2.pool import write_all

# Prepares MADE into the folder argv[1], 20 groups a second.
SLOWLY = """
import sys, time
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
from tasks.gpt2.pool import write_all
from made_gpt2 import MADE, RECIPE

class Slow(list):
    def __getitem__(self, span):
        time.sleep(0.1)
        return super().__getitem__(span)

if __name__ == "__main__":
    write_all(Path(sys.argv[1]), Slow(MADE), RECIPE, 2)
"""


@pytest.fixture(scope="module")
def made(vocabulary, tmp_path_factory):
    """Return MADE as shards that one process wrote."""
    root = tmp_path_factory.mktemp("made")
    shutil.copytree(vocabulary / "gpt2_bpe", root / "gpt2_bpe")
    write_all(root, MADE, RECIPE, processes=1)
    return root


def contents(root):
    """Return the bytes of all files of the data set Made, by name."""
    return {
        path.name: path.read_bytes() for path in (root / "gpt2" / "Made").iterdir() if not path.name.startswith(".")
    }


def test_shards_decoded_are_the_documents(made, bpe):
    for split in shards.SPLITS:
        expected = [text for text in MADE if is_validation(text, 0.2) == (split == "validation")]
        assert texts_of(made, "Made", split, bpe) == expected
    known = shards.manifest(made, "Made")
    assert sum(total["documents"] for total in known["totals"].values()) == len(MADE)
    assert [shard["file"] for shard in known["shards"]["train"]] == [f"train-{group:05d}.bin" for group in range(40)]
    shards.verify(made, "Made")


def test_two_processes_write_the_same_bytes_as_one(made, root):
    write_all(root, MADE, RECIPE, processes=2)
    assert contents(root) == contents(made)


def test_a_killed_preparation_keeps_whole_groups_and_ends_with_the_same_bytes(made, root, tmp_path):
    script = tmp_path / "slowly.py"
    script.write_text(SLOWLY.format(root=str(ROOT), tests=str(ROOT / "tests")))
    folder = root / "gpt2" / "Made"
    process = subprocess.Popen([sys.executable, str(script), str(root)], stderr=subprocess.DEVNULL)
    wait_until(lambda: len(list(folder.glob("group-*.json"))) >= 3)
    children = [
        int(child)
        for task in Path(f"/proc/{process.pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(children) >= 2
    wait_until(lambda: not any(at_work(child) for child in children), seconds=20)
    assert not (folder / "manifest.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("group-*.json")}
    assert 3 <= len(kept) < 40
    write_all(root, MADE, RECIPE, processes=2)
    assert contents(root) == contents(made)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def at_work(process):
    """Tell whether the process is alive. A zombie is not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_reading_crosses_the_borders_of_shards(made):
    files = sorted((made / "gpt2" / "Made").glob("train-*.bin"))
    whole = np.concatenate([np.fromfile(path, "<u2") for path in files])
    tokens = shards.open_split(made, "Made", "train")
    assert len(tokens) == len(whole) == shards.manifest(made, "Made")["totals"]["train"]["tokens"]
    border = files[0].stat().st_size // 2
    choices = random.Random(1)
    starts = [0, border - 1, border, len(whole)] + [choices.randrange(len(whole)) for _ in range(200)]
    for start in starts:
        count = choices.randrange(len(whole) - start + 1)
        read = tokens.read(start, count)
        assert read.dtype == np.uint16
        np.testing.assert_array_equal(read, whole[start : start + count])
    np.testing.assert_array_equal(tokens.read(border - 1, 2), whole[border - 1 : border + 1])
    for start, count in ((-1, 1), (0, len(whole) + 1), (len(whole), 1), (0, -1)):
        with pytest.raises(IndexError):
            tokens.read(start, count)


def test_a_split_without_a_token_has_length_0(root):
    write_all(root, ["a", "b"], Recipe("Made", "made", validation_share=0.0, documents_per_group=1), processes=2)
    assert len(shards.open_split(root, "Made", "train")) == 4
    assert len(shards.open_split(root, "Made", "validation")) == 0


def test_missing_and_damaged_shards_are_said_and_made_again(made, root):
    command = r"python scripts/prepare_data\.py gpt2 Made data_dir="
    with pytest.raises(UserError, match=f"Made is not in .*; bring it with: {command}"):
        shards.open_split(root, "Made", "train")
    shutil.copytree(made / "gpt2", root / "gpt2")
    folder = root / "gpt2" / "Made"
    assert prepare.finished(root, RECIPE)
    assert not prepare.finished(root, Recipe("Made", "made", 0.3, 10))

    changed = bytearray((folder / "train-00007.bin").read_bytes())
    changed[100] ^= 1
    (folder / "train-00007.bin").write_bytes(changed)
    with pytest.raises(UserError, match=r"train-00007\.bin is damaged: .*; delete it, then bring it with: " + command):
        shards.verify(root, "Made")
    (folder / "train-00007.bin").unlink()
    os.truncate(folder / "validation-00003.bin", 2)
    with pytest.raises(UserError, match=r"train-00007\.bin in .* is missing or not as long as it was; .*" + command):
        shards.open_split(root, "Made", "train")
    assert not prepare.finished(root, RECIPE)
    write_all(root, MADE, RECIPE, processes=2)
    assert contents(root) == contents(made)

    (folder / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json is damaged; delete it"):
        shards.open_split(root, "Made", "train")


def test_a_full_disk_is_said_and_leaves_nothing_half_written(vocabulary):
    with tempfile.TemporaryDirectory() as disk:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk], capture_output=True).returncode:
            pytest.skip("mounting a file system needs root")
        try:
            shutil.copytree(vocabulary / "gpt2_bpe", Path(disk, "gpt2_bpe"))
            with pytest.raises(UserError, match=r"no space left .* start the same command again"):
                write_all(Path(disk), MADE, RECIPE, processes=2)
            folder = Path(disk, "gpt2", "Made")
            assert not (folder / "manifest.json").exists()
            assert not list(folder.glob(".*.tmp"))
            for record in map(json.loads, (path.read_bytes() for path in folder.glob("group-*.json"))):
                assert not shards.wrong_in_length(folder, record["shards"])
        finally:
            subprocess.run(["umount", disk], check=True)
