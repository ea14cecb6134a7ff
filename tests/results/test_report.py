"""The report page from made-up records has the right contents and needs no other file."""

import json
import re
import statistics
from html import unescape
from html.parser import HTMLParser
from itertools import chain

import pytest
from commands import ROOT, call_forked, is_one_line
from made_records import mini, write_artefact_runs
from made_runs import FIGURE2, artefact, changed, grid, noisy, out_of_memory, run

from results import write_artefact
from results.evidence.direction import findings
from results.evidence.played import play
from results.order import place
from results.report import planned_section, section, write_report
from results.report.packing import unpacked
from results.report.page import render
from results.report.run_data import POINTS, run_data
from results.report.sections import COMMITTED, NOT_RUN, OLDER, RECORDS
from scripts import compare, report, show
from scripts.bench.made_records import STEPS, write_run
from scripts.sweep import artefacts
from scripts.sweep.artefacts import known_artefacts
from tasks.engine.errors import UserError


def figure2_section(folder, runs=None, **changes):
    return section(
        changed(FIGURE2, **changes), "mini", grid(noisy) if runs is None else runs, folder, expected=72, seeds=3
    )


class Resources(HTMLParser):
    """Collect what a browser would fetch for a page."""

    def __init__(self, html):
        super().__init__()
        self.found = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if (name in ("src", "srcset", "data", "poster", "action") or (name == "href" and tag != "a")) and not (
                value or ""
            ).startswith("data:"):
                self.found.append((tag, value))


def words(html):
    return unescape(
        re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"<(script|style).*?</\1>", " ", html, flags=re.DOTALL)))
    )


def content(html, name):
    return unpacked(re.search(rf'<script type="text/plain" id="{name}">(.*?)</script>', html, re.DOTALL)[1])


def test_the_page_says_every_claim_with_its_finding_and_the_command(tmp_path):
    made = figure2_section(tmp_path)
    said = words(render([made], tmp_path))
    for finding in findings(play(FIGURE2, grid(noisy)), complete=True):
        assert finding.said
        assert all(text in said for text in (finding.text, finding.published, finding.said, finding.outcome))
    assert made.state == RECORDS and "make reproduce-figure2" in said and "a processor" in said
    assert made.remarks == ()
    at_paper_scale = section(FIGURE2, "paper", [], tmp_path, expected=273, seeds=3)
    assert "make reproduce-figure2 SCALE=paper" in render([at_paper_scale], tmp_path)
    assert "make reproduce-figure2 SCALE=paper" not in render([at_paper_scale, made], tmp_path)


def test_the_page_stands_alone_is_small_and_comes_out_the_same(tmp_path):
    first, second = (
        write_report([figure2_section(tmp_path / "figure2")], tmp_path / name) for name in ("a.html", "b.html")
    )
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size < 3e6
    assert Resources(first.read_text()).found == []
    assert (
        "@import" not in first.read_text().partition("</style>")[0]
        and "url(" not in first.read_text().partition("</style>")[0]
    )


def test_the_colours_of_a_side_are_centred_on_the_best_cell_of_its_baseline(tmp_path):
    """Figure 2's claims name AdamW on their right side, so its best cell is white."""
    traces = [
        figure["data"][0] for figure in content(render([figure2_section(tmp_path)], tmp_path), "figures").values()
    ]
    assert len(traces) == 6  # three methods, ours and published
    for side in ("ours", "published"):
        own = [trace for trace in traces if side in trace["hovertext"][0][0].partition("<br>")[0]]
        assert len({trace["zmax"] for trace in own}) == 1 and all(trace["zmin"] == -trace["zmax"] for trace in own)
        cells = [
            (z, float(text), trace["hovertext"][0][0].startswith("<b>AdamW</b>"))
            for trace in own
            for z, text in zip(chain(*trace["z"]), chain(*trace["text"]), strict=True)
            if z is not None
        ]
        white = max(value for _, value, of_adamw in cells if of_adamw)
        assert all(z == pytest.approx(value - white, abs=0.11) for z, value, _ in cells)  # the texts have one digit


