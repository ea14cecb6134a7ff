"""What AdamCPR's step may cost: the limits that this suite sets itself, and the paper's measured overhead."""

from collections.abc import Mapping
from statistics import median
from typing import Any

from results.verdicts import Verdict

REFERENCE = "AdamW, fused"
MODELS = {"gpt2s": "GPT2s", "gpt2m": "GPT2m", "gpt2l": "GPT2l", "gpt2xl": "GPT2xl"}


def judge_times(table: str, record: Mapping[str, Any], published: Mapping[str, float]) -> list[Verdict]:
    """A verdict for each limit; "not measured" where a method or shape is missing. Ratios are medians over rounds of one run.

    published: model -> AdamCPR's time per training step in the paper, as a multiple of AdamW's.
    """
    shapes = record["shapes"]
    verdicts = []
    if table == "table_i2":
        verdicts += [_ratio("step-gpt2s", "GPT2s, optimizer step: AdamCPR", _step(shapes, "gpt2s"), 1.03)]
        verdicts += [_faster(_step(shapes, "gpt2s")), _memory(_step(shapes, "gpt2s"))]
        for name, title in (("resnet18", "ResNet18"), ("toy", "1,000 matrices of 32 x 32")):
            verdicts.append(_ratio(f"step-{name}", f"{title}, optimizer step: AdamCPR", _step(shapes, name), 1.15))
        verdicts.append(_ratio("training-gpt2s", "GPT2s, training step: AdamCPR", _training(shapes, "gpt2s"), 1.01))
    for name, theirs in published.items():
        what = f"{MODELS[name]}, training step: AdamCPR"
        verdicts.append(_ratio(f"runtime-{name}", what, _training(shapes, name), 1.065, f"{theirs:.3f}"))
    return verdicts


Methods = dict[str, Any]


def _step(shapes: Mapping[str, Any], name: str) -> Methods:
    return shapes.get(name, {}).get("optimizer_step", {}).get("methods", {})


def _training(shapes: Mapping[str, Any], name: str) -> Methods:
    return shapes.get(name, {}).get("training_step", {}).get("methods", {})


def _adamcpr(methods: Methods) -> Any:
    """AdamCPR by its fastest kernel."""
    return next((method for method in methods.values() if method["row"] == "adamcpr"), None)


def _median_ratio(a: Any, b: Any) -> float:
    return median(x / y for x, y in zip(a["seconds"], b["seconds"], strict=True))


def _ratio(claim: str, what: str, methods: Methods, limit: float, published: str = "-") -> Verdict:
    found, text = _adamcpr(methods), f"{what} <= {limit:g} x torch's fused AdamW"
    if found is None or REFERENCE not in methods:
        return Verdict(claim, text, published, "", "not measured")
    ratio = _median_ratio(found, methods[REFERENCE])
    return Verdict(claim, text, published, f"{ratio:.3f}", _verdict(ratio <= limit))


def _faster(methods: Methods) -> Verdict:
    found, other = _adamcpr(methods), methods.get("pytorch-cpr")
    text = "GPT2s, optimizer step: AdamCPR >= 4 times faster than pytorch-cpr"
    if found is None or other is None:
        return Verdict("pytorch-cpr", text, "-", "", "not measured")
    ratio = _median_ratio(other, found)
    return Verdict("pytorch-cpr", text, "-", f"{ratio:.1f} times", _verdict(ratio >= 4))


def _memory(methods: Methods) -> Verdict:
    found, text = _adamcpr(methods), "GPT2s, optimizer step: AdamCPR's extra peak memory <= 1 MB"
    if found is None or found["extra_peak_bytes"] is None:
        return Verdict("memory", text, "-", "", "not measured")
    return Verdict("memory", text, "-", f"{found['extra_peak_bytes'] / 1e6:.1f} MB", _verdict(found["extra_peak_bytes"] <= 1e6))


def _verdict(kept: bool) -> str:
    return "holds" if kept else "does not hold"
