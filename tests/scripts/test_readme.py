"""README.md's generated parts are up to date, and the states of artefacts match the committed files."""

import re
import shutil
import subprocess
from urllib.parse import unquote

import pytest
import yaml
from commands import ROOT

from results.evidence.finding import Finding, to_csv
from results.evidence.paper_scale import paper_scale_sentence
from results.schema import Artefact
from scripts.readme import (
    README,
    REPRODUCING,
    TASK_READMES,
    artefacts_in,
    count_runs,
    figure,
    of_task,
    reproducing,
    rewritten,
    scores,
    state,
    table,
)
from tasks.engine.errors import UserError

FIGURE2, FIGURE5 = (next(one for one in artefacts_in(ROOT) if one.name == name) for name in ("figure2", "figure5"))


def write_results(root, name, found, runs="6 of 6", scale="mini"):
    folder = root / "results" / scale / name
    folder.mkdir(parents=True)
    (folder / "table.md").write_text(f"# A title\n\n- scale: {scale}\n- runs: {runs}\n")
    (folder / "claims.csv").write_text(to_csv(found))


def claims(*outcomes):
    return [Finding(f"c{number}", "a > b", "-", outcome, p=0.5, low=-1.0) for number, outcome in enumerate(outcomes)]


def test_the_readme_is_as_make_readme_writes_it():
    assert README.read_text() == rewritten(README.read_text()), "run: make readme"


def test_the_page_of_claims_is_as_make_readme_writes_it():
    assert REPRODUCING.read_text() == reproducing(REPRODUCING.read_text()), "run: make readme"
    named = [claim.text for artefact in artefacts_in(ROOT) for claim in artefact.claims]
    assert named and all(f"| {text.replace('|', chr(92) + '|')} |" in REPRODUCING.read_text() for text in named)


@pytest.mark.parametrize("path", TASK_READMES, ids=lambda path: path.parent.name)
def test_a_task_s_readme_is_as_make_readme_writes_it(path):
    assert path.read_text() == of_task(path.read_text()), "run: make readme"
    assert ("## Expected score" in path.read_text()) <= ("<!-- make readme: " in path.read_text())


def test_a_task_s_scores_are_those_of_fresh_seeds_where_there_are_any(tmp_path):
    assert scores(FIGURE2, tmp_path) == "Nothing has been trained yet."
    table = "\n| method | best of ours | best of paper |\n|---|---|---|\n| AdamW | 41.0 | 75.4 |\n"
    for scale, more in (
        ("mini", ""),
        ("small", "\n## Chosen settings on fresh seeds\n" + table.replace("41.0", "40.0")),
    ):
        write_results(tmp_path, "figure2", claims("ahead"), scale=scale)
        path = tmp_path / "results" / scale / "figure2" / "table.md"
        path.write_text(path.read_text() + "- seeds: 1, 2, 101, 102, 103\n" + table + more)
    mini, small = scores(FIGURE2, tmp_path).split("\n\n`")
    assert (
        "(mini scale, 6 of 6 runs, seeds 1,2,101-103):\n\n| method | best of ours |\n| --- | --- |\n| AdamW | 41.0 |"
        in mini
    )
    assert small.endswith("| AdamW | 40.0 |")


def test_an_artefact_without_claims_is_older_if_its_table_names_no_regime(tmp_path):
    write_results(tmp_path, "figure5", [])
    assert state("figure5", tmp_path, FIGURE5).endswith(": numbers only, of before version 0.5")
    path = tmp_path / "results" / "mini" / "figure5" / "table.md"
    path.write_text(path.read_text() + "Outside the paper's regime\n")
    assert state("figure5", tmp_path, FIGURE5).endswith(": numbers only")


def test_the_results_begin_with_what_exists_at_paper_scale(tmp_path):
    first = README.read_text().partition("## What we found")[2].partition("-->")[2].strip()
    assert first.startswith("1. At paper scale, no training result exists yet")
    write_results(tmp_path, "table_i2", [], scale="paper")
    assert "no training result" in paper_scale_sentence(tmp_path / "results")
    write_results(tmp_path, "figure2", [], scale="paper")
    assert paper_scale_sentence(tmp_path / "results") == "At paper scale, these have training results: figure2."