def luminance(colour):
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colours", [0, 1], ids=["light", "dark"])
def test_the_numbers_of_a_heat_map_are_readable_on_every_cell(colours):
    """The accessibility guidelines (WCAG 2.2, AA) require a contrast of 4.5."""
    block = re.findall(r":root.*?\{(.*?)\}", (ROOT / "results/report/style.css").read_text(), re.DOTALL)[colours]
    values = dict(re.findall(r"--(\w+): (#\w{6})", block))
    for cell in ("worse", "same", "better"):
        low, high = sorted(luminance(values[name]) for name in ("ink", cell))
        assert (high + 0.05) / (low + 0.05) >= 4.5, cell


def test_a_run_s_data_are_those_of_its_record(tmp_path):
    folder = write_run(tmp_path, next(iter(mini("figure_c2").values())), ["perplexity"])
    made = report.run_on_record(folder)
    about, log = run_data([made, made])[folder.name], made.dynamics[1:]
    assert about["metrics"]["perplexity"] == pytest.approx(made.record["metrics"]["perplexity"], rel=1e-4)
    assert about["config"]["regularizer.kappa_update"] == made.config["regularizer"]["kappa_update"]
    assert about["dynamics"]["steps"] == list(STEPS)
    for quantity, over in (("R", statistics.median), ("kappa", statistics.median), ("lambda", max)):
        values = [[value for value in row[quantity] if value is not None] for row in log]  # κ is None before it is set
        expected = [over(own) if own else None for own in values]
        assert about["dynamics"][quantity] == [one if one is None else pytest.approx(one, rel=1e-4) for one in expected]


def test_a_long_log_is_thinned_to_its_ends_and_steps_between(tmp_path):
    rows = [{"step": step, "R": [1.0], "kappa": [None], "lambda": [0.0]} for step in range(1000)]
    long = run("adamcpr_ip", 1, {"top1_accuracy": 1.0})
    long = type(long)(long.config, long.record, (), ({"matrices": ["a"]}, *rows))
    kept = run_data([long])[long.run_id]["dynamics"]
    assert len(kept["steps"]) == POINTS and (kept["steps"][0], kept["steps"][-1]) == (0, 999)
    assert kept["kappa"] == [None] * POINTS


def test_missing_runs_leave_the_published_numbers_and_no_findings(tmp_path):
    made = figure2_section(tmp_path, [])
    said = words(render([made], tmp_path))
    assert made.state == NOT_RUN and {finding.outcome for finding in made.findings} == {"runs missing"}
    assert "0 of 72" in said and "make reproduce-figure2" in said
    texts = [text for panel in made.panels for row in panel.figure.data[0].text for text in row]
    assert "76.6" in texts
    some = figure2_section(tmp_path, grid(noisy)[:5])
    assert some.state == NOT_RUN and "67 of 72 runs are missing" in some.remarks[0]
    assert {finding.outcome for finding in some.findings} == {"runs missing"}


def test_without_all_records_the_committed_files_speak(tmp_path):
    runs = grid(noisy)
    write_artefact(FIGURE2, "mini", runs, tmp_path, expected=72, seeds=3, command="a command")
    with_records, without = figure2_section(tmp_path, runs), figure2_section(tmp_path, runs[:5])
    assert (with_records.state, without.state) == (RECORDS, COMMITTED)
    assert with_records.remarks == () and without.runs == ()
    assert [vars(finding) for finding in without.findings] == [
        pytest.approx(vars(finding), nan_ok=True) for finding in with_records.findings
    ]
    assert dict(without.facts) == dict(with_records.facts)
    for ours, theirs in zip(with_records.panels, without.panels, strict=True):
        assert (ours.figure.data[0].text, ours.figure.data[0].z) == (
            theirs.figure.data[0].text,
            theirs.figure.data[0].z,
        )
    assert "5 of its 72 runs have a record here" in without.remarks[-1]


def test_a_committed_file_of_before_findings_has_none_and_the_section_says_so(tmp_path):
    write_artefact(FIGURE2, "mini", grid(noisy), tmp_path, expected=72, seeds=3, command="a command")
    assert figure2_section(tmp_path, []).findings and OLDER not in figure2_section(tmp_path, []).remarks
    (tmp_path / "claims.csv").write_text(
        'claim,text,published,ours,verdict\ncifar-ws,a > b,-,"1 against 2, p = 0.031",does not hold\n'
    )
    made = figure2_section(tmp_path, [])
    assert made.state == COMMITTED and made.findings == [] and OLDER in made.remarks
    said = words(render([made], tmp_path))
    assert OLDER in said and "1 against 2" not in said and "does not hold" not in said


