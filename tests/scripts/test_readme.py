"""README.md's generated parts are up to date, and the states of artefacts match the committed files."""

import csv
import re
import shutil
import subprocess
from urllib.parse import unquote

import pytest
import yaml
from commands import ROOT

from results.schema import Artefact
from scripts.readme import README, count_runs, figure, rewritten, state, table
from tasks.engine.errors import UserError


def write_results(root, name, rows, runs="6 of 6", scale="mini"):
    folder = root / "results" / scale / name
    folder.mkdir(parents=True)
    (folder / "table.md").write_text(f"# A title\n\n- scale: {scale}\n- runs: {runs}\n")
    with open(folder / "claims.csv", "w", newline="") as file:
        if not rows:
            file.write("\n")
            return
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def rows(*verdicts, **columns):
    return [{"claim": f"c{number}", **columns, "verdict": verdict} for number, verdict in enumerate(verdicts)]


def test_the_readme_is_as_make_readme_writes_it():
    assert README.read_text() == rewritten(README.read_text()), "run: make readme"


def test_every_artefact_has_one_row_and_the_paper_s_order():
    commands = [line.split(" | ")[1].strip("`").split()[-1] for line in table(ROOT).splitlines()[2:]]
    names = [command.removeprefix("reproduce-") for command in commands]
    assert sorted(names) == sorted(
        [*(path.stem for path in ROOT.glob("configs/artefact/*.yaml")), "table_i1", "table_i2", "table_i3"]
    )
    assert names[:8] == ["grokking", "figure1", "figure2", "figure3", "figure4", "figure5", "table1", "table2"]
    assert names[-5:] == ["table_j1", "amos22", "figure_k1", "evaluate_at", "resnet50"]


@pytest.mark.slow
def test_every_row_s_command_is_a_target_that_makes_the_row_s_results():
    for target in re.findall(r"`make (reproduce-\w+)`", table(ROOT)):
        done = subprocess.run(
            ["make", "--dry-run", "--no-print-directory", target], cwd=ROOT, capture_output=True, text=True, check=True
        )
        name = target.removeprefix("reproduce-")
        script = (
            r"model_sizes\.py"
            if name == "table_i1"
            else rf"(reproduce\.py {name}|bench/step_times\.py .*tables={name})"
        )
        assert re.search(rf"scripts/{script}\b", done.stdout), done.stdout


@pytest.mark.parametrize(
    "page",
    ["README.md", "CONTRIBUTING.md", *(f"tasks/{p.parent.name}/README.md" for p in ROOT.glob("tasks/*/README.md"))],
)
def test_every_file_that_a_readme_links_to_or_names_is_there(page):
    folder, text = (ROOT / page).parent, (ROOT / page).read_text()
    links = [link.partition("#") for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"\w+:", link)]
    assert not [path for path, _, _ in links if path and not (folder / unquote(path)).exists()]
    headings = {
        re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    assert {anchor for path, _, anchor in links if not path} <= headings
    named = re.findall(r"`((?:configs|cpr|results|scripts|tasks|tests|docs)/[\w./-]*)`", text)
    assert not [path for path in named if not (ROOT / path).exists()]


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (("holds", "undecided", "holds"), "2 of 3 claims hold, 1 undecided"),
        (
            ("does not hold", "does not hold", "too few seeds to say"),
            "0 of 3 claims hold, 2 do not, 1 with too few seeds to say",
        ),
        (("does not hold",), "1 claim, does not hold"),
        ((), "done, no claims"),
    ],
)
def test_the_state_counts_the_verdicts_whatever_other_columns_there_are(tmp_path, verdicts, said):
    write_results(tmp_path, "figure2", rows(*verdicts, p="0.5", low="-1"))
    assert state("figure2", tmp_path) == f"[mini](results/mini/figure2/table.md): {said}"


def test_the_state_tells_missing_runs_and_both_scales(tmp_path):
    assert state("figure2", tmp_path) == "not run yet"
    write_results(tmp_path, "figure2", rows("holds", "holds"))
    write_results(tmp_path, "figure2", rows("undecided", "holds"), runs="90 of 96 (6 diverged)", scale="paper")
    mini, paper = state("figure2", tmp_path).split("; ")
    assert mini.endswith(": 2 of 2 claims hold")
    assert (
        paper == "[paper](results/paper/figure2/table.md): 90 of 96 runs, 6 diverged, 1 of 2 claims hold, 1 undecided"
    )


def test_runs_are_counted_once_though_two_grids_have_them():
    grids = [
        {"regularizer": "a", "lr": [1, 2]},
        {"regularizer": "a", "lr": 2, "seed": [1, 2, 3]},
        {"task": "t", "regularizer": "a", "lr": 1},
    ]
    scales = {"mini": {"seeds": [1, 2], "grids": grids}}
    made = Artefact.model_validate({"title": "", "layout": "heatmap", "task": "s", "scales": scales})
    assert count_runs(made, "mini") == 2 * 2 + 1 + 2


def test_the_figure_is_there_and_its_caption_tells_scale_seeds_and_hardware(tmp_path):
    shutil.copytree(ROOT / "results" / "mini" / "grokking", tmp_path / "results" / "mini" / "grokking")
    picture, caption = figure(tmp_path).split("\n\n")
    assert (tmp_path / picture.split("](")[1].rstrip(")")).exists()
    assert "\n" not in caption
    assert all(word in caption for word in ("mini scale", "seed", "thread"))


def test_a_missing_mark_or_entry_is_said(tmp_path):
    with pytest.raises(UserError, match="make readme: figure"):
        rewritten("# A text without marks")
    (tmp_path / "configs" / "artefact").mkdir(parents=True)
    content = yaml.safe_load((ROOT / "configs" / "artefact" / "figure2.yaml").read_text())
    del content["readme"]
    (tmp_path / "configs" / "artefact" / "new.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=r"new\.yaml needs an entry readme:"):
        table(tmp_path)
