"""Run other benchmarks before and after fine-tuning, with lm-evaluation-harness (Figure K.1).

`prepare_data.py lora Benchmarks` keeps their data sets in `<root>/lora/benchmarks`, so no run needs a network.
"""

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import nn

from tasks.engine import verified
from tasks.engine.errors import UserError, one_line
from tasks.engine.files import DISK_FULL, disk_full_is_said
from tasks.engine.seeding import drawing_from

_DIGITS = [f"{digits}d{kind}" for digits in (2, 3, 4, 5) for kind in "as"]
# The paper's name -> the harness's tasks, which are averaged. The paper does not say which of
# TruthfulQA's scores it reports.
BENCHMARKS = {
    "arithmetic": [f"arithmetic_{task}" for task in ("1dc", "2dm", *_DIGITS)],
    "mmlu": ["mmlu"],
    "piqa": ["piqa"],
    "truthfulqa": ["truthfulqa_mc2"],
}
DATA_SET = "Benchmarks"  # a name of prepare_data.py


def fetch(root: Path, say: Callable[[str], None]) -> None:
    """Download the benchmarks' data sets (200 MB) if missing, and record their checksums.

    Raises:
        UserError: the harness is missing or a data set can't be downloaded.
    """
    _import_harness()
    folder = folder_of(root)
    if (folder / verified.KNOWN).exists():
        digest(root)
        return
    say(f"{DATA_SET}: 200 MB for lm-evaluation-harness {metadata.version('lm_eval')}, kept in {folder}")
    with disk_full_is_said(folder), _data_sets(folder, download=True):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            _load(BENCHMARKS)
        # Errors of the harness and the libraries below it have no class in common.
        except Exception as error:
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise
            reason = one_line(error.__cause__ or error)  # type: ignore[arg-type]
            raise UserError(f"{DATA_SET} cannot be downloaded ({reason}); run the same command on a network") from error
        files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
        verified.remember(folder, files)  # last, so that data sets that have it are complete


def check(benchmarks: Sequence[str], tokenizer: Any, root: Path) -> None:
    """Load the benchmarks, before hours of training.

    Raises:
        UserError: a benchmark is unknown, or the harness, its data or its tokenizer is missing.
    """
    if not benchmarks:
        return
    if unknown := sorted(set(benchmarks) - set(BENCHMARKS)):
        raise UserError(f"task.harness: {unknown[0]!r} is unknown; choose from {', '.join(BENCHMARKS)}")
    if tokenizer is None:
        raise UserError("task.harness needs a pretrained model; use scale=paper, or task.harness=[]")
    _import_harness()
    with _data_sets(folder_of(root), download=False):
        _load(benchmarks)


def digest(root: Path) -> str:
    """Return a digest of the benchmarks' data sets. Raise UserError if they are missing or damaged."""
    found = verified.verify_remembered(folder_of(root), None, fix(root))
    if found is None:
        raise UserError(f"the data sets of task.harness are not in {folder_of(root)}; {fix(root)}")
    return found


def accuracies(
    model: nn.Module, tokenizer: Any, benchmarks: Sequence[str], batch_size: int, root: Path
) -> dict[str, float]:
    """Return benchmark -> accuracy in percent. Leave the global random generators alone.

    Raises:
        UserError: the harness or a data set is missing.
    """
    harness, wrap = _import_harness()
    names = [name for benchmark in benchmarks for name in BENCHMARKS[benchmark]]
    # Its seed for torch would also seed the GPUs.
    options: dict[str, Any] = {"log_samples": False, "bootstrap_iters": 0, "torch_random_seed": None}
    with _data_sets(folder_of(root), download=False), drawing_from(0):
        wrapped = wrap(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        results = harness.simple_evaluate(model=wrapped, tasks=names, **options)["results"]
    scores = {benchmark: [results[name]["acc,none"] for name in BENCHMARKS[benchmark]] for benchmark in benchmarks}
    return {benchmark: 100 * sum(values) / len(values) for benchmark, values in scores.items()}


def folder_of(root: Path) -> Path:
    return root / "lora" / "benchmarks"


def fix(root: Path) -> str:
    return f"prepare them on a network with: python scripts/prepare_data.py lora {DATA_SET} data_dir={root}"


def _load(benchmarks: Sequence[str] | dict[str, list[str]]) -> None:
    from lm_eval.tasks import TaskManager

    TaskManager().load([name for benchmark in benchmarks for name in BENCHMARKS[benchmark]])


@contextlib.contextmanager
def _data_sets(folder: Path, download: bool) -> Iterator[None]:
    """Let the harness's calls of `datasets.load_dataset` read from `folder`, and download what is missing if allowed."""
    import datasets

    from_hub = datasets.load_dataset

    def load_dataset(path: str, name: str | None = None, **options: Any) -> Any:
        about = json.dumps([path, name, options], sort_keys=True, default=str)
        words = re.sub(r"\W+", "-", f"{path} {name or ''}").strip("-")
        kept = folder / f"{words}-{hashlib.sha256(about.encode()).hexdigest()[:8]}"
        if not kept.exists():
            if not download:
                raise UserError(f"task.harness: {path} is not in {folder}; {fix(folder.parents[1])}")
            part = kept.with_name(f".{kept.name}.tmp")
            shutil.rmtree(part, ignore_errors=True)
            from_hub(path, name, **options).save_to_disk(str(part))
            part.rename(kept)
        return datasets.load_from_disk(str(kept))

    datasets.load_dataset = load_dataset
    try:
        yield
    finally:
        datasets.load_dataset = from_hub


def _import_harness() -> tuple[Any, Any]:
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise UserError(
            "task.harness needs the package lm_eval; install it with: pip install '.[language,harness]'"
        ) from error
    return lm_eval, HFLM