def test_the_page_has_the_tables_beside_the_claims_and_tells_what_is_not_chosen_by_halves(tmp_path):
    made = figure2_section(tmp_path)
    assert (
        list(made.tables) == ["Best cells", "Sensitivity", "What tuning buys", "Every cell"]
        and "tuning budget" in made.facts
    )
    assert "writes no scores on halves" in made.note


def test_what_a_reader_must_know_of_the_runs_is_said(tmp_path):
    runs = grid(
        lambda name, lr, setting, seed: None if (setting, seed) == ("4x", 2) else noisy(name, lr, setting, seed)
    )
    for one in runs[:9]:
        one.record["git_commit"] = "0ld"
    write_artefact(FIGURE2, "mini", grid(noisy), tmp_path, expected=72, seeds=3, command="a command")
    remarks = " ".join(figure2_section(tmp_path, runs).remarks)
    assert "2 states" in remarks and "9 of 0ld" in remarks and "63 of abc" in remarks
    assert remarks.count("adamcpr_ws-2-") == 3 and "Diverged" in remarks
    assert "committed table.csv holds other numbers" in remarks


def test_a_run_that_failed_for_another_reason_than_its_loss_is_missing_and_named(tmp_path):
    first, *others = grid(noisy)
    lost = out_of_memory(first)
    made = figure2_section(tmp_path, [lost, *others])
    assert made.state == NOT_RUN and {finding.outcome for finding in made.findings} == {"runs missing"}
    assert lost not in made.runs and f"{lost.record['run_id']} (out of memory" in " ".join(made.remarks)


def test_text_of_a_configuration_cannot_become_markup(tmp_path):
    evil = "</script><img src=x onerror=alert(1)>"
    runs = [run("adamw", 1, {"top1_accuracy": 80.0}, weight_decay=0, evil=evil)]
    html = render([figure2_section(tmp_path, runs, title=f"Figure 2: {evil}", notes={"mini": evil})], tmp_path)
    assert "<img" not in html.partition("<script>")[0]
    assert Resources(html).found == [] and evil in json.dumps(content(html, "run-data"))


def test_sections_stand_in_the_paper_s_order():
    names = ["figure_e1", "grokking", "table_c1", "figure10", "table1", "figure_c2", "figure2"]
    assert sorted(names, key=place) == [
        "figure2",
        "figure10",
        "table1",
        "table_c1",
        "figure_c2",
        "figure_e1",
        "grokking",
    ]


def test_an_artefact_that_has_no_command_yet_shows_the_paper_s_numbers(tmp_path):
    said = render([planned_section("table_j1")], tmp_path)
    assert "this command does not exist yet" in said and "84.23" in "".join(content(said, "tables").values())


# ---- The command line


@pytest.fixture
def grokking(tmp_path, monkeypatch):
    """Write records of grokking's runs. The page has only grokking and one more artefact, which is faster."""
    for module in (report, artefacts):
        monkeypatch.setattr(module, "known_artefacts", lambda: ["figure5", "grokking"])
    monkeypatch.setattr("os.fsync", lambda _: None)
    monkeypatch.setattr("scripts.sweep.committed_runs.FOLDER", tmp_path / "results")
    return tmp_path / "runs", tmp_path / "results", write_artefact_runs(tmp_path / "runs", "grokking")


def page_of(runs_dir, results_dir):
    report.run_on_record.cache_clear()
    report.scales_of_runs.cache_clear()
    report.main([f"runs_dir={runs_dir}", f"results_dir={results_dir}"])
    return (results_dir / "index.html").read_text()


