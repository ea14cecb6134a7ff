"""Which parameters are regularized."""

import pytest
import torch
from torch import nn

from cpr import AdamCPR, regularized_groups, regularized_names
from tasks.cifar100.model import ResNet18
from tasks.grokking.model import Decoder

FORBIDDEN = ("bias", "norm", "bn", "cls_token", "pos_embed", "wpe", "logit_scale")


def assert_no_forbidden(names: list[str]) -> None:
    assert not [name for name in names if any(word in name for word in FORBIDDEN)]


def weights_of(model: nn.Module, *kinds: type[nn.Module]) -> list[str]:
    return [f"{name}.weight" for name, module in model.named_modules() if isinstance(module, kinds)]


def gpt2(**options) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=50, **options))


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    import timm

    return timm.create_model("vit_tiny_patch16_224", pretrained=False)


def test_resnet18_has_21_matrices_and_the_paper_s_size():
    model = ResNet18(100)
    names = regularized_names(model)
    assert len(names) == 21
    assert sum(p.numel() for p in model.parameters()) == 11_220_132
    assert all(dict(model.named_parameters())[name].ndim >= 2 for name in names)


def test_of_torchvision_s_resnet18_every_convolution_and_the_head_are_regularized_and_nothing_else():
    import torchvision

    model = torchvision.models.resnet18(weights=None)
    assert sorted(regularized_names(model)) == sorted(weights_of(model, nn.Conv2d, nn.Linear))


def test_a_vit_keeps_its_patch_projection_and_exempts_tokens_and_positions(vit):
    names = regularized_names(vit)
    assert "patch_embed.proj.weight" in names
    assert "head.weight" in names
    assert not {"cls_token", "pos_embed"} & set(names)
    assert len(names) == 2 + 4 * 12


def test_of_a_vit_exactly_the_linear_and_convolution_weights_are_regularized(vit):
    assert sorted(regularized_names(vit)) == sorted(weights_of(vit, nn.Conv2d, nn.Linear))


def test_gpt2_embeddings_are_a_switch_and_positions_never_count():
    model = gpt2()
    assert len(regularized_names(model)) == 2 * 4
    with_embeddings = regularized_names(model, reg_embedding=True)
    assert "transformer.wte.weight" in with_embeddings
    assert_no_forbidden(with_embeddings)


def test_gpt2_s_attention_and_mlp_matrices_are_the_regularized_ones():
    layers = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert regularized_names(gpt2()) == [f"transformer.h.{i}.{layer}.weight" for i in range(2) for layer in layers]


def test_a_head_tied_to_the_embedding_is_regularized_with_it_and_named_once():
    model = gpt2()
    assert model.lm_head.weight is model.transformer.wte.weight
    names = regularized_names(model, reg_embedding=True)
    assert set(names) - set(regularized_names(model)) == {"transformer.wte.weight"}
    groups = regularized_groups(model, reg_embedding=True)
    assert sum(p is model.lm_head.weight for group in groups for p in group["params"]) == 1


def test_an_untied_head_is_a_matrix_like_any_other():
    names = regularized_names(gpt2(tie_word_embeddings=False))
    assert "lm_head.weight" in names
    assert "transformer.wte.weight" not in names


def test_of_llama_exactly_the_linear_weights_are_regularized():
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=50, **sizes))
    assert sorted(regularized_names(model)) == sorted(weights_of(model, nn.Linear))
    with_embeddings = set(regularized_names(model, reg_embedding=True))
    assert with_embeddings - set(regularized_names(model)) == {"model.embed_tokens.weight"}


def test_the_grokking_decoder_regularizes_its_token_embedding_on_demand_and_its_positions_never():
    model = Decoder(7, width=16)
    names, with_embeddings = regularized_names(model), regularized_names(model, reg_embedding=True)
    assert sorted(names) == sorted(weights_of(model, nn.Linear))
    assert set(with_embeddings) - set(names) == {"token_embedding.weight"}


class RMSNormed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.RMSNorm((4, 4))  # a two-dimensional norm weight
        self.inner = nn.Linear(4, 4)
        self.logit_scale = nn.Parameter(torch.ones(()))
        self.positional_embedding = nn.Parameter(torch.ones(3, 4))
        self.class_embedding = nn.Parameter(torch.ones(1, 4))


def test_a_model_with_rmsnorm_and_clip_s_extras_regularizes_its_matrix_alone():
    assert regularized_names(RMSNormed()) == ["inner.weight"]


