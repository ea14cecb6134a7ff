"""Tables as LaTeX: structure, alignment, captions and labels. With a TeX engine on PATH they are compiled, too."""

import re
import shutil
import subprocess

import pandas as pd
import pytest
from made_runs import EVALUATE_AT, FIGURE2, GROKKING, SEEDS, curve, evaluate_at_runs, grid, noisy

from results import write_artefact
from results.latex import PAGE, latex
from results.table import Table

RUNS = {
    "figure2": (FIGURE2, grid(noisy)),
    "grokking": (GROKKING, [curve(method, seed, 8 * seed) for method in GROKKING.methods for seed in SEEDS]),
    "evaluate_at": (EVALUATE_AT, evaluate_at_runs()),
}
every_artefact = pytest.mark.parametrize("name", RUNS)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """Return table.tex of each artefact."""
    found = {}
    for name, (definition, runs) in RUNS.items():
        folder = tmp_path_factory.mktemp(name)
        write_artefact(definition, "mini", runs, folder, expected=len(runs), seeds=3, command="a command")
        found[name] = (folder / "table.tex").read_text()
    return found


def one(rows: dict[str, list], **table) -> str:
    return latex([Table("A table", pd.DataFrame(rows), **table)], "name", "An artefact")


def environments(text: str) -> list[tuple[str, list[str]]]:
    """Return the alignment of each tabular or longtable, and its lines with cells."""
    found = re.findall(r"\\begin\{(tabular|longtable)\}\{((?:[^{}]|\{[^{}]*\})*)\}(.*?)\\end\{\1\}", text, re.DOTALL)
    return [
        (spec, [line for line in body.splitlines() if line.endswith(r"\\") and "&" in line]) for _, spec, body in found
    ]


def places(line: str) -> int:
    """Return how many columns a line fills."""
    spans = [int(number) - 1 for number in re.findall(r"\\multicolumn\{(\d)\}", line)]
    return len(re.findall(r"(?<!\\)&", line)) + 1 + sum(spans)


def columns_of(spec: str) -> int:
    return len(re.findall("[lcr]", re.sub(r"@\{.*?\}", "", spec)))


def check(text: str) -> None:
    assert text.isascii() and text.startswith("% Needs \\usepackage{booktabs}")
    body = text.partition("\n")[2]
    assert not re.search(r"(?<!\\)[%#]", body) and not re.search(r"(?<!\\)_", body)
    assert body.count("$") % 2 == 0
    unescaped = re.sub(r"\\[{}]", "", body)
    assert unescaped.count("{") == unescaped.count("}")
    opened, closed = (re.findall(rf"\\{word}\{{(\w+)\}}", body) for word in ("begin", "end"))
    assert sorted(opened) == sorted(closed)
    for spec, lines in environments(body):
        assert {places(line) for line in lines} == {columns_of(spec)}
    assert len(environments(body)) == body.count("\\label{tab:") == body.count("\\caption{") == body.count("\\toprule")


@every_artefact
def test_each_table_has_its_columns_a_caption_and_a_label_in_ascii(name, files):
    check(files[name])
    assert f"\\label{{tab:{name.replace('_', '-')}}}" in files[name]
    assert len(set(re.findall(r"\\label\{(.*?)\}", files[name]))) == files[name].count("\\label")


@every_artefact
def test_captions_name_the_data_the_scale_and_the_seeds_and_no_row_does(name, files):
    for caption in re.findall(r"\\caption\{(.*)\}", files[name]):
        assert "here on 40 images; 80 steps (mini scale, seeds 1, 2, 3)" in caption
    assert not re.search(r"\(\d+ seeds?\)", files[name])