def test_report_takes_the_runs_of_the_artefact_and_no_others(grokking, capsys):
    runs_dir, results_dir, folders = grokking
    other = [cfg.copy() for cfg in list(mini("grokking").values())[:3]]
    other[0].scale, other[1].num_steps, other[2].seed = "paper", 7, 99
    strangers = [write_run(runs_dir, cfg, ["validation_accuracy", "train_accuracy"]) for cfg in other]
    html = page_of(runs_dir, results_dir)
    assert set(content(html, "run-data")) == {folder.name for folder in folders}
    assert not any(folder.name in html for folder in strangers)
    assert all(f'id="{name}"' in html for name in ("figure5", "grokking", "table_i2", "table_j1"))
    assert "1 from records" in capsys.readouterr().out


def test_a_damaged_record_is_left_out_said_and_left_alone(grokking, capsys):
    runs_dir, results_dir, folders = grokking
    path = folders[0] / "record.json"
    path.write_text(path.read_text().replace('"num_steps": ', '"num_steps": 1'))
    before = {p: p.read_bytes() for p in runs_dir.rglob("*") if p.is_file()}
    html = page_of(runs_dir, results_dir)
    assert "damaged" in capsys.readouterr().err
    assert folders[0].name not in html and f"1 of {len(folders)} runs are missing" in words(html)
    assert {p: p.read_bytes() for p in runs_dir.rglob("*") if p.is_file()} == before


def test_a_page_of_more_than_three_megabytes_is_warned_of(grokking, capsys, monkeypatch):
    runs_dir, results_dir, _ = grokking
    page_of(runs_dir, results_dir)
    assert capsys.readouterr().err == "" and report.MOST == 3e6
    monkeypatch.setattr(report, "MOST", 1_000_000)
    page_of(runs_dir, results_dir)
    (line,) = capsys.readouterr().err.splitlines()
    assert "more than the 1 MB" in line and "index.html" in line


def test_report_refuses_what_would_change_the_artefacts():
    with pytest.raises(UserError, match="scale= is gone: the page has every scale"):
        report.main(["scale=mini"])
    with pytest.raises(UserError, match="seeds is unknown; choose one of runs_dir, results_dir"):
        report.main(["seeds=1"])
    with pytest.raises(UserError, match=r"figure2 is unknown; scripts/report\.py takes keys alone"):
        report.main(["figure2"])


@pytest.mark.parametrize("name", known_artefacts())
def test_every_artefact_can_be_missing(name, tmp_path):
    scale = "paper" if "paper" in artefact(name).scales else next(iter(artefact(name).scales))
    made = section(artefact(name), scale, [], tmp_path, expected=3, seeds=1)
    assert made.state == NOT_RUN and made.command == f"make reproduce-{name}" + f" SCALE={scale}" * (scale != "mini")
    assert len(made.findings) == sum(scale in (claim.scales or [scale]) for claim in artefact(name).claims)


# ---- In a terminal


def test_show_says_what_a_run_is_and_draws_it(grokking, capsys):
    runs_dir, _, folders = grokking
    folder = next(f for f in folders if f.name.startswith("adamcpr"))
    score = json.loads((folder / "record.json").read_text())["metrics"]["validation_accuracy"]
    show.main([folder.name[:-4], f"runs_dir={runs_dir}", "matrix=2.mlp"])
    said = capsys.readouterr().out
    assert all(
        text in said
        for text in (folder.name, "finished", f"{score:.5g}", "abc1234", "R and κ of blocks.2.mlp.0.weight", "┌")
    )


def test_compare_says_how_runs_differ(grokking, capsys):
    runs_dir, _, folders = grokking
    first, second = folders[0], next(folder for folder in folders if folder.name.startswith("adamcpr"))
    compare.main([str(first), str(second), f"runs_dir={runs_dir}"])
    lines = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.strip()}
    names = [
        json.loads((folder / "record.json").read_text())["config"]["regularizer"]["name"] for folder in (first, second)
    ]
    assert lines["regularizer.name"] == names == ["adamw", "adamcpr_ki0"] and lines["state"] == ["finished", "finished"]
    assert "seed" not in lines and "lr" not in lines


@pytest.mark.parametrize(("script", "names"), [("show.py", ("nothing",)), ("compare.py", ("nothing", "at-all"))])
def test_a_run_that_is_not_there_is_one_line(script, names, tmp_path):
    done = call_forked(script, *names, f"runs_dir={tmp_path}")
    assert done.returncode == 2
    is_one_line(done, "nothing", str(tmp_path))
