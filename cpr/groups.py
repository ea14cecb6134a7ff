"""Decide which parameters of a model are regularized.

The paper regularizes "all parameters except biases and normalization weights". The public package
decides by the names of a few module types. It bounds RMSNorm, class tokens and position embeddings,
and it leaves out a ViT's patch projection because that name contains "embed". This module looks at
the type of the module first, then at the shape, and at names last:

1. A parameter marked `_no_weight_decay = True`, with weight_decay 0 in `_optim`, or named by timm's
   `no_weight_decay()` of any submodule, is exempt.
2. The magnitude g of `weight_norm` is exempt.
3. An embedding, and every parameter tied to one, is a matrix with `reg_embedding=True` and exempt
   without. Position embeddings and embeddings that hold special tokens are always exempt.
4. The weight of a linear, convolution, recurrent, attention or LoRA layer is a matrix, whatever its
   name. That holds for n x 1 and 1 x n weights too.
5. The parameters of a normalization layer are exempt, whatever their shape.
6. Any other parameter is a matrix if at least two of its dimensions are larger than 1. Its name must
   not say that it is a bias, a token, a class or position embedding, a scale or a logarithm.

`describe(model)` prints the decision for every parameter.
"""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
EMBEDDING_CLASS = re.compile("(?<!Patch)Embedding(Bag)?$")
NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
# The attributes that hold the matrices of torch's layers.
MATRICES: tuple[tuple[tuple[type[nn.Module], ...], re.Pattern[str]], ...] = (
    ((nn.Linear, nn.Bilinear, _ConvNd), re.compile("weight")),
    ((nn.MultiheadAttention,), re.compile("(in|q|k|v)_proj_weight")),
    ((nn.RNNBase, nn.RNNCellBase), re.compile("weight_(ih|hh|hr).*")),
)
# Layers of other libraries: transformers' Conv1D, torchvision's DeformConv2d, Transformer Engine's Linear.
MATRIX_CLASS = re.compile("(Linear|Conv(Transpose)?[123][dD])$")
# The class name must end like a norm (T5LayerNorm, BatchNormAct2d, EvoNorm2dS0, RMSNormGated, ConvNextV2GRN).
NORM_CLASS = re.compile(
    r"""(?x)
    (?<!Linear) (?<!Conv) (?<!Conv[123]d)
    ([Nn]orm(alization)? | GRN)
    (Act | Exp | Tlu | Gated | Nd | F[pP]\d+ | [A-Z]?\d+[a-zA-Z]?)* $
    """
)
LORA = re.compile(r"(^|\.)lora_(embedding_)?[AB](\.|$)")

# Patterns for names in lower case with "_" around every word, such as "_rel_pos_h_". Digits are removed.
BIAS = re.compile("bias(es)?_")
POSITION = re.compile(
    r"""(?x)
    _(pos | positions? | positional | wpe | rpe | rpb | ape)_ (?!wise)
    | pos(ition(al)?)?_(emb | enc) | _pos(emb | enc)
    | _rel(ative)?_(pos | attn | attention | emb | h_ | w_ | t_ | height | width | dist) | _emb[a-z]*_rel_
    | _(row | col | column | distance | temporal | time)_emb[a-z]*_
    """
)
# Modules that hold position embeddings, by a part of their path or by their class.
POSITION_MODULE = re.compile(
    r"""(?x)
    pos(ition(al)?)?_(emb | enc)[a-z]*_(d_)?$ | _pos(emb | enc)[a-z]*_$
    | _embed_positions_$ | _(wpe | rpe)_$
    | _rel(ative)?_pos(ition(al)?)?_(bias_)?$
    """
)
CLASS_EMBEDDING = re.compile("_(class|cls)_emb")
TOKEN = re.compile("_(tokens?|latents|latent_query|queries|prompts?)_")
SPECIAL_TOKEN = re.compile("(?<!_embed)(?<!_emb)(?<!_word)(?<=[a-z])_token_$|_(cls|register|mask|query)_tokens_$")
EMBEDDING = re.compile("_(token|word|type|segment|seg|level|modality)_emb[a-z]*_|_emb[a-z]*_tokens?_")
SCALE = re.compile("_(scales?|gammas?|temperatures?)_")
LOGARITHM = re.compile("_logs?_")
# A projection of tokens or positions is a matrix like any other.
PROJECTION = re.compile("_proj(ection)?_(weights?_)?$")
# Parts of a path that say nothing about what a parameter is.
PLACEHOLDERS = {"weight", "weights", "base_layer"}

