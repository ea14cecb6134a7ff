"""Run other benchmarks before and after fine-tuning, with lm-evaluation-harness (Figure K.1).

The harness downloads its data sets by itself.
"""

from collections.abc import Sequence
from typing import Any

from torch import nn

from tasks.engine.errors import UserError

_DIGITS = [f"{digits}d{kind}" for digits in (2, 3, 4, 5) for kind in "as"]
# The paper's name -> the harness's tasks, which are averaged. The paper does not say which of
# TruthfulQA's scores it reports.
BENCHMARKS = {
    "arithmetic": [f"arithmetic_{task}" for task in ("1dc", "2dm", *_DIGITS)],
    "mmlu": ["mmlu"],
    "piqa": ["piqa"],
    "truthfulqa": ["truthfulqa_mc2"],
}


def check(benchmarks: Sequence[str], tokenizer: Any) -> None:
    """Raise UserError if a benchmark is unknown, or the harness or its tokenizer is missing."""
    if not benchmarks:
        return
    if unknown := sorted(set(benchmarks) - set(BENCHMARKS)):
        raise UserError(f"task.harness: {unknown[0]!r} is unknown; choose from {', '.join(BENCHMARKS)}")
    if tokenizer is None:
        raise UserError("task.harness needs a pretrained model; use scale=paper, or task.harness=[]")
    _import_harness()


def accuracies(model: nn.Module, tokenizer: Any, benchmarks: Sequence[str], batch_size: int) -> dict[str, float]:
    """Return benchmark -> accuracy in percent, or raise UserError if the harness is missing."""
    harness, wrap = _import_harness()
    wrapped = wrap(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    names = [name for benchmark in benchmarks for name in BENCHMARKS[benchmark]]
    results = harness.simple_evaluate(model=wrapped, tasks=names, log_samples=False, bootstrap_iters=0)["results"]
    scores = {benchmark: [results[name]["acc,none"] for name in BENCHMARKS[benchmark]] for benchmark in benchmarks}
    return {benchmark: 100 * sum(values) / len(values) for benchmark, values in scores.items()}


def _import_harness() -> tuple[Any, Any]:
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise UserError("task.harness needs the package lm_eval; install it with: pip install 'lm_eval[hf]'") from error
    return lm_eval, HFLM
