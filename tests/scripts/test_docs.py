"""The documentation (`make docs`) builds without warnings, needs no network, and its examples work.

The tests are skipped without the extra docs: `make setup EXTRAS=docs`.
"""

import html
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from commands import ROOT, records, write_fashion_mnist
from hydra import compose, initialize_config_dir
from made_records import metrics_of, mini, write_run
from PIL import Image

from results import Run
from results.committed import write_records
from scripts.cli.overrides import as_hydra_takes_them
from tasks.engine.records import read_record

pytest.importorskip("mkdocs", reason="the extra docs is not installed: make setup EXTRAS=docs")
from mkdocs.config import load_config
from mkdocs.structure.files import Files

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
SHOWN = [*PAGES, ROOT / "README.md", *sorted(ROOT.glob("tasks/*/README.md"))]  # the READMEs are part of the site
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]*)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^(?:[A-Z_]+=\S+ )*(?:(?:make|python|torchrun|srun) \S|scripts/\S).*$")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """Return (title, content) of a page's fenced blocks."""
    return [(found[2] or "", found[3]) for found in BLOCK.finditer(page.read_text()) if found[1] == language]


def commands(page: Path) -> list[str]:
    """Return the commands in bash blocks, in indented lines and in inline code."""
    text = page.read_text()
    lines = [line for _, block in blocks(page, "bash") for line in block.splitlines()]
    lines += [line[4:] for line in text.splitlines() if line.startswith("    ")]
    lines += re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    plain = [
        re.sub(r"\s+[#(].*$| {3,}.*$", "", line) for line in lines
    ]  # without a comment, or a second command beside it
    return [line for line in plain if COMMAND.match(line) and "<" not in line and "$" not in line]


COMMANDS = sorted({(name(page), command) for page in SHOWN for command in commands(page)})


# --- the site


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    arguments = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        arguments, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