EMBEDDING_SWITCH = "embedding (reg_embedding=False)"
POSITION_REASON = "position embedding by its name"


def regularized_names(model: nn.Module, reg_embedding: bool = False) -> list[str]:
    """List the trainable parameters that are regularized, in the model's order.

    Args:
        model: any module on any device, also wrapped by DDP, FSDP or torch.compile.
        reg_embedding: regularize embeddings and the parameters tied to them.

    Returns:
        Names as in `model.named_parameters()`. A tied parameter is named once.

    Raises:
        ValueError: a lazy module has no shape yet.
    """
    decided = decisions(model, reg_embedding)
    return [name for name, p in model.named_parameters() if p.requires_grad and decided[name] is None]


def regularized_groups(model: nn.Module, reg_embedding: bool = False) -> list[dict[str, Any]]:
    """Split all parameters into a group with `regularize=True` and one with `regularize=False`.

    Frozen parameters are in the groups too, so a layer that you unfreeze later is trained and
    bounded. A parameter may have settings of its own in `parameter._optim`, such as the
    {"lr": 1e-3, "weight_decay": 0.0} of state-space models. It gets a group with these.

    Args:
        model: any module on any device, also wrapped by DDP, FSDP or torch.compile.
        reg_embedding: regularize embeddings and the parameters tied to them.

    Returns:
        Parameter groups for an optimizer, each in the model's order. An empty group is left out.

    Raises:
        ValueError: no trainable parameter is a matrix, or a lazy module has no shape yet.
    """
    decided = decisions(model, reg_embedding)
    parameters = _parameters(model)
    if not any(p.requires_grad and decided[name] is None for name, p in parameters.items()):
        kind = type(model).__name__
        if any(getattr(p, "_fsdp_flattened", False) for p in parameters.values()):
            raise ValueError(
                f"{kind} has flat shards, and no matrix to regularize. Shard with torch.distributed.fsdp.fully_shard"
            )
        raise ValueError(f"{kind} has no matrix to regularize. Pass parameter groups with regularize=True instead")
    groups: dict[Any, dict[str, Any]] = {}
    for bounded in (True, False):
        for name, p in parameters.items():
            if (decided[name] is None) == bounded:
                own = {key: value for key, value in getattr(p, "_optim", {}).items() if key != "weight_decay"}
                group = groups.setdefault((bounded, tuple(own.items())), {"params": [], "regularize": bounded, **own})
                group["params"].append(p)
    return list(groups.values())


def decisions(model: nn.Module, reg_embedding: bool = False) -> dict[str, str | None]:
    """Decide for every parameter whether it is regularized.

    Args:
        model: any module on any device, also wrapped by DDP, FSDP or torch.compile.
        reg_embedding: regularize embeddings and the parameters tied to them.

    Returns:
        None for each regularized parameter and the reason for each exempt one, such as "bias". The
        keys are the names and the order of `model.named_parameters()`, frozen parameters included. A
        tied parameter is named once.

    Raises:
        ValueError: a lazy module has no shape yet.
    """
    parameters = _parameters(model)
    for name, parameter in parameters.items():
        if is_lazy(parameter):
            kind = type(model).__name__
            raise ValueError(f"{name} of {kind} has no shape yet. Pass one batch through the model first")
    asked = _asked(model)
    uses = _uses(model)
    return {
        name: asked.get(id(p)) or _reason(p, uses.get(id(p)) or [Use("", nn.Module(), name)], reg_embedding)
        for name, p in parameters.items()
    }