def test_numbers_of_a_column_are_as_wide_as_each_other_on_both_sides_of_the_point():
    text = one({"method": list("abcd"), "score": ["9.5 ± 0.25", "10 ± 12.5", "100.25", "-"]})
    (_, (_, *lines)) = environments(text)[0]
    assert lines == [
        r"a & \phantom{10}9.5\phantom{5} $\pm$ \phantom{1}0.25 \\",
        r"b & \phantom{1}10\phantom{.25} $\pm$ 12.5\phantom{5} \\",
        r"c & 100.25\phantom{ $\pm$ 12.25} \\",
        r"d & - \\",
    ]

    def width(cell: str) -> int:
        """Count the characters that TeX sets, with digits of one width."""
        return len(re.sub(r"\\phantom\{(.*?)\}", r"\1", cell).replace(r"$\pm$", "+"))

    assert {width(line.split(" & ")[1].removesuffix(r" \\")) for line in lines[:3]} == {len("100.25 + 12.25")}


def test_a_sign_stands_at_its_number():
    (_, (_, *lines)) = environments(one({"n": list("abc"), "difference": ["+0.50", "-12.25", "3.00"]}))[0]
    assert lines == [r"a & \phantom{1}$+$0.50 \\", r"b & $-$12.25 \\", r"c & \phantom{1}\phantom{$-$}3.00 \\"]


@pytest.mark.parametrize(("better", "bold"), [("higher", ["3.00", "5.00"]), ("lower", ["1.00", "4.00"])])
def test_the_best_number_of_each_group_is_bold_and_none_with_diverged_runs(better, bold):
    scores = [
        "1.00 ± 0.10",
        "3.00 ± 0.10",
        "9.00 (2 seeds, 1 diverged)",
        "0.50 (1 diverged)",
        "5.00",
        "4.00",
        "diverged",
    ]
    text = one({"score": scores}, best={"score": better}, groups=list("aaaabbb"))
    assert sorted(re.findall(r"\\textbf\{(.*?)\}", text)) == bold
    assert "best value is in bold" in text
    assert "bold" not in one({"score": scores})


def test_a_note_stands_beside_its_number_unless_it_is_the_usual_number_of_seeds():
    text = one({"ours": ["1.00 (3 seeds)", "2.00 (3 seeds)", "3.00 (2 seeds, 1 missing)", "- (0 seeds, 3 diverged)"]})
    (spec, lines) = environments(text)[0]
    assert spec == r"c@{\ }l"
    assert lines == [
        r"1.00 &  \\", r"2.00 &  \\", r"3.00 & (2 seeds, 1 missing) \\", r"- & (0 seeds, 3 diverged) \\",
    ]  # fmt: skip


def test_special_characters_are_escaped_and_learning_rates_are_powers_of_ten():
    table = Table(
        "x",
        pd.DataFrame(
            {"wd_of 1 %": ["R&D #1 $x$ {y}", "lr 1e-2.5, 2x", "a ± b", "c^~\\ < κ"], "b": [None, "3", "", ""]}
        ),
    )
    text = latex([table], "a_name", "95 % of top_1")
    for said in (
        r"wd\_of 1 \%", r"R\&D \#1 \$x\$ \{y\} & - \\", r"lr $10^{-2.5}$, 2x & 3 \\", r"a $\pm$ b",
        r"c\textasciicircum{}\textasciitilde{}\textbackslash{} $<$ $\kappa$", r"\caption{95 \% of top\_1. x.", r"\label{tab:a-name}",
    ):  # fmt: skip
        assert said in text


def test_a_table_longer_than_a_page_is_a_longtable():
    rows = {"method": ["a"] * PAGE, "score": [f"{number}.0" for number in range(PAGE)]}
    assert "longtable}" not in one(rows)
    longer = one({name: [*values, values[0]] for name, values in rows.items()})
    check(longer)
    assert r"\begin{longtable}{lc}" in longer and r"\endhead" in longer and r"\begin{table}" not in longer


@pytest.mark.skipif(not any(map(shutil.which, ("pdflatex", "tectonic"))), reason="no TeX engine on PATH")
@every_artefact
def test_the_tables_compile(name, files, tmp_path):
    (tmp_path / "table.tex").write_text(files[name])
    head = r"\documentclass{article}\usepackage{booktabs,longtable}\begin{document}\input{table.tex}\end{document}"
    (tmp_path / "paper.tex").write_text(head)
    engine = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error"] if shutil.which("pdflatex") else ["tectonic"]
    done = subprocess.run([*engine, "paper.tex"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