def test_every_artefact_has_one_row_and_the_paper_s_order():
    commands = [
        line.split(" | ")[1].strip("`").split()[-1] for line in table(artefacts_in(ROOT), ROOT).splitlines()[2:]
    ]
    names = [command.removeprefix("reproduce-") for command in commands]
    assert sorted(names) == sorted(
        [*(path.stem for path in ROOT.glob("configs/artefact/*.yaml")), "table_i1", "table_i2", "table_i3"]
    )
    assert names[:8] == ["grokking", "figure1", "figure2", "figure3", "figure4", "figure5", "table1", "table2"]
    own = ["beyond_adam", "beyond_muon", "evaluate_at", "ip_trigger", "regime", "resnet50", "transfer", "weight_norms"]
    assert names[-10:] == ["amos22", "figure_k1", *own]


@pytest.mark.slow
def test_every_row_s_command_is_a_target_that_makes_the_row_s_results():
    for target in re.findall(r"`make (reproduce-\w+)`", table(artefacts_in(ROOT), ROOT)):
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
    ("outcomes", "said"),
    [
        (("ahead", "not resolved", "ahead"), "3 claims: 2 ahead, 1 not resolved"),
        (("behind", "ahead", "numbers only"), "3 claims: 1 ahead, 1 behind, 1 numbers only"),
        (("the same",), "1 claim: 1 the same"),
        (("within the limit", "beyond the limit"), "2 claims: 1 within the limit, 1 beyond the limit"),
        ((), "numbers only, of before version 0.5"),
    ],
)
def test_the_state_counts_the_outcomes(tmp_path, outcomes, said):
    write_results(tmp_path, "figure2", claims(*outcomes))
    assert state("figure2", tmp_path, FIGURE2) == f"[mini](results/mini/figure2/table.md): {said}"


def test_verdicts_of_an_older_version_are_not_counted(tmp_path):
    write_results(tmp_path, "figure2", [])
    path = tmp_path / "results" / "mini" / "figure2" / "claims.csv"
    path.write_text("claim,text,published,ours,verdict\na,b,c,d,holds\n")
    assert state("figure2", tmp_path, FIGURE2).endswith(": numbers only, of before version 0.5")


def test_the_state_tells_missing_runs_and_every_scale(tmp_path):
    assert state("figure2", tmp_path) == "not run yet"
    for scale, runs in (("mini", "6 of 6"), ("small", "40 of 48"), ("paper", "90 of 96 (6 diverged)")):
        write_results(tmp_path, "figure2", claims("ahead", "behind"), runs, scale)
    mini, small, paper = state("figure2", tmp_path).split("; ")
    assert mini.endswith("table.md): 2 claims: 1 ahead, 1 behind")
    assert small.endswith("40 of 48 runs, 2 claims: 1 ahead, 1 behind")
    assert paper == "[paper](results/paper/figure2/table.md): 90 of 96 runs, 6 diverged, 2 claims: 1 ahead, 1 behind"


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
    shutil.copytree(ROOT / "results" / "small" / "regime", tmp_path / "results" / "small" / "regime")
    picture, caption = figure(tmp_path).split("\n\n")
    assert (tmp_path / picture.split("](")[1].rstrip(")")).exists()
    assert "\n" not in caption
    assert all(word in caption for word in ("small scale", "seed", "thread", "times the initial size"))


def test_a_missing_mark_or_entry_is_said(tmp_path):
    with pytest.raises(UserError, match="make readme: figure"):
        rewritten("# A text without marks")
    (tmp_path / "configs" / "artefact").mkdir(parents=True)
    content = yaml.safe_load((ROOT / "configs" / "artefact" / "figure2.yaml").read_text())
    del content["readme"]
    (tmp_path / "configs" / "artefact" / "new.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=r"new\.yaml needs an entry readme:"):
        table(artefacts_in(tmp_path), tmp_path)