def describe(model: nn.Module, reg_embedding: bool = False) -> str:
    """Return a table of regularized parameters with shapes, and of exempt ones with reasons.

    Args:
        model: any module on any device, also wrapped by DDP, FSDP or torch.compile.
        reg_embedding: regularize embeddings and the parameters tied to them.

    Returns:
        Several lines to print. Frozen parameters are marked.

    Raises:
        ValueError: a lazy module has no shape yet.
    """
    parameters = _parameters(model)
    by_reason: dict[str | None, list[str]] = {None: []}
    for name, reason in decisions(model, reg_embedding).items():
        by_reason.setdefault(reason, []).append(name)
    width = max(map(len, parameters), default=0)

    def total(names: list[str], one: str, several: str) -> str:
        elements = sum(parameters[name].numel() for name in names)
        return f"{len(names):,} {one if len(names) == 1 else several}, {elements:,} elements"

    def row(name: str) -> str:
        parameter = parameters[name]
        shape = " x ".join(map(str, parameter.shape)) or "scalar"
        return f"    {name:<{width}}  {shape}{'' if parameter.requires_grad else '  (frozen)'}"

    bounded = by_reason.pop(None)
    exempt = [name for names in by_reason.values() for name in names]
    lines = [f"Bounded: {total(bounded, 'matrix', 'matrices')}", *map(row, bounded)]
    lines.append(f"Exempt: {total(exempt, 'parameter', 'parameters')}")
    for reason, names in by_reason.items():
        lines += [f"  {reason}: {total(names, 'parameter', 'parameters')}", *map(row, names)]
    return "\n".join(lines)


@dataclass(frozen=True)
class Use:
    """A place where a module holds a parameter. A tied parameter has several.

    A reparametrized weight counts as the weight itself: `attribute` is "weight" for `weight_v`,
    `weight_orig` and `parametrizations.weight.original1`.
    """

    path: str  # of the module
    module: nn.Module
    attribute: str
    magnitude: bool = False  # g of weight_norm

    def is_embedding(self) -> bool:
        named = EMBEDDING_CLASS.search(type(self.module).__name__) is not None
        return self.attribute == "weight" and (named or isinstance(self.module, EMBEDDINGS))

    def is_matrix(self) -> bool:
        """Tell whether the module's type makes this a matrix."""
        if LORA.search(f"{self.path}.{self.attribute}"):
            return True
        for types, attributes in MATRICES:
            if isinstance(self.module, types):
                return attributes.fullmatch(self.attribute) is not None
        return self.attribute == "weight" and MATRIX_CLASS.search(type(self.module).__name__) is not None

    def is_norm(self) -> bool:
        return isinstance(self.module, NORMS) or NORM_CLASS.search(type(self.module).__name__) is not None

    def name(self) -> str:
        """Return the words of the last part of the path that says something: "wte" for wte.weight."""
        parts = f"{self.path}.{self.attribute}".split(".")
        telling = [part for part in parts if part and not part.isdigit() and part not in PLACEHOLDERS]
        return _words(telling[-1] if telling else self.attribute)

    def is_position(self) -> bool:
        """Tell whether the name, or the path or class of the module, says position embedding."""
        modules = [*self.path.split("."), type(self.module).__name__]
        return POSITION.search(self.name()) is not None or any(POSITION_MODULE.search(_words(part)) for part in modules)


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"pass the model itself, not {type(model).__name__}: its modules decide what is a matrix")
    return dict(model.named_parameters())


def _asked(model: nn.Module) -> dict[int, str]:
    """Return the reason for each parameter that the model itself exempts, by the parameter's id."""
    reasons = {id(p): "marked _no_weight_decay" for p in model.parameters() if getattr(p, "_no_weight_decay", False)}
    reasons |= {
        id(p): "weight_decay 0 in _optim"
        for p in model.parameters()
        if getattr(p, "_optim", {}).get("weight_decay", 1) == 0
    }
    for module in model.modules():
        listed = getattr(module, "no_weight_decay", None)
        if callable(listed):
            for name in listed():
                for parameter in _found(module, name):
                    reasons[id(parameter)] = f"no_weight_decay() of {type(module).__name__}"
    return reasons


