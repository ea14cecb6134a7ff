"""Make pages and parts of pages from files of the repository, so that nothing is written twice.

Every tasks/*/README.md and results/<scale>/*/table.md becomes a page. In a page's text, these lines
are replaced:

    {{ configs/task }}                a table of the folder's files, with the comment at their head
    {{ tasks }}, {{ results }}        tables of those pages
    {{ artefact keys }}               the keys of results/schema.py, a table for each of its models
    {{ resources }}, {{ resource keys }}  what each task needs at paper scale, and the keys that say so
    {{ sweep keys }}, {{ commands }}  what the commands of scripts/ declare to take

Such a page begins with NOTICE for readers of the source. The site leaves it out.
"""

import ast
import importlib
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from results.evidence.finding import read_findings
from results.table import pipe_table
from scripts.readme import outcomes

ROOT = Path(__file__).resolve().parents[2]
SCALES = ("mini", "small", "paper")
REPORT = "results/report.html"  # results/index.html is the page with the list of tables
LINKED = ("png", "svg", "csv", "tex", "json")  # files of a result that pages link to
NOTICE = "> This is the page's source, without its generated parts. `make docs` builds the page into `build/docs`.\n\n"
DIRECTIVE = re.compile(r"^\{\{ (.+?) \}\}$", re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages to the site's files. mkdocs calls this."""
    for task in task_folders():
        files.append(File.generated(config, f"tasks/{task.name}.md", content=(task / "README.md").read_text()))
    for scale, folder in result_folders():
        page = f"results/{scale}/{folder.name}"
        files.append(File.generated(config, f"{page}/index.md", content=result_page(folder)))
        for linked in (path for kind in LINKED for path in sorted(folder.rglob(f"*.{kind}"))):  # also overlays/
            files.append(File.generated(config, f"{page}/{linked.relative_to(folder)}", abs_src_path=str(linked)))
    files.append(File.generated(config, REPORT, abs_src_path=str(ROOT / "results" / "index.html")))
    return files


def on_config(config: Any) -> Any:
    """Add the generated pages to the navigation. mkdocs calls this."""
    for section in config.nav:
        for name, pages in section.items() if isinstance(section, dict) else ():
            if name == "Tasks":
                pages += [f"tasks/{task.name}.md" for task in task_folders()]
            if name == "Results":
                pages += [
                    {short_title(folder): f"results/{scale}/{folder.name}/index.md"}
                    for scale, folder in result_folders()
                ]
    return config


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace the directives in a page's text, and remove its notice. mkdocs calls this."""
    return DIRECTIVE.sub(lambda found: part(found[1]), markdown.replace(NOTICE, ""))


def part(name: str) -> str:
    """Return the replacement of {{ name }}. Raises ValueError for an unknown name."""
    if name == "tasks":
        rows = [(f"[{task.name}]({task.name}.md)", first_sentence(task / "README.md")) for task in task_folders()]
        return pipe_table(("task", "what"), rows)
    if name == "results":
        return pipe_table(
            ("artefact", "scale", "runs or rounds", "claims"),
            [row_of(scale, folder) for scale, folder in result_folders()],
        )
    if name == "artefact keys":
        return artefact_keys()
    if name == "resources":
        return resources()
    if name == "resource keys":
        from tasks.engine.resources import Resources

        return keys_of(Resources)
    if name == "sweep keys":
        from scripts.cli.parser import SWEEP_KEYS

        return pipe_table(ARGUMENT, [row_of_key(key) for key in SWEEP_KEYS])
    if name == "commands":
        return commands()
    if (ROOT / name).is_dir():
        return pipe_table(
            ("file", "what"), [(f"`{path.stem}`", head_comment(path)) for path in sorted((ROOT / name).glob("*.yaml"))]
        )
    raise ValueError(f"{{{{ {name} }}}} is unknown")


def artefact_keys() -> str:
    """Return a heading and a table of keys for every model of results/schema.py."""
    from results import schema

    models = [one for one in vars(schema).values() if isinstance(one, type) and issubclass(one, schema.BaseModel)]
    parts = []
    for model in sorted(models, key=lambda one: one is not schema.Artefact):
        if model.__module__ != schema.__name__ or not model.model_fields:
            continue
        about = " ".join((model.__doc__ or "").split())
        parts.append(f"## {model.__name__}\n\n{about}\n\n{keys_of(model)}")
    return "\n\n".join(parts)


def keys_of(model: Any) -> str:
    """Return a table of a pydantic model's keys."""
    rows = [
        (
            f"`{key}`",
            f"`{type_of(field.annotation)}`",
            "" if field.is_required() or field.default is None else f"`{field.default}`",
            field.description or "",
        )
        for key, field in model.model_fields.items()
    ]
    return pipe_table(("key", "type", "default", "what"), rows)


def resources() -> str:
    """Return a table of what a run of each task needs at paper scale."""
    from scripts.cli.common import compose_config
    from scripts.sweep.cards import needed_gigabytes, resources_of, run_seconds, unit_price

    rows = []
    for path in sorted((ROOT / "configs" / "scale" / "paper").glob("*.yaml")):
        cfg = compose_config([f"task={path.stem}", "scale=paper", "regularizer=adamw"])
        needs, price, seconds = resources_of(cfg), unit_price(cfg), run_seconds(cfg)
        assert needs is not None and price is not None and seconds is not None
        micro_batch = str(needs.micro_batch or -(-cfg.task.batch_size // cfg.gpus))
        size = f"{needs.trained:,.1f}" + (f" of {needs.trained + needs.frozen:,.0f}" if needs.frozen else "")
        numbers = (
            f"{needed_gigabytes(cfg):.0f}",
            f"{seconds / 3600:.2g}" if seconds < 36000 else f"{seconds / 3600:.0f}",
        )
        rows.append((f"`{path.stem}`", size, str(cfg.gpus), micro_batch, *numbers, price.source))
    columns = ("task", "million parameters trained", "GPUs", "examples a pass", "GB", "hours", "source of the hours")
    return pipe_table(columns, rows)


def type_of(annotation: Any) -> str:
    """Return a type in short words, without module names."""
    if annotation is None or annotation is type(None):
        return "null"
    inner = typing.get_args(annotation)
    match typing.get_origin(annotation):
        case typing.Literal:
            return " or ".join(inner)
        case typing.Annotated:
            is_claim = any(type(one).__name__ == "Discriminator" for one in inner)
            return "claim" if is_claim else type_of(inner[0])
        case typing.Union | types.UnionType:
            return " or ".join(dict.fromkeys(map(type_of, inner)))
        case None:
            return str(annotation.__name__)
        case origin:
            return f"{origin.__name__}[{', '.join(map(type_of, inner))}]"


ARGUMENT = ("argument", "meaning", "default")


def command_files() -> list[Path]:
    """The commands in scripts/ and scripts/bench/."""
    paths = [*sorted(ROOT.glob("scripts/*.py")), *sorted(ROOT.glob("scripts/bench/*.py"))]
    return [path for path in paths if '__name__ == "__main__"' in path.read_text()]


def commands() -> str:
    """A table of the commands, then a heading and a table of arguments for each that declares some."""
    rows, parts = [], []
    for path in command_files():
        script = path.relative_to(ROOT)
        first = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()[0]
        rows.append((f"`{script}`", plain(first.split(":")[0])))
        command = getattr(importlib.import_module(".".join(script.with_suffix("").parts)), "COMMAND", None)
        if command is not None and (found := arguments_of(command)):
            parts.append(f"### {script.name}\n\n{pipe_table(ARGUMENT, found)}")
    return "\n\n".join([pipe_table(("command", "what it does"), rows), *parts])


def arguments_of(command: Any) -> list[tuple[str, str, str]]:
    """Rows for what a command takes. The keys of a sweep and of train.py are one row each."""
    from scripts.cli.parser import SWEEP_KEYS

    names, sweep = command.names, [key for key in SWEEP_KEYS if key in command.keys]
    rows = [(f"`{names.metavar}`", names.about, "")] if names else []
    rows += [row_of_key(key) for key in command.keys if len(sweep) < len(SWEEP_KEYS) or key not in sweep]
    rows += [(f"`--{flag}`", about, "") for flag, about in command.flags.items()]
    if len(sweep) == len(SWEEP_KEYS):
        rows.append(("`key=value`", "[a key of a sweep](#keys-of-a-sweep)", ""))
    elif command.train_keys:
        rows.append(("`key=value`", "[a key of `train.py`](#keys-of-trainpy)", ""))
    return rows


def row_of_key(key: Any) -> tuple[str, str, str]:
    default = f"`{key.default}`" if key.default is not None else plain(key.without)
    return (
        " ".join([f"`{key.name}=`", " ".join(f"`{choice}`" for choice in key.choices)]).rstrip(),
        plain(key.about),
        default,
    )


def plain(text: str) -> str:
    """Text that holds no HTML."""
    return text.replace("<", "&lt;")


def task_folders() -> list[Path]:
    return sorted(path.parent for path in ROOT.glob("tasks/*/README.md"))


def result_folders() -> Iterator[tuple[str, Path]]:
    for scale in SCALES:
        for path in sorted(ROOT.glob(f"results/{scale}/*/table.md")):
            yield scale, path.parent


def first_sentence(readme: Path) -> str:
    paragraph = readme.read_text().split("\n\n")[1]
    return re.split(r"(?<=[.:;])\s", " ".join(paragraph.split()))[0].rstrip(".:;")


def head_comment(path: Path) -> str:
    first = next(line for line in path.read_text().splitlines() if line.startswith("# ") and not line.startswith("# @"))
    return re.split(r"(?<=\.) ", first[2:])[0].rstrip(".")


def title_of(folder: Path) -> str:
    return (folder / "table.md").read_text().splitlines()[0].removeprefix("# ")


def short_title(folder: Path) -> str:
    return title_of(folder).split(":")[0]


def result_page(folder: Path) -> str:
    """Return the text of a result's table.md."""
    return (folder / "table.md").read_text()


def row_of(scale: str, folder: Path) -> tuple[str, ...]:
    runs = re.search(r"^- (?:runs|rounds): (.*)$", (folder / "table.md").read_text(), re.MULTILINE)
    claims = outcomes(read_findings(folder / "claims.csv"))
    return f"[{title_of(folder)}]({scale}/{folder.name}/index.md)", scale, runs[1] if runs else "", claims
