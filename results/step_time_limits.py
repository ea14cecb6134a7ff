"""Limits on the cost of AdamCPR's step: the suite's own, and the paper's measured overhead."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from results.differences import Median, median_of
from results.evidence.finding import BEYOND, NOT_MEASURED, NOT_RESOLVED, WITHIN, Finding

REFERENCE = "AdamW, fused"
MODELS = {"gpt2s": "GPT2s", "gpt2m": "GPT2m", "gpt2l": "GPT2l", "gpt2xl": "GPT2xl"}


def judge_times(table: str, record: Mapping[str, Any], published: Mapping[str, float]) -> list[Finding]:
    """Return a finding on each limit. It is "not measured" if a method or shape is missing.

    A ratio is the median over the rounds of one run, with its 95 % bootstrap interval
    (results.differences). It is within or beyond a limit if the whole interval is. The claim is
    not resolved if the limit lies in the interval, or if there are too few rounds for one.

    Args:
        published: model -> AdamCPR's time per training step in the paper, as a multiple of AdamW's.
    """
    shapes = record["shapes"]
    findings = []
    if table == "table_i2":
        findings += [_ratio("step-gpt2s", "GPT2s, optimizer step: AdamCPR", _step(shapes, "gpt2s"), 1.03)]
        findings += [_faster(_step(shapes, "gpt2s")), _memory(_step(shapes, "gpt2s"))]
        for name, title in (("resnet18", "ResNet18"), ("toy", "1,000 matrices of 32 x 32")):
            findings.append(_ratio(f"step-{name}", f"{title}, optimizer step: AdamCPR", _step(shapes, name), 1.15))
        findings.append(_ratio("training-gpt2s", "GPT2s, training step: AdamCPR", _training(shapes, "gpt2s"), 1.01))
    for name, theirs in published.items():
        what = f"{MODELS[name]}, training step: AdamCPR"
        findings.append(_ratio(f"runtime-{name}", what, _training(shapes, name), 1.065, f"{theirs:.3f}"))
    return findings


Methods = dict[str, Any]


def _step(shapes: Mapping[str, Any], name: str) -> Methods:
    return shapes.get(name, {}).get("optimizer_step", {}).get("methods", {})


def _training(shapes: Mapping[str, Any], name: str) -> Methods:
    return shapes.get(name, {}).get("training_step", {}).get("methods", {})


def _adamcpr(methods: Methods) -> Any:
    """Return AdamCPR with its fastest kernel."""
    return next((method for method in methods.values() if method["row"] == "adamcpr"), None)


def _median_ratio(a: Any, b: Any) -> Median:
    return median_of(pd.Series([x / y for x, y in zip(a["seconds"], b["seconds"], strict=True)]))


def _ratio(claim: str, what: str, methods: Methods, limit: float, published: str = "-") -> Finding:
    found, text = _adamcpr(methods), f"{what} <= {limit:g} x torch's fused AdamW"
    if found is None or REFERENCE not in methods:
        return Finding(claim, text, published, NOT_MEASURED)
    return _judged(claim, text, published, _median_ratio(found, methods[REFERENCE]), 3, below=limit)


def _faster(methods: Methods) -> Finding:
    found, other = _adamcpr(methods), methods.get("pytorch-cpr")
    text = "GPT2s, optimizer step: AdamCPR >= 4 times faster than pytorch-cpr"
    if found is None or other is None:
        return Finding("pytorch-cpr", text, "-", NOT_MEASURED)
    return _judged("pytorch-cpr", text, "-", _median_ratio(other, found), 1, above=4)


def _judged(
    claim: str, text: str, published: str, ratio: Median, digits: int, below: float = float("inf"), above: float = 0
) -> Finding:
    """Judge whether the ratio is in [above, below]."""
    said, outcome = f"{ratio.value:.{digits}f}", NOT_RESOLVED
    if ratio.low is not None and ratio.high is not None:
        said += f" [{ratio.low:.{digits}f}, {ratio.high:.{digits}f}]"
        if above <= ratio.low and ratio.high <= below:
            outcome = WITHIN
        elif ratio.high < above or ratio.low > below:
            outcome = BEYOND
    return Finding(claim, text, published, outcome, said, low=ratio.low, high=ratio.high, pairs=ratio.pairs)


def _memory(methods: Methods) -> Finding:
    found, text = _adamcpr(methods), "GPT2s, optimizer step: AdamCPR's extra peak memory <= 1 MB"
    if found is None or found["extra_peak_bytes"] is None:
        return Finding("memory", text, "-", NOT_MEASURED)
    outcome = WITHIN if found["extra_peak_bytes"] <= 1e6 else BEYOND
    return Finding("memory", text, "-", outcome, f"{found['extra_peak_bytes'] / 1e6:.1f} MB")