def _found(module: nn.Module, name: str) -> list[nn.Parameter]:
    """Return the parameters of a name, which may have timm's wildcards, or none if there is none."""
    if any(character in name for character in "*?["):
        return [p for full, p in module.named_parameters() if fnmatchcase(full, name)]
    try:
        return [module.get_parameter(name)]
    except AttributeError:
        return []


def _uses(model: nn.Module) -> dict[int, list[Use]]:
    """Return where each parameter is held, by the parameter's id."""
    modules = dict(model.named_modules())
    uses: dict[int, list[Use]] = {}
    for path, module in modules.items():
        for attribute, parameter in module._parameters.items():
            if parameter is not None:
                uses.setdefault(id(parameter), []).append(_use(path, module, attribute, modules))
    return uses


def _use(path: str, module: nn.Module, attribute: str, modules: dict[str, nn.Module]) -> Use:
    """Return the place of a module's parameter, with a reparametrized weight traced to its layer."""
    if isinstance(module, ParametrizationList) and attribute.startswith("original"):
        owner, found, weight = f".{path}".rpartition(".parametrizations.")
        norm = any(type(child).__name__ == "_WeightNorm" for child in module)
        if found and owner[1:] in modules:
            return Use(owner[1:], modules[owner[1:]], weight, magnitude=norm and attribute == "original0")
    # weight_norm, spectral_norm and prune of torch.nn.utils keep the weight itself as a plain tensor.
    stem, _, suffix = attribute.rpartition("_")
    if suffix in ("g", "v", "orig") and isinstance(vars(module).get(stem), Tensor):
        return Use(path, module, stem, magnitude=suffix == "g")
    return Use(path, module, attribute)


def _reason(parameter: Tensor, uses: list[Use], reg_embedding: bool) -> str | None:
    """Return why a parameter that the model itself doesn't exempt is not regularized, or None if it is."""
    if not (parameter.is_floating_point() or parameter.is_complex()):
        return f"{str(parameter.dtype).removeprefix('torch.')} values"
    if parameter.numel() == 0:
        return "no elements"
    if any(use.magnitude for use in uses):
        return "magnitude of weight_norm"
    if parameter.ndim >= 2:
        if embeddings := [use for use in uses if use.is_embedding()]:
            return _embedding_reason(embeddings, reg_embedding)
        if any(use.is_matrix() for use in uses):
            return None
    for use in uses:
        if use.is_norm():
            return f"normalization layer {type(use.module).__name__}"
    for use in uses:
        if reason := _name_reason(use, reg_embedding):
            return reason
    if sum(size > 1 for size in parameter.shape) < 2:
        return "fewer than two dimensions above 1"
    return None


def _embedding_reason(uses: list[Use], reg_embedding: bool) -> str | None:
    for use in uses:
        if use.is_position():
            return POSITION_REASON
        if BIAS.search(use.name()):
            return "bias"
        if SPECIAL_TOKEN.search(use.name()):
            return "token by its name"
    return None if reg_embedding else EMBEDDING_SWITCH


def _name_reason(use: Use, reg_embedding: bool) -> str | None:
    name = use.name()
    if use.attribute == "bias" or (BIAS.search(name) and not POSITION.search(name)):
        return "bias"
    if PROJECTION.search(name):
        return None
    if use.is_position():
        return POSITION_REASON
    if CLASS_EMBEDDING.search(name):
        return "class embedding by its name"
    if EMBEDDING.search(name):
        return None if reg_embedding else EMBEDDING_SWITCH
    if TOKEN.search(name):
        return "token by its name"
    if SCALE.search(name):
        return "scale by its name"
    return "logarithm by its name" if LOGARITHM.search(name) else None


def _words(name: str) -> str:
    """Return the words of a name for the patterns above: "_pos_embed_" for posEmbed1 and pos_embed."""
    return "_".join(["", *re.findall("[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name), ""]).lower()
