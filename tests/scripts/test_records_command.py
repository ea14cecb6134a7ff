"""records.py commits runs, reproduce.py and report.py build from them, and whatever is committed is whole."""

import csv
import gzip
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT
from made_records import mini
from omegaconf import OmegaConf

from results.committed import path_of, read_records, write_records
from scripts import rebuild, report, reproduce
from scripts import records as command
from scripts.bench.made_records import metrics_of, write_run
from scripts.sweep import committed_runs
from scripts.sweep.artefacts import known_artefacts, load_artefact
from tasks.engine.errors import UserError
from tasks.engine.records import run_id, write_record

NAME = "figure5"  # three runs of GPT-2


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Return a folder with runs/ of an artefact, results/ from them, and these runs' committed records."""
    monkeypatch.setattr("os.fsync", lambda _: None)
    for cfg in mini(NAME).values():
        write_run(tmp_path / "runs", cfg, metrics_of(NAME))
    monkeypatch.setattr(committed_runs, "FOLDER", tmp_path / "results")
    reproduce.main([NAME, *places(tmp_path)])
    command.main([NAME, *places(tmp_path)])
    return tmp_path


def places(root: Path) -> list[str]:
    return [f"runs_dir={root / 'runs'}", f"results_dir={root / 'results'}"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_files_come_from_committed_records_without_runs(root, capsys):
    before = contents(root / "results" / "mini" / NAME)
    shutil.rmtree(root / "runs")
    capsys.readouterr()
    reproduce.main([NAME, "records=committed", f"results_dir={root / 'again'}"])
    assert contents(root / "again" / "mini" / NAME) == before
    said = capsys.readouterr().out
    assert f"{NAME}: 3 runs, 3 in the committed records\n" in said and "not in" not in said
    assert not (root / "runs").exists()


def test_neither_torch_nor_data_is_needed(root):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from scripts import reproduce\n"
        "from scripts.sweep import committed_runs\n"
        f"committed_runs.FOLDER = Path({str(root / 'results')!r})\n"
        f"reproduce.main(['{NAME}', 'records=committed', 'data_dir=/none', 'results_dir={root / 'again'}'])\n"
        "sys.exit('torch is imported' if 'torch' in sys.modules else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert contents(root / "again" / "mini" / NAME) == contents(root / "results" / "mini" / NAME)


def test_missing_runs_are_named_and_the_others_are_shown(root, capsys):
    path = path_of(root / "results", "mini", "gpt2")
    (first, *others), _ = read_records(root / "results", "mini", "gpt2"), path.unlink()
    write_records(others, root / "results")
    reproduce.main([NAME, "records=committed", f"results_dir={root / 'again'}"])
    assert f"{NAME}: not in {path}: {first.run_id}\n" in capsys.readouterr().out
    assert "- runs: 2 of 3\n" in (root / "again" / "mini" / NAME / "table.md").read_text()


def test_an_artefact_without_committed_runs_and_a_damaged_file_are_refused_before_anything_is_written(root):
    with pytest.raises(UserError, match=r"figure2: none of its \d+ runs is in .*cifar100\.jsonl\.gz; records=runs"):
        reproduce.main([NAME, "figure2", "records=committed", f"results_dir={root / 'again'}"])
    path_of(root / "results", "mini", "gpt2").write_bytes(b"spoilt")
    committed_runs._by_id.cache_clear()
    for main, arguments in (
        (reproduce.main, [NAME, "records=committed", f"results_dir={root / 'again'}"]),
        (command.main, [NAME, *places(root)]),
    ):
        with pytest.raises(UserError, match=r"gpt2\.jsonl\.gz is damaged"):
            main(arguments)
    assert not (root / "again").exists()


def test_a_dry_run_reports_what_is_missing_and_writes_nothing(root, capsys):
    path = path_of(root / "results", "mini", "gpt2")
    (first, *others), _ = read_records(root / "results", "mini", "gpt2"), path.unlink()
    write_records(others, root / "results")
    reproduce.main([NAME, "records=committed", f"results_dir={root / 'again'}", "--dry-run"])
    assert f"{NAME}: not in {path}: {first.run_id}\n" in capsys.readouterr().out
    assert not (root / "again").exists()


def test_records_both_trains_only_the_runs_that_are_not_committed(root, capsys, monkeypatch):
    configs = mini(NAME)
    before = contents(root / "results" / "mini" / NAME)
    committed = read_records(root / "results", "mini", "gpt2")
    missing = committed[1].run_id
    write_records_of(root, [run for run in committed if run.run_id != missing])
    shutil.rmtree(root / "runs")
    again = ["records=both", f"runs_dir={root / 'runs'}", f"results_dir={root / 'again'}"]
    capsys.readouterr()
    reproduce.main([NAME, *again, "--dry-run"])
    said = capsys.readouterr().out
    assert "3 runs, 1 would be trained, 2 not" in said and "1,3  skip: committed" in said

    trained = []

    def run_all(todo, *_):
        trained.extend(run_id(cfg) for cfg in todo)
        write_run(root / "runs", configs[missing], metrics_of(NAME))

    monkeypatch.setattr(reproduce, "run_all", run_all)
    monkeypatch.setattr(reproduce, "prepare", lambda *_: None)
    reproduce.main([NAME, *again])
    assert trained == [missing]
    assert contents(root / "again" / "mini" / NAME) == before


def test_a_committed_run_takes_the_place_of_one_that_failed_here(root, capsys):
    """The run has no result here, so records=both would show the artefact without it."""
    before = contents(root / "results" / "mini" / NAME)
    folder = min((root / "runs" / "gpt2").iterdir())
    record = json.loads((folder / "record.json").read_text())
    record |= {"status": "failed", "reason": "out of memory", "metrics": {}}
    write_record(folder, {key: value for key, value in record.items() if key not in ("checksum", "files")})
    arguments = [NAME, f"runs_dir={root / 'runs'}", f"results_dir={root / 'again'}"]
    reproduce.main(arguments)
    assert "- runs: 2 of 3\n" in (root / "again" / "mini" / NAME / "table.md").read_text()
    capsys.readouterr()
    reproduce.main([*arguments, "records=both"])
    assert f"{NAME}: 3 runs, 3 done, 0 to do\n" in capsys.readouterr().out
    assert contents(root / "again" / "mini" / NAME) == before


def write_records_of(root: Path, runs: list) -> None:
    path_of(root / "results", "mini", "gpt2").unlink()
    write_records(runs, root / "results")
    committed_runs._by_id.cache_clear()


def test_a_narrowed_sweep_has_its_part_of_the_committed_runs(root):
    reproduce.main([NAME, "records=committed", "seeds=2", f"results_dir={root / 'again'}"])
    assert "- seeds: 2\n" in (root / "again" / "mini" / NAME / "table.md").read_text()


def test_the_page_is_the_same_from_committed_records(root, monkeypatch):
    monkeypatch.setattr("scripts.report.known_artefacts", lambda: [NAME])
    page, pages = root / "results" / "index.html", []
    for arguments in (places(root), [*places(root / "nowhere")[:1], places(root)[1], "records=committed"]):
        report.main(arguments)
        pages.append(page.read_bytes())
        page.unlink()
    assert pages[0] == pages[1]
    assert b"from records" in pages[0] and b"3 of 3" in pages[0]


def test_one_command_rebuilds_every_file_and_the_page(root, monkeypatch, capsys):
    monkeypatch.setattr("scripts.report.known_artefacts", lambda: [NAME, "figure2"])
    monkeypatch.setattr("scripts.rebuild.known_artefacts", lambda: [NAME, "figure2"])
    report.main(places(root))
    before = contents(root / "results")
    shutil.rmtree(root / "results" / "mini" / NAME)
    (root / "results" / "index.html").unlink()
    rebuild.main(["scale=mini", f"results_dir={root / 'results'}"])
    assert contents(root / "results") == before
    assert capsys.readouterr().out.endswith("all runs are committed\n")


# --- records.py


def test_records_are_added_and_every_file_has_a_line(root, capsys):
    for cfg in list(mini("figure_g1").values())[:4]:
        write_run(root / "runs", cfg, metrics_of("figure_g1"), diverged=cfg.seed == 2)
    command.main(["figure_g1", NAME, *places(root)])
    known = {run.run_id for run in read_records(root / "results", "mini", "gpt2")}
    folders = {path.parent.name for path in root.glob("runs/gpt2/*/record.json")}
    assert known == folders
    said = capsys.readouterr().out.splitlines()[-1]
    new = len(folders) - 3
    assert f"{path_of(root / 'results', 'mini', 'gpt2')}: {len(folders)} runs ({new} new, 3 as committed), " in said


def test_a_disagreeing_run_is_said_with_exit_code_1_unless_it_replaces(root, capsys):
    for cfg in mini(NAME).values():
        folder = write_run(root / "runs", cfg, [*metrics_of(NAME), "another"])  # another draw
    with pytest.raises(SystemExit) as end:
        command.main([NAME, *places(root)])
    assert end.value.code == 1
    said = capsys.readouterr()
    assert f"{folder.name}: not bit for bit" in said.out + said.err
    before = read_records(root / "results", "mini", "gpt2")
    command.main([NAME, *places(root), "--replace"])
    after = read_records(root / "results", "mini", "gpt2")
    assert not {run.scores["perplexity"] for run in before} & {run.scores["perplexity"] for run in after}


def test_failed_and_damaged_runs_are_left_out_and_said(root, capsys):
    path_of(root / "results", "mini", "gpt2").unlink()
    failed, damaged, whole = sorted((root / "runs" / "gpt2").iterdir())
    record = json.loads((failed / "record.json").read_text())
    record |= {"status": "failed", "reason": "out of memory", "metrics": {}}
    write_record(failed, {key: value for key, value in record.items() if key not in ("checksum", "files")})
    (damaged / "metrics.jsonl").write_text("")
    before = contents(root / "runs")
    command.main([NAME, *places(root)])
    assert [run.run_id for run in read_records(root / "results", "mini", "gpt2")] == [whole.name]
    said = capsys.readouterr()
    assert f"failed without a result: {failed.name}" in said.out + said.err
    assert f"{damaged / 'metrics.jsonl'} is damaged" in said.out + said.err
    assert contents(root / "runs") == before


def test_nothing_to_commit_is_said(tmp_path):
    with pytest.raises(UserError, match=r"none of the 3 runs has ended in .*nothing/; set runs_dir="):
        command.main([NAME, f"runs_dir={tmp_path / 'nothing'}", f"results_dir={tmp_path}"])


# --- what is committed


def faults_of(path: Path) -> list[str]:
    """Return what is wrong with a file of records. Reading it checks every line's digest."""
    scale, task = path.parts[-3], path.name.removesuffix(".jsonl.gz")
    runs = read_records(path.parents[2], scale, task)
    ids = [json.loads(line)["run_id"] for line in gzip.decompress(path.read_bytes()).splitlines()]
    found = [] if ids == sorted(set(ids)) else ["the lines are not sorted by run id"]
    for run in runs:
        if not run_id(OmegaConf.create(dict(run.config))) == run.run_id == run.record["run_id"]:
            found.append(f"{run.run_id} is not the id of its configuration")
        if (run.config["scale"], run.task) != (scale, task) or run.status not in ("finished", "diverged"):
            found.append(f"{run.run_id} does not belong here")
    return found


def outdated(root: Path, scale: str, names: list[str], tmp: Path, monkeypatch) -> list[str]:
    """Return the committed tables that are not those of the committed records, where these are complete."""
    monkeypatch.setattr(committed_runs, "FOLDER", root)
    for module in ("artefact", "interpolation", "progress"):
        monkeypatch.setattr(f"results.{module}.draw", lambda *_: [])
    found = []
    for name in names:
        folder = root / scale / name
        if scale not in load_artefact(name).scales or not (folder / "table.csv").exists():
            continue
        (typed,) = re.findall(
            r"^- command: `python scripts/reproduce.py (.*)`$", (folder / "table.md").read_text(), re.M
        )
        request = reproduce.COMMAND.parse([*shlex.split(typed), "records=committed"])
        try:
            p = reproduce.committed_plan(load_artefact(name), request)
        except UserError:  # no run of this artefact is committed yet
            continue
        if len(p.runs) < len(p.configs):
            continue
        shutil.copytree(folder, tmp / scale / name)  # with the pictures, which records don't have
        if (replays := root / scale / "mechanism.csv").exists():
            shutil.copy(replays, tmp / scale)
        reproduce.write_results(p, p.runs, request, tmp / scale / name)
        written = contents(folder)
        found += [
            f"{scale}/{name}/{path}" for path, new in contents(tmp / scale / name).items() if written[path] != new
        ]
    return found


COMMITTED = sorted((ROOT / "results").glob("*/records/*.jsonl.gz"))


def test_every_committed_file_is_whole_and_every_record_is_valid():
    assert {str(path): faults_of(path) for path in COMMITTED} == {str(path): [] for path in COMMITTED}


def test_committed_tables_are_those_of_the_committed_records(tmp_path, monkeypatch):
    for scale in sorted({path.parts[-3] for path in COMMITTED}):
        assert outdated(ROOT / "results", scale, known_artefacts(), tmp_path, monkeypatch) == []


def test_these_checks_find_a_changed_record_and_a_changed_table(root, tmp_path, monkeypatch):
    results, path = root / "results", path_of(root / "results", "mini", "gpt2")
    assert faults_of(path) == []
    assert outdated(results, "mini", [NAME], tmp_path / "a", monkeypatch) == []
    table = results / "mini" / NAME / "table.csv"
    rows = list(csv.reader(table.read_text().splitlines()))
    assert len(rows) > 1
    table.write_text(table.read_text().replace(rows[1][3], rows[1][3] + "1", 1))
    assert outdated(results, "mini", [NAME], tmp_path / "b", monkeypatch) == [f"mini/{NAME}/table.csv"]

    runs = read_records(results, "mini", "gpt2")
    config = dict(runs[0].config) | {"num_steps": 501}
    path.unlink()
    write_records([type(runs[0])(config, dict(runs[0].record) | {"config": config}, (), ())], results)
    assert faults_of(path) == [f"{runs[0].run_id} is not the id of its configuration"]
