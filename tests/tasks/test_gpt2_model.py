"""The GPT-2 of tasks/gpt2 agrees with transformers, the paper's parameter counts and torch's cross-entropy."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf

from cpr import regularized_names
from scripts.cli.common import compose_config
from tasks.engine.records import identity, run_id
from tasks.gpt2.model import GPT2, Shape, build

SMALL = {"width": 48, "layers": 2, "heads": 4, "context": 16, "vocabulary": 104, "dropout": 0.0}


def tokens(batch: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randint(
        0, SMALL["vocabulary"], (batch, SMALL["context"]), generator=torch.Generator().manual_seed(seed)
    )


def test_logits_are_those_of_transformers_with_learned_positions():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=104, n_positions=16, n_embd=48, n_layer=2, n_head=4, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    )
    torch.manual_seed(0)
    theirs = GPT2LMHeadModel(config).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # so that every part matters
    ours = GPT2(Shape(**SMALL, positions="learned")).eval()
    ours.load_state_dict(from_transformers(theirs.transformer.state_dict()))
    with torch.no_grad():
        expected, logits = theirs(tokens()).logits, ours(tokens())
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()


def from_transformers(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights with Conv1D's matrices transposed."""
    names = {
        "wte": "token_embedding",
        "ln_f": "norm",
        "h.": "blocks.",
        "ln_1": "norm1",
        "ln_2": "norm2",
        "attn.c_attn": "attention.qkv",
    }
    names |= {"attn.c_proj": "attention.out", "mlp.c_fc": "mlp.0", "mlp.c_proj": "mlp.2", "wpe.weight": "pos_embedding"}
    renamed = {}
    for name, value in state.items():
        transposed = "c_" in name and value.ndim == 2
        for old, new in names.items():
            name = name.replace(old, new)
        renamed[name] = value.T if transposed else value
    return renamed


@pytest.mark.parametrize(
    ("task", "millions"), [("gpt2", 123.7), ("gpt2m", 353.8), ("gpt2l", 773.0), ("gpt2xl", 1187.1)]
)
def test_the_papers_parameter_counts(task, millions):
    cfg = compose_config([f"task={task}", "scale=paper"])
    with torch.device("meta"):
        model = build(OmegaConf.to_container(cfg.task.model, resolve=True), cfg.task.loss_chunk)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.5)


def test_position_counts_and_half_of_each_head_does_not_know_it():
    model = GPT2(Shape(**SMALL)).eval()
    with torch.no_grad():
        once = model(tokens())
        assert not torch.allclose(once[:, 5], model(tokens().roll(1, 1))[:, 6], atol=1e-4)
        rotary = model.blocks[0].attention.rotary
        x = torch.randn(1, 4, 16, 12)
        turned = rotary(x)
    assert torch.equal(turned[..., 6:], x[..., 6:])
    assert torch.equal(turned[:, :, 0], x[:, :, 0])  # the first position is not rotated
    assert not torch.allclose(turned[:, :, 1:, :6], x[:, :, 1:, :6])
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), atol=1e-5)


def test_rotary_attention_depends_on_distances_alone():
    rotary = GPT2(Shape(**SMALL)).blocks[0].attention.rotary
    q, k = torch.randn(1, 1, 1, 12), torch.randn(1, 1, 1, 12)
    q, k = rotary(q.expand(1, 1, 16, 12)), rotary(k.expand(1, 1, 16, 12))
    scores = (q @ k.transpose(-1, -2))[0, 0]
    for distance in (0, 3, 7):
        diagonal = scores.diagonal(-distance)
        assert torch.allclose(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4)


def test_no_token_sees_a_later_one():
    model = GPT2(Shape(**SMALL)).eval()
    changed = tokens().clone()
    changed[:, 9] += 1
    with torch.no_grad():
        assert torch.equal(model(tokens())[:, :9], model(changed % 104)[:, :9])


@pytest.mark.parametrize("chunk", [7, 16, 1000])
def test_the_loss_in_chunks_is_the_whole_one(chunk):
    torch.manual_seed(1)
    model = GPT2(Shape(**SMALL), loss_chunk=chunk)
    inputs, targets = tokens(seed=1), tokens(seed=2)
    expected = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
    wanted = torch.autograd.grad(expected, list(model.parameters()))
    loss = model(inputs, targets)
    found = torch.autograd.grad(loss, list(model.parameters()))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-7, rtol=1e-4)


def test_the_loss_in_bfloat16_is_near_the_one_in_float32():
    torch.manual_seed(1)
    model = GPT2(Shape(**SMALL))
    inputs, targets = tokens(seed=1), tokens(seed=2)
    exact = model(inputs, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model(inputs, targets)
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=2e-2)


@pytest.mark.parametrize("init", ["normal", "uniform"])
def test_initial_sizes(init):
    model = GPT2(Shape(width=256, layers=1, heads=4, vocabulary=1000, init=init))
    std = 0.02 if init == "normal" else 0.02 / 3**0.5
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            assert parameter.std().item() == pytest.approx(std, rel=0.05)
        else:
            assert torch.all(parameter == float("norm" in name and name.endswith("weight")))


def test_the_regularized_set_is_every_matrix_but_the_tied_embedding():
    model = GPT2(Shape(**SMALL))
    assert regularized_names(model) == [
        f"blocks.{i}.{name}.weight" for i in range(2) for name in ("attention.qkv", "attention.out", "mlp.0", "mlp.2")
    ]
    assert "token_embedding.weight" in regularized_names(model, reg_embedding=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"heads": 5}, "multiple of heads"),
        ({"positions": "absolute"}, "positions 'absolute' is unknown"),
        ({"init": "xavier"}, "init 'xavier' is unknown"),
        ({"dropout": 1.0}, "dropout 1.0 must lie in"),
        ({"rotary_fraction": 0.0}, "rotary_fraction 0.0"),
        ({"rotary_fraction": 0.25}, "rotary_fraction 0.25"),
    ],
)
def test_a_shape_that_cannot_be_built_says_why(change, words):
    with pytest.raises(ValueError, match=words):
        Shape(**(SMALL | change))


def test_flops_are_those_that_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    shape = Shape(**SMALL)
    model = GPT2(shape)
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(model(tokens()).flatten(0, 1), tokens(seed=2).flatten()).backward()
    # The counts differ slightly at the first layer's input and the rotation. Attention counts in full, not causal.
    assert counter.get_total_flops() == pytest.approx(shape.flops_per_token() * tokens().numel(), rel=0.15)


def test_the_repository_has_a_configuration_for_every_size():
    names = {path.stem for path in Path("configs/task").glob("gpt2*.yaml")}
    assert names == {"gpt2", "gpt2m", "gpt2l", "gpt2xl"}


@pytest.mark.parametrize(("task", "way"), [("gpt2", "ddp"), ("gpt2m", "ddp"), ("gpt2l", "fsdp"), ("gpt2xl", "fsdp")])
def test_the_large_models_are_sharded_unless_asked_otherwise_and_the_id_does_not_know(task, way):
    plain, asked = compose_config([f"task={task}"]), compose_config([f"task={task}", "parallel=ddp"])
    assert (plain.parallel, asked.parallel) == (way, "ddp")
    assert run_id(plain) == run_id(asked)
    assert "parallel" not in identity(plain)["task"]
