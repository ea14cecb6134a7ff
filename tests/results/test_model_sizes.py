"""Table I.1: the parameters of the paper's GPT-2 models."""

import csv

import pandas as pd
import pytest

from results.evidence.finding import DIFFERENT, SAME
from results.model_sizes import as_printed, judge_sizes
from results.report import model_sizes_section
from results.report.sections import COMMITTED, NOT_RUN
from scripts.cli.parser import ROOT
from scripts.model_sizes import main
from tasks.engine.errors import UserError

FOLDER = ROOT / "results/mini/table_i1"


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_committed_table_is_that_of_today_s_models_at_both_scales(tmp_path, capsys):
    for scale in ("mini", "paper"):
        main([f"scale={scale}", f"results_dir={tmp_path}"])
        for name in ("table.md", "table.csv", "table.tex", "claims.csv"):
            assert (tmp_path / scale / "table_i1" / name).read_bytes() == (FOLDER / name).read_bytes(), (
                "run: make reproduce-table_i1"
            )
    assert "number of parameters: the same" in capsys.readouterr().out


def test_parameters_and_bounded_ones_are_those_of_a_decoder_counted_by_hand():
    for row in read(FOLDER / "table.csv"):
        width, layers = int(row["width"]), int(row["layers"])
        matrices = width * 3 * width + width * width + 2 * width * 4 * width  # q, k and v, then output, then MLP
        biases = 3 * width + width + 4 * width + width
        normalization = 2 * width
        assert int(row["bounded"]) == layers * matrices
        others = layers * (matrices + biases + 2 * normalization) + normalization
        assert int(row["parameters"]) == int(row["embedding"]) + others
        assert int(row["embedding"]) >= 50257 * width
        assert f"{int(row['parameters']):,}" in (FOLDER / "table.md").read_text()
        assert f"{int(row['parameters']):,}" in (FOLDER / "table.tex").read_text()


@pytest.mark.parametrize(
    ("parameters", "printed"), [(123_658_752, "124M"), (772_728_320, "773M"), (1_187_094_400, "1.19B")]
)
def test_counts_are_compared_in_the_paper_s_digits(parameters, printed):
    assert as_printed(parameters) == printed


@pytest.mark.parametrize(("column", "change"), [("layers", 1), ("heads", 1), ("parameters", 2_000_000)])
def test_a_model_of_another_size_is_different(column, change):
    data = pd.read_csv(FOLDER / "table.csv")
    assert judge_sizes(data).outcome == SAME
    data.loc[1, column] += change
    assert judge_sizes(data).outcome == DIFFERENT


def test_its_section_of_the_page_has_bars_and_a_finding_or_says_that_it_was_not_made(tmp_path):
    made = model_sizes_section("mini", FOLDER)
    assert made.state == COMMITTED
    assert [one.outcome for one in made.findings] == [SAME]
    (panel,) = made.panels
    sums = [sum(trace.x[0] for trace in panel.figure.data), sum(trace.x[3] for trace in panel.figure.data)]
    assert sums == pytest.approx([123.658752, 1187.0944])
    empty = model_sizes_section("paper", tmp_path)
    assert (empty.state, list(empty.findings)) == (NOT_RUN, [])
    assert (made.command, empty.command) == ("make reproduce-table_i1", "make reproduce-table_i1 SCALE=paper")


@pytest.mark.parametrize("argument", ["scale=big", "seeds=1", "lr=1", "gpt2"])
def test_what_it_does_not_take_is_refused_and_writes_nothing(tmp_path, argument):
    with pytest.raises(UserError):
        main([argument, f"results_dir={tmp_path}"])
    assert not list(tmp_path.iterdir())
