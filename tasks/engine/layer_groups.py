"""Sort a model's matrices into layer groups, and summarize R, κ and λ of each group.

The rule is the same for every task. The first pattern that a parameter's name contains decides.
Without one, the kind of its module does: conv or embedding. Everything else is "other".
"""

import re
from collections.abc import Mapping, Sequence
from statistics import median

from torch import nn
from torch.nn.modules.conv import _ConvNd

PATTERNS = {
    "attention": re.compile(r"attn|attention|[qkv]_proj|\b(query|key|value|qkv)\b"),
    "mlp": re.compile(r"mlp|ffn|feed_forward"),
    "head": re.compile(r"unembed|\b(head|lm_head|fc|classifier)\b"),
    "embedding": re.compile(r"embed|\b(wte|wpe|cls_token)\b"),
}
KINDS = {"conv": _ConvNd, "embedding": nn.Embedding}
MEDIANS, LARGEST = ("R", "kappa", "lambda"), ("R", "R_over_kappa", "lambda")


def group_of(name: str, module: nn.Module) -> str:
    """Return the layer group of a parameter.

    Args:
        name: its full name, such as blocks.0.attention.qkv.weight.
        module: the module that holds it.
    """
    for group, pattern in PATTERNS.items():
        if pattern.search(name.lower()):
            return group
    return next((group for group, kind in KINDS.items() if isinstance(module, kind)), "other")


def layer_groups(model: nn.Module, names: Sequence[str]) -> dict[str, list[int]]:
    """Return the places in `names` of each layer group's parameters."""
    found: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        module = model.get_submodule(name.rpartition(".")[0])
        found.setdefault(group_of(name, module), []).append(place)
    return found


def summary(sizes: Mapping[str, Sequence[float | None]], groups: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Return a few numbers per layer group: "R/attention" is a median, "R/attention_max" the largest.

    Values that are unset, such as κ before its warm start has ended, are left out.

    Args:
        sizes: R, and with CPR kappa and lambda, of each matrix in the order of `names`.
        groups: as `layer_groups` returns them.
    """
    every = dict(sizes)
    if "kappa" in sizes:
        pairs = zip(sizes["R"], sizes["kappa"], strict=True)
        every["R_over_kappa"] = [R / kappa if R is not None and kappa else None for R, kappa in pairs]
    found = {}
    for group, places in groups.items():
        for name, values in every.items():
            known = [value for place in places if (value := values[place]) is not None]
            if known and name in MEDIANS:
                found[f"{name}/{group}"] = median(known)
            if known and name in LARGEST:
                found[f"{name}/{group}_max"] = max(known)
    return found
