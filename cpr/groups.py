"""Which parameters are regularized: all matrices except biases, normalization weights, tokens, positions and scales.

The paper regularizes "all parameters except biases and normalization weights"; the public package goes by the names of a few
module types and so regularizes RMSNorm, class tokens and position embeddings, and leaves out a ViT's patch projection because
its name contains "embed". Here a parameter is regularized if and only if
  - it has at least two dimensions (this leaves out every bias and norm, LayerScale and any 0-dim logit scale), and
  - it does not belong to a normalization layer, whatever its shape, and
  - the last part of its name does not say bias, token, class or position embedding, or scale, and
  - neither the parameter (`_no_weight_decay = True`) nor timm's `model.no_weight_decay()` exempts it, and
  - it is not an nn.Embedding's weight, or tied to one, unless `reg_embedding` is set.
"""

import re
from typing import Any

from torch import nn

# Matched against the last two parts of the name, so that GPT-2's "wpe.weight" and BERT's "position_embeddings.weight" count.
EXEMPT_NAME = re.compile(
    r"(^|\.)([^.]*bias[^.]*|[^.]*_token|(cls|register|mask|query)_tokens|[^.]*logit_scale|class_embedding|wpe|embed_positions|pos_?emb[^.]*"
    r"|[^.]*pos(ition(al)?)?_(emb|enc)[^.]*)(\.weight)?$"
)


def regularized_names(model: nn.Module, reg_embedding: bool = False) -> list[str]:
    """Names of the regularized parameters, in the model's order; a tied parameter is named once."""
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag) for p in m.parameters(recurse=False)}
    norms = {id(p) for m in model.modules() if "norm" in type(m).__name__.lower() for p in m.parameters(recurse=False)}
    timm_exempt = set(model.no_weight_decay()) if hasattr(model, "no_weight_decay") else set()  # type: ignore[operator]
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        and parameter.ndim >= 2
        and id(parameter) not in norms
        and not EXEMPT_NAME.search(name)
        and name not in timm_exempt
        and not getattr(parameter, "_no_weight_decay", False)
        and (reg_embedding or id(parameter) not in embeddings)
    ]


def regularized_groups(model: nn.Module, reg_embedding: bool = False) -> list[dict[str, Any]]:
    """Two parameter groups of all trainable parameters, with `regularize` True and False.

    Raises ValueError if the model has no matrix to regularize.
    """
    chosen = set(regularized_names(model, reg_embedding))
    if not chosen:
        raise ValueError(f"{type(model).__name__} has no matrix to regularize; pass parameter groups with regularize=True instead")
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in trainable if name in chosen], "regularize": True},
        {"params": [p for name, p in trainable if name not in chosen], "regularize": False},
    ]
    return [group for group in groups if group["params"]]