class Requests(HTMLParser):
    """Collect what a browser fetches when it shows a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        urls = [given.get("src"), given.get("data"), given.get("srcset"), given.get("href") if tag == "link" else None]
        self.found += [url for url in urls if url]
        self.found += re.findall(r"url\(([^)]*)\)", given.get("style") or "")


def test_no_page_asks_anything_of_the_internet(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        requests = Requests()
        requests.feed(page.read_text())
        assert requests.found
        assert not [url for url in requests.found if re.match(r"\w+:|//", url) and not url.startswith("data:")], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:|//)", sheet.read_text()), sheet


def test_every_formula_is_drawn_and_every_part_filled_in(site):
    text = (site / "explanation" / "cpr.html").read_text()
    heights = [float(height) for height in re.findall(r'<svg class="math"[^>]*;height:([\d.]+)em', text)]
    assert len(heights) > 40 and max(heights) < 5  # in em. A bracket that stretches too far can be 60 em high
    for page in site.rglob("*.html"):
        content = page.read_text()
        assert "arithmatex" not in content and "{{" not in content and "page's source" not in html.unescape(content), (
            page
        )


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_with_generated_parts_says_in_its_source_where_to_read_it(page):
    text = page.read_text()
    generated = re.search(r"^(?:\{\{ .+ \}\}$|::: |--8<-- )", text, re.MULTILINE)
    assert text.count("> This is the page's source, without its generated parts. `make docs`") == bool(generated)


def test_every_task_and_every_committed_result_has_a_page(site):
    for readme in ROOT.glob("tasks/*/README.md"):
        assert (site / "tasks" / f"{readme.parent.name}.html").exists()
    tables = list(ROOT.glob("results/mini/*/table.md"))
    assert tables
    for table in tables:
        page = site / "results/mini" / table.parent.name / "index.html"
        cells = re.findall(r"^\| ([^|]+?) +\|", table.read_text(), re.MULTILINE)
        assert cells[-1].strip("*`") in html.unescape(page.read_text())
        assert (page.parent / "figure.png").read_bytes() == (table.parent / "figure.png").read_bytes()


def test_a_result_s_page_has_the_files_that_it_links_also_those_in_folders(tmp_path, monkeypatch):
    config = load_config(config_file=str(ROOT / "mkdocs.yml"))
    monkeypatch.setattr(config.hooks["docs/_hooks/generated.py"], "ROOT", tmp_path)
    folder = tmp_path / "results" / "mini" / "table_j1"
    (folder / "overlays").mkdir(parents=True)
    (folder / "table.md").write_text(
        "# Dice\n\n![figure](figure.png)\n\n![a block](overlays/block.png)\n\n[folds.csv](folds.csv)\n"
    )
    for path in ("figure.png", "overlays/block.png", "folds.csv"):
        (folder / path).write_bytes(path.encode())
    files = config.plugins.on_files(Files([]), config=config)
    page = (folder / "table.md").read_text()
    for path in re.findall(r"\]\((.*?)\)", page):
        assert files.get_file_from_path(f"results/mini/table_j1/{path}").content_bytes == path.encode()


@pytest.mark.parametrize("public", ["AdamCPR", "CPR", "regularized_groups", "regularized_names"])
def test_the_reference_has_every_public_name(site, public):
    assert public in importlib.import_module("cpr").__all__
    assert f'id="cpr.{public}"' in (site / "reference" / "cpr.html").read_text()


def test_the_reference_has_the_table_of_what_cpr_has_been_tested_around(site):
    text = html.unescape((site / "reference" / "cpr.html").read_text())
    table = (DOCS / "reference" / "cpr.md").read_text().split("## What CPR has been tested around")[1].split("\n#")[0]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if line.startswith("| ")][2:]
    assert "Lion" in rows and len(rows) >= 6
    assert all(f"<td>{row}</td>" in text for row in rows)


# --- its examples


@pytest.mark.parametrize("page", [DOCS / "tutorial.md", DOCS / "explanation" / "cpr.md"], ids=name)
def test_python_of_a_page_runs_from_its_first_block_to_its_last(page, capsys):
    source = "\n".join(block for _, block in blocks(page, "python"))
    names: dict = {}
    exec(compile(source, name(page), "exec"), names)
    assert capsys.readouterr().out


def test_committed_records_load_as_the_how_to_says(tmp_path, monkeypatch, capsys):
    folders = [write_run(tmp_path, cfg, metrics_of("figure5")) for cfg in mini("figure5").values()]
    runs = [Run.read(folder, read_record(folder)) for folder in folders]
    write_records(runs, tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    ((_, block),) = blocks(DOCS / "how-to" / "records.md", "python")
    names: dict = {}
    exec(block, names)
    said = capsys.readouterr().out
    assert all(run.run_id in said for run in runs)
    assert names["table"]["metrics.perplexity"].tolist() == [
        run.scores["perplexity"] for run in sorted(runs, key=lambda run: run.run_id)
    ]
    first = min(runs, key=lambda run: run.run_id)
    assert names["sizes"].to_numpy().tolist() == [row["R"] for row in first.dynamics[1:]]
    assert names["sizes"].columns.tolist() == first.dynamics[0]["matrices"]


def test_the_tutorial_s_bounds_hold():
    names: dict = {}
    exec(blocks(DOCS / "tutorial.md", "python")[0][1], names)
    for weight in (names["model"][0].weight, names["model"][3].weight):
        state = names["optimizer"].state[weight]
        assert state["kappa_set"] and weight.square().mean() <= 1.1 * state["kappa"]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_file_that_a_page_names_is_there(page):
    written = {title for other in PAGES for language in ("python", "yaml") for title, _ in blocks(other, language)}
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    named = re.findall(r"`((?:configs|cpr|results|scripts|tasks|tests|docs)/[\w./-]*)`", text)
    made = ("results/mini/spirals/",)  # by a command of the page
    assert not [path for path in named if path not in (*written, *made) and not (ROOT / path).exists()]


@pytest.fixture(scope="session")
def copy(tmp_path_factory):
    """Return a copy of the repository with the files and lines of the how-to pages."""
    folder = tmp_path_factory.mktemp("copy")
    for part in ("cpr", "tasks", "scripts", "configs", "results"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.png", "*.svg"))
    for page in PAGES:
        for title, block in [found for language in ("python", "yaml") for found in blocks(page, language)]:
            if place := re.fullmatch(r"(\S+), (in|before) (.*)", title):
                path = place[1]
                lines = (folder / path).read_text().splitlines(keepends=True)
                (at,) = (number for number, line in enumerate(lines) if line.strip().startswith(f"{place[3]}:"))
                at += place[2] == "in"
                (folder / path).write_text("".join([*lines[:at], block, *lines[at:]]))
            elif title and "--8<--" not in block:
                (folder / title).parent.mkdir(parents=True, exist_ok=True)
                assert not (folder / title).exists(), title
                (folder / title).write_text(block)
    return folder


def run(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, script, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return done


def composes(copy: Path, overrides: list[str]) -> None:
    with initialize_config_dir(str(copy / "configs"), version_base="1.3"):
        compose("config", as_hydra_takes_them(overrides))


def check_script(copy: Path, script: str, arguments: list[str]) -> None:
    """Fail unless the script, its names and its keys exist."""
    assert (copy / script).exists() or (ROOT / script).exists(), script
    if arguments[-2:-1] == [">"]:  # what it prints goes to a file
        arguments = arguments[:-2]
    if arguments[-3:] == ["--cfg", "job", "--resolve"]:  # Hydra's own flags print the configuration and train nothing
        arguments = arguments[:-3]
    if not arguments or arguments[-1] == "--help":  # a name for the command, or a question
        return
    if script == "scripts/train.py":
        assert [argument for argument in arguments if "=" not in argument] in ([], ["-m"])
        keys = [argument for argument in arguments if "=" in argument]
        composes(copy, [key if "=[" in key else key.split(",")[0] for key in keys])
        return
    if not (ROOT / script).exists():  # a file that a page tells one to write
        return
    command = importlib.import_module(script.removesuffix(".py").replace("/", ".")).COMMAND
    request = command.parse(arguments)
    names = request.names
    if script == "scripts/prepare_data.py":
        assert (copy / "configs/task" / f"{names[0]}.yaml").exists(), names[0]
        sources = "".join(
            path.read_text() for path in ROOT.glob("tasks/**/*.py")
        )  # imported, they bring all of open_clip
        assert not [data_set for data_set in names[1:] if f'"{data_set}"' not in sources]
    elif command.refused:  # it takes the keys of a sweep
        for artefact in names:
            file = copy / "configs/artefact" / f"{artefact}.yaml"
            assert file.exists(), artefact
            of_task = re.findall(r"^task: (\w+)$", file.read_text(), re.MULTILINE)
            keys = [f"{key}={value}" for key, value in request.overrides.items()]
            composes(copy, [*(f"task={task}" for task in of_task), *keys] if "task" not in request.overrides else keys)


def check_make(copy: Path, arguments: list[str]) -> None:
    """Fail unless the Makefile has the targets and reads the variables."""
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    of_bench = re.findall(r"^BENCH_OPTIONS := (.*)$", makefile, re.MULTILINE)[0].split()
    variables = {*re.findall(r"\$\(?(?:if \$\()?([A-Z_]+)\b", makefile), *of_bench}
    for argument in arguments:
        key, is_variable, value = argument.partition("=")
        if is_variable:
            assert key in variables, argument
            if key == "LAUNCHER":
                composes(copy, [f"launcher={value}"])
            if key == "ARGS" and arguments[0].startswith("reproduce-") and not value.startswith("--"):
                composes(copy, ["launcher=slurm", *shlex.split(value)])
        elif argument.startswith("reproduce-"):
            own = re.findall(r"^reproduce-table_i\d(?: reproduce-table_i\d)*(?=:)", makefile, re.MULTILINE)
            tables = re.findall(r"reproduce-(table_i\d)", " ".join(own))
            known = {path.stem for path in (copy / "configs/artefact").glob("*.yaml")} | {"all", *tables}
            assert argument.removeprefix("reproduce-") in known, argument
        else:
            assert argument in targets, argument


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=lambda value: value)
def test_every_command_names_what_there_is(copy, page, command):
    words = shlex.split(command)
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    if words[0] == "make":
        check_make(copy, words[1:])
    elif words[0].startswith("scripts/"):
        assert (ROOT / words[0]).exists()
    else:  # python, or a launcher such as torchrun
        if words[1] == "-m":
            words[1:3] = [f"{words[2].replace('.', '/')}.py"]
        (at,) = (number for number, word in enumerate(words) if word.endswith(".py"))
        check_script(copy, words[at], words[at + 1 :])


# --- files of the how-to pages


@pytest.mark.slow
def test_the_optimizers_of_the_how_to_train(copy, tmp_path):
    page = DOCS / "how-to" / "optimizer.md"
    tried = [command for command in commands(page) if command.startswith("python scripts/train.py")]
    said = [run(copy, *shlex.split(command)[1:], f"runs_dir={tmp_path}").stdout for command in tried]
    ((_, shown),) = blocks(page, "text")
    first, wanted = (re.sub(r"\d\S*", "", text.partition(";")[0]) for text in (said[0], shown))
    assert first == wanted
    assert {record["config"]["regularizer"]["name"] for record in records(tmp_path).values()} == {"radam", "radam_cpr"}
    assert all(record["status"] == "finished" for record in records(tmp_path).values())
    run(
        copy,
        "scripts/train.py",
        "task=grokking",
        "regularizer=radam",
        "num_steps=20",
        "regularizer.decoupled=false",
        f"runs_dir={tmp_path}",
    )
    both = [
        record["metrics"] for record in records(tmp_path).values() if record["config"]["regularizer"]["name"] == "radam"
    ]
    assert len(both) == 2 and both[0] != both[1]  # its own argument is read


@pytest.mark.slow
def test_the_task_of_the_how_to_learns_and_its_heat_map_is_written(copy, tmp_path):
    run(
        copy,
        "scripts/train.py",
        "task=spirals",
        "regularizer=adamw",
        "regularizer.weight_decay=0.01",
        f"runs_dir={tmp_path}",
    )
    (record,) = records(tmp_path).values()
    assert record["metrics"]["accuracy"] > 90
    arguments = ("spirals", f"runs_dir={tmp_path}", "seeds=1", "num_steps=2", "jobs=1")
    assert "12 would be trained" in run(copy, "scripts/reproduce.py", *arguments, "--dry-run").stdout
    run(copy, "scripts/reproduce.py", *arguments)
    assert (tmp_path / "results/mini/spirals/figure.png").stat().st_size > 20_000


def test_the_text_of_the_how_to_is_cut_and_trained_on(copy, tmp_path):
    if not (ROOT / "data" / "gpt2_bpe").is_dir():
        pytest.skip("GPT-2's vocabulary is not in data/: python scripts/prepare_data.py gpt2 Shakespeare2k")
    (tmp_path / "gpt2_bpe").symlink_to((ROOT / "data" / "gpt2_bpe").resolve())
    code = f"import sys; sys.path[:0] = ['.']; import my_text, pathlib; my_text.main(pathlib.Path({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", code], cwd=copy, check=True, capture_output=True)
    places = (f"data_dir={tmp_path}", f"runs_dir={tmp_path / 'runs'}")
    run(copy, "scripts/train.py", "task=gpt2", "scale=mini", "task.data.name=MyText", "num_steps=2", *places)


@pytest.mark.slow
def test_the_images_of_the_how_to_are_read(copy, tmp_path):
    (command,) = [
        command
        for command in commands(DOCS / "how-to" / "data.md")
        if "task=imagenet" in command and "-m" not in command
    ]
    for number in range(72):
        folder = tmp_path / "imagenet" / ("train" if number < 64 else "val") / ("cat" if number % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (number % 2 * 200, 50, 50)).save(folder / f"{number}.jpg")
    arguments = [argument for argument in shlex.split(command)[2:] if not argument.startswith("data_dir=")]
    run(copy, "scripts/train.py", *arguments, f"data_dir={tmp_path}", f"runs_dir={tmp_path / 'runs'}", "num_steps=2")


@pytest.mark.slow
def test_the_tutorial_s_sweep_writes_its_figure(tmp_path):
    (command,) = [command for command in commands(DOCS / "tutorial.md") if command.endswith("num_steps=100")]
    data = write_fashion_mnist(tmp_path / "data", train=1000)
    places = (f"data_dir={data}", f"runs_dir={tmp_path / 'runs'}")
    arguments = [argument for argument in shlex.split(command)[2:] if not argument.startswith("num_steps=")]
    assert (
        "16 would be trained"
        in run(ROOT, "scripts/reproduce.py", *arguments, "num_steps=100", *places, "--dry-run").stdout
    )
    run(ROOT, "scripts/reproduce.py", *arguments, "num_steps=2", "lr=1e-2", *places)
    written = tmp_path / "runs/results/mini/figure2"
    assert "runs: 8 of 8" in (written / "table.md").read_text()
    assert (written / "figure.png").stat().st_size > 20_000
