"""Which parameters are regularized."""

import torch
from torch import nn

from cpr import regularized_names
from tasks.cifar100.model import ResNet18

FORBIDDEN = ("bias", "norm", "bn", "cls_token", "pos_embed", "wpe", "logit_scale")


def assert_no_forbidden(names: list[str]) -> None:
    assert not [name for name in names if any(word in name for word in FORBIDDEN)]


def test_resnet18_has_21_matrices_and_the_paper_s_size():
    model = ResNet18(100)
    names = regularized_names(model)
    assert len(names) == 21
    assert sum(p.numel() for p in model.parameters()) == 11_220_132
    assert all(dict(model.named_parameters())[name].ndim >= 2 for name in names)


def test_a_vit_keeps_its_patch_projection_and_exempts_tokens_and_positions():
    import timm

    model = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    names = regularized_names(model)
    assert "patch_embed.proj.weight" in names
    assert "head.weight" in names
    assert not {"cls_token", "pos_embed"} & set(names)
    assert len(names) == 2 + 4 * 12


def test_gpt2_embeddings_are_a_switch_and_positions_never_count():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=50))
    assert len(regularized_names(model)) == 2 * 4
    with_embeddings = regularized_names(model, reg_embedding=True)
    assert "transformer.wte.weight" in with_embeddings
    assert_no_forbidden(with_embeddings)


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