class ClipLike(nn.Module):
    """The parameters of open_clip's CLIP: an image tower with tokens, a text tower, projections and the logit scale."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Module()
        self.visual.conv1 = nn.Conv2d(3, 8, 4, bias=False)
        self.visual.class_embedding = nn.Parameter(torch.ones(8))
        self.visual.positional_embedding = nn.Parameter(torch.ones(5, 8))
        self.visual.ln_pre = nn.LayerNorm(8)
        self.visual.attn = nn.MultiheadAttention(8, 2)
        self.visual.proj = nn.Parameter(torch.ones(8, 6))
        self.token_embedding = nn.Embedding(11, 8)
        self.positional_embedding = nn.Parameter(torch.ones(7, 8))
        self.text_projection = nn.Parameter(torch.ones(8, 6))
        self.logit_scale = nn.Parameter(torch.ones([]))


def test_of_a_clip_model_projections_and_attention_are_regularized_and_tokens_positions_and_the_scale_are_not():
    attention = ["visual.attn.in_proj_weight", "visual.attn.out_proj.weight"]
    expected = ["text_projection", "visual.proj", "visual.conv1.weight", *attention]
    assert sorted(regularized_names(ClipLike())) == sorted(expected)


@pytest.mark.parametrize("shape", [(1, 1, 8), (8, 1), (2, 8)])
@pytest.mark.parametrize(
    "name",
    ["cls_token", "dist_token", "register_tokens", "pos_embed", "position_embeddings", "pos_encoding", "logit_scale", "class_embedding"],
)
def test_tokens_positions_and_scales_of_any_shape_are_exempt(name, shape):
    model = nn.Linear(3, 3)
    model.register_parameter(name, nn.Parameter(torch.ones(shape)))
    assert regularized_names(model) == ["weight"]


@pytest.mark.parametrize(
    "norm",
    [nn.LayerNorm((4, 4)), nn.RMSNorm((4, 4)), nn.GroupNorm(2, 4), nn.BatchNorm2d(4), nn.InstanceNorm2d(4, affine=True)],
    ids=lambda norm: type(norm).__name__,
)
def test_a_normalization_layer_is_exempt_whatever_the_shape_of_its_weight(norm):
    assert regularized_names(nn.Sequential(norm, nn.Linear(4, 4))) == ["1.weight"]


def test_a_parameter_marked_no_weight_decay_is_exempt():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].weight._no_weight_decay = True
    assert regularized_names(model) == ["1.weight"]


def test_the_names_of_timm_s_no_weight_decay_are_exempt():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model.no_weight_decay = lambda: {"0.weight"}
    assert regularized_names(model) == ["1.weight"]


def test_a_parameter_tied_to_an_embedding_follows_the_embedding_s_switch():
    model = nn.ModuleDict({"head": nn.Linear(4, 9, bias=False), "embedding": nn.Embedding(9, 4), "inner": nn.Linear(4, 4)})
    model["embedding"].weight = model["head"].weight
    assert regularized_names(model) == ["inner.weight"]
    assert regularized_names(model, reg_embedding=True) == ["head.weight", "inner.weight"]


def test_frozen_parameters_are_in_no_group():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].requires_grad_(False)
    assert regularized_names(model) == ["1.weight"]
    assert [id(p) for group in regularized_groups(model) for p in group["params"]] == [id(model[1].weight), id(model[1].bias)]


@pytest.mark.parametrize("reg_embedding", [False, True])
def test_the_groups_hold_every_trainable_parameter_once(reg_embedding):
    model = gpt2()
    groups = regularized_groups(model, reg_embedding)
    assert [group["regularize"] for group in groups] == [True, False]
    assert sorted(id(p) for group in groups for p in group["params"]) == sorted(id(p) for p in model.parameters())


def test_the_optimizer_groups_a_model_as_regularized_groups_does():
    model = gpt2()
    for reg_embedding in (False, True):
        optimizer = AdamCPR(model, reg_embedding=reg_embedding)
        expected = regularized_groups(model, reg_embedding)
        assert [[id(p) for p in g["params"]] for g in optimizer.param_groups] == [[id(p) for p in g["params"]] for g in expected]


def test_groups_made_for_weight_decay_are_regularized_where_the_decay_is_not_zero():
    a, b = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = AdamCPR([{"params": [a], "weight_decay": 0.1}, {"params": [b], "weight_decay": 0.0}])
    assert [group["regularize"] for group in optimizer.param_groups] == [True, False]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.0]


def test_a_model_without_a_matrix_is_refused_by_its_name():
    with pytest.raises(ValueError, match="LayerNorm has no matrix"):
        AdamCPR(nn.LayerNorm(4))
