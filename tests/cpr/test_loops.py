"""Training loops as users write them give the same as a plain loop."""

import contextlib
import copy
import os
import socket
import traceback
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import SWALR, AveragedModel, update_bn

import cpr
from cpr import CPR, AdamCPR, regularized_groups

torch.set_num_threads(1)

NO_BOUND = {"kappa_init_method": "uniform", "kappa_init_param": 1e9}
ACTING = {
    "kappa_init_method": "dependent",
    "kappa_init_param": 0.7,
    "kappa_update": 0.1,
}  # pulls from the first step on
WARM = {"kappa_init_method": "warm_start", "kappa_init_param": 4}
Make = Callable[..., torch.optim.Optimizer]


def around_sgd(groups: Any, momentum: float = 0.9, lr: float = 1e-2, **options: Any) -> CPR:
    groups = regularized_groups(groups) if isinstance(groups, nn.Module) else groups
    return CPR(torch.optim.SGD(groups, lr=lr, momentum=momentum), **options)


KINDS: dict[str, Make] = {
    "AdamCPR": lambda groups, lr=1e-2, **options: AdamCPR(groups, lr=lr, **options),
    "CPR around SGD": around_sgd,
}
every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 1))


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(16, 6, generator=generator), 5 * torch.randn(16, 1, generator=generator)


def loss_of(net: nn.Module, step: int) -> Tensor:
    inputs, targets = batch(step)
    return (net(inputs) - targets).square().mean()


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: Iterable[int]) -> None:
    """Train with the plain loop."""
    for step in steps:
        optimizer.zero_grad()
        loss_of(net, step).backward()
        optimizer.step()


def weights(net: nn.Module) -> Tensor:
    whole = [p.detach().full_tensor() if isinstance(p, DTensor) else p.detach() for p in net.parameters()]
    return torch.cat([p.flatten() for p in whole])


def bounds(optimizer: Any, net: nn.Module) -> dict[str, tuple[float, float]]:
    """Return (κ, λ) of each matrix, as numbers."""
    state = {name: optimizer.state.get(p, {}) for name, p in net.named_parameters()}
    return {name: (float(entry["kappa"]), float(entry["lagmul"])) for name, entry in state.items() if "kappa" in entry}


def assert_acting(found: dict[str, tuple[float, float]]) -> None:
    assert max(multiplier for _, multiplier in found.values()) > 0


def assert_same(a: tuple[nn.Module, Any], b: tuple[nn.Module, Any]) -> None:
    assert torch.equal(weights(a[0]), weights(b[0]))
    assert bounds(a[1], a[0]) == bounds(b[1], b[0])
    assert_acting(bounds(a[1], a[0]))


# --- gradients: scaled, clipped, accumulated


@every_kind
def test_a_gradient_scaler_skips_one_step_clips_the_others_and_changes_no_bit(make):
    net, plain = network(), network()
    optimizer, reference = make(net, **ACTING), make(plain, **ACTING)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=5)
    for step in range(20):
        optimizer.zero_grad()
        scaler.scale(loss_of(net, step)).backward()
        if step == 7:
            net[2].weight.grad[1, 2] = torch.inf
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        before = weights(net), bounds(optimizer, net)
        scaler.step(optimizer)
        scaler.update()
        if step == 7:
            assert torch.equal(weights(net), before[0])
            assert bounds(optimizer, net) == before[1]
            continue
        reference.zero_grad()
        loss_of(plain, step).backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        reference.step()
    assert scaler.get_scale() == 2.0**12  # grown after 5, halved at 7, grown after 13 and 18
    assert_same((net, optimizer), (plain, reference))


@every_kind
def test_gradients_clipped_by_value_and_added_over_micro_batches_step_as_one_batch(make):
    net, plain = network().double(), network().double()
    optimizer, reference = make(net, **ACTING), make(plain, **ACTING)
    for step in range(15):
        inputs, targets = (t.double() for t in batch(step))
        optimizer.zero_grad(set_to_none=step % 2 == 0)
        for some, wanted in zip(inputs.chunk(4), targets.chunk(4), strict=True):
            ((net(some) - wanted).square().mean() / 4).backward()
        nn.utils.clip_grad_value_(net.parameters(), 0.5)
        optimizer.step()
        reference.zero_grad()
        (plain(inputs) - targets).square().mean().backward()
        for p in plain.parameters():
            p.grad.clamp_(-0.5, 0.5)
        reference.step()
    torch.testing.assert_close(weights(net), weights(plain), rtol=0, atol=1e-9)
    assert_acting(bounds(optimizer, net))


# --- weights that change between steps


@every_kind
@pytest.mark.parametrize("evaluate_at", ["before", "after"])
def test_weights_swapped_for_their_average_and_back_change_no_bit(make, evaluate_at):
    net, plain = network(), network()
    optimizer, reference = (make(n, evaluate_at=evaluate_at, **ACTING) for n in (net, plain))
    average = [p.detach().clone() for p in net.parameters()]
    for step in range(20):
        train(net, optimizer, [step])
        train(plain, reference, [step])
        for mean, p in zip(average, net.parameters(), strict=True):
            mean.lerp_(p.detach(), 0.1)
        if step % 5 == 4:
            kept = [p.detach().clone() for p in net.parameters()]
            for p, mean in zip(net.parameters(), average, strict=True):
                p.data.copy_(mean)
            assert loss_of(net, 100) != loss_of(plain, 100)  # evaluation
            for p, own in zip(net.parameters(), kept, strict=True):
                p.data.copy_(own)
    assert_same((net, optimizer), (plain, reference))


@every_kind
def test_after_the_weights_are_replaced_lambda_follows_their_size(make):
    net = network()
    optimizer = make(net, **ACTING)
    train(net, optimizer, range(10))
    known = bounds(optimizer, net)
    sizes = {}
    for name, p in net.named_parameters():
        p.data.mul_(1.3)
        sizes[name] = p.detach().square().mean().item()
    train(net, optimizer, [10])
    for name, (kappa, multiplier) in bounds(optimizer, net).items():
        assert kappa == known[name][0]
        assert multiplier == pytest.approx(max(0, known[name][1] + 0.1 * (sizes[name] - kappa)), rel=1e-4)


@every_kind
def test_stochastic_weight_averaging_is_the_mean_of_the_weights_and_training_continues_from_it(make):
    def build() -> tuple[nn.Sequential, torch.optim.Optimizer]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
        return net, make(net, **ACTING)

    (net, optimizer), (plain, reference) = build(), build()
    averaged, schedule = AveragedModel(net), SWALR(optimizer, swa_lr=1e-3, anneal_epochs=4)
    seen = []
    for step in range(12):
        for own, other in zip(optimizer.param_groups, reference.param_groups, strict=True):
            other["lr"] = own["lr"]
        train(net, optimizer, [step])
        train(plain, reference, [step])
        schedule.step()
        if step >= 8:
            averaged.update_parameters(net)
            seen.append(weights(net))
    assert_same((net, optimizer), (plain, reference))
    torch.testing.assert_close(weights(averaged.module), torch.stack(seen).mean(0), rtol=0, atol=1e-6)
    update_bn([batch(step)[0] for step in range(4)], averaged)
    hidden = torch.cat([averaged.module[0](batch(step)[0]) for step in range(4)])
    torch.testing.assert_close(averaged.module[1].running_mean, hidden.mean(0).detach(), rtol=0, atol=1e-5)
    net.load_state_dict(averaged.module.state_dict())
    kappa, multiplier = bounds(optimizer, net)["0.weight"]
    size = net[0].weight.detach().square().mean().item()
    train(net, optimizer, [12])
    expected = max(0, multiplier + 0.1 * (size - kappa))
    assert bounds(optimizer, net)["0.weight"][1] == pytest.approx(expected, rel=1e-3, abs=1e-8)


def test_timm_s_moving_average_changes_no_bit():
    pytest.importorskip("timm")
    from timm.utils import ModelEmaV3

    net, plain = network(), network()
    optimizer, reference = AdamCPR(net, lr=1e-2, **ACTING), AdamCPR(plain, lr=1e-2, **ACTING)
    ema, mean = ModelEmaV3(net, decay=0.9), weights(net)
    for step in range(15):
        train(net, optimizer, [step])
        ema.update(net)
        mean.lerp_(weights(net), 0.1)
    train(plain, reference, range(15))
    torch.testing.assert_close(weights(ema.module), mean, rtol=0, atol=1e-6)
    assert_same((net, optimizer), (plain, reference))


@every_kind
def test_weights_in_new_memory_change_no_bit(make):
    net, plain = network(), network()
    optimizer, reference = make(net, **ACTING), make(plain, **ACTING)
    for step in range(20):
        train(net, optimizer, [step])
        train(plain, reference, [step])
        if step == 5:
            nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(net.parameters()).detach(), net.parameters())
        if step == 10:
            net.load_state_dict(copy.deepcopy(net.state_dict()))
        if step == 15:
            net.double().float().share_memory()
    assert_same((net, optimizer), (plain, reference))


def test_one_optimizer_per_parameter_stepped_in_the_backward_pass_equals_one_for_all():
    net, plain = network(), network()
    reference = AdamCPR(plain, lr=1e-2, **ACTING)
    optimizers: dict[Tensor, torch.optim.Optimizer] = {p: torch.optim.Adam([p], lr=1e-2) for p in net.parameters()}
    for layer in (net[0], net[2], net[4]):
        optimizers[layer.weight] = AdamCPR([{"params": [layer.weight], "regularize": True}], lr=1e-2, **ACTING)

    def step_at_once(p: Tensor) -> None:
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in net.parameters():
        p.register_post_accumulate_grad_hook(step_at_once)
    for step in range(20):
        loss_of(net, step).backward()
    train(plain, reference, range(20))
    torch.testing.assert_close(weights(net), weights(plain), rtol=0, atol=1e-6)
    assert float(optimizers[net[0].weight].state[net[0].weight]["lagmul"]) > 0


# --- models that change


@every_kind
def test_a_layer_unfrozen_later_trains_as_if_its_gradients_came_later(make):
    net, plain = network(), network()
    net[0].requires_grad_(False)
    optimizer, reference = make(net, **ACTING), make(plain, **ACTING)
    train(net, optimizer, range(8))
    assert "0.weight" not in bounds(optimizer, net)
    net[0].requires_grad_(True)
    train(net, optimizer, range(8, 20))
    for step in range(20):
        reference.zero_grad()
        loss_of(plain, step).backward()
        if step < 8:
            plain[0].weight.grad = plain[0].bias.grad = None
        reference.step()
    assert_same((net, optimizer), (plain, reference))
    assert optimizer.state[net[0].weight]["step"] == 12


@every_kind
def test_a_larger_head_can_be_added_as_a_module(make):
    net = network()
    optimizer = make(net, **ACTING)
    train(net, optimizer, range(5))
    body = weights(net[:4])
    net[4] = head = nn.Linear(7, 1)
    optimizer.add_param_group({"params": head})
    assert [group["regularize"] for group in optimizer.param_groups] == [True, False, True, False]
    size = head.weight.detach().square().mean().item()
    train(net, optimizer, range(5, 15))
    assert bounds(optimizer, net)["4.weight"][0] == pytest.approx(0.7 * size, rel=1e-5)
    assert not torch.equal(weights(net[:4]), body)


@every_kind
def test_a_model_cast_to_bfloat16_after_the_optimizer_was_built_continues_as_from_a_loaded_state(make):
    net, again = network(), network()
    optimizer = make(net, **ACTING)
    train(net, optimizer, range(10))
    state, before = copy.deepcopy(optimizer.state_dict()), bounds(optimizer, net)
    net.to(torch.bfloat16)
    again.to(torch.bfloat16).load_state_dict(net.state_dict())
    loaded = make(again, **ACTING)
    loaded.load_state_dict(state)
    assert bounds(loaded, again) == before
    for step in range(10, 20):
        inputs, targets = (t.to(torch.bfloat16) for t in batch(step))
        for model, own in ((net, optimizer), (again, loaded)):
            own.zero_grad()
            (model(inputs) - targets).square().mean().backward()
            own.step()
    assert all(p.dtype == torch.bfloat16 for p in net.parameters())
    torch.testing.assert_close(weights(net), weights(again), rtol=2**-7, atol=1e-2)
    for name, (kappa, _) in bounds(optimizer, net).items():
        assert kappa == before[name][0]
        assert optimizer.state[net.get_parameter(name)]["lagmul"].dtype == torch.float32


@every_kind
def test_a_model_moved_to_channels_last_after_the_optimizer_was_built_gives_the_same_numbers(make):
    ends = []
    for late in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 2))
        optimizer = make(net, **ACTING)
        generator = torch.Generator().manual_seed(1)
        for step in range(20):
            if late and step == 8:
                net.to(memory_format=torch.channels_last)
                assert not net[1].weight.is_contiguous()
            optimizer.zero_grad()
            net(torch.randn(4, 3, 8, 8, generator=generator)).square().mean().backward()
            optimizer.step()
        ends.append((weights(net), bounds(optimizer, net)))
    torch.testing.assert_close(ends[0][0], ends[1][0], rtol=0, atol=1e-5)
    for name, (kappa, multiplier) in ends[0][1].items():
        assert (kappa, multiplier) == pytest.approx(ends[1][1][name], rel=1e-3, abs=1e-6)


# --- torch.compile


@every_kind
@pytest.mark.parametrize("whole", [True, False], ids=["the training step", "model and optimizer step"])
def test_a_compiled_loop_gives_the_same_numbers(make, whole):
    net, plain = network(), network()
    optimizer, reference = make(net, **ACTING), make(plain, **ACTING)
    if whole:

        def training_step(inputs: Tensor, targets: Tensor) -> Tensor:
            optimizer.zero_grad()
            loss = (net(inputs) - targets).square().mean()
            loss.backward()
            optimizer.step()
            return loss

        compiled = torch.compile(training_step, backend="aot_eager")
    else:
        model, step_once = torch.compile(net, backend="aot_eager"), torch.compile(optimizer.step, backend="aot_eager")

        def compiled(inputs: Tensor, targets: Tensor) -> Tensor:
            optimizer.zero_grad()
            loss = (model(inputs) - targets).square().mean()
            loss.backward()
            step_once()
            return loss

    for step in range(12):
        compiled(*batch(step))
    train(plain, reference, range(12))
    torch.testing.assert_close(weights(net), weights(plain), rtol=0, atol=1e-6)
    assert_acting(bounds(optimizer, net))
    assert bounds(optimizer, net).keys() == bounds(reference, plain).keys()


def test_an_optimizer_built_from_a_compiled_model_bounds_the_same_matrices_under_its_names():
    net, plain = network(), network()
    compiled = torch.compile(net, backend="eager")
    optimizer, reference = AdamCPR(compiled, lr=1e-2, **ACTING), AdamCPR(plain, lr=1e-2, **ACTING)
    train(compiled, optimizer, range(10))
    train(plain, reference, range(10))
    assert_same((net, optimizer), (plain, reference))


# --- Hugging Face Trainer


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Return a function that builds a Trainer of a tiny GPT-2, with no network and ordered batches."""
    transformers = pytest.importorskip("transformers")
    accelerate = pytest.importorskip("accelerate")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    def build(steps: int = 10, weight_decay: float = 0.1, model: nn.Module | None = None, **options: Any) -> Any:
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=steps,
            save_steps=5,
            per_device_train_batch_size=4,
            learning_rate=1e-2,
            warmup_steps=3,
            lr_scheduler_type="linear",
            weight_decay=weight_decay,
            logging_strategy="no",
            disable_tqdm=True,
            report_to=[],
            use_cpu=True,
        )
        return InOrder(model=gpt2() if model is None else model, args=arguments, train_dataset=texts(), **options)

    yield build
    accelerate.state.AcceleratorState._reset_state(True)


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    dropouts = {"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0}
    sizes = {"vocab_size": 32, "n_positions": 8, "n_embd": 16, "n_layer": 1, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0, **sizes, **dropouts))


def texts() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [{"input_ids": (t := torch.randint(0, 32, (8,), generator=generator)), "labels": t} for _ in range(12)]


def plain_loop(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Train as Trainer does with these arguments: clip to 1, warm up for 3 steps, decay linearly."""
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min(t / 3, max(0.0, (steps - t) / (steps - 3))))
    data = texts()
    for t in range(steps):
        rows = data[t % 3 * 4 : t % 3 * 4 + 4]
        optimizer.zero_grad()
        tokens = torch.stack([row["input_ids"] for row in rows])
        logits = model(input_ids=tokens).logits[:, :-1]
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")
        (loss / tokens.numel()).backward()  # Trainer counts all labels
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


HOW = {
    "the class, Trainer's groups": lambda model: {"optimizer_cls_and_kwargs": (AdamCPR, {"lr": 1e-2, **WARM})},
    "the class, our groups": lambda model: {
        "optimizer_cls_and_kwargs": (AdamCPR, {"params": model, "lr": 1e-2, **WARM}),
    },
    "AdamCPR": lambda model: {"optimizers": (AdamCPR(model, lr=1e-2, **WARM), None)},
    "CPR around SGD": lambda model: {"optimizers": (around_sgd(model, lr=1e-2, **WARM), None)},
}


@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_a_trainer_equals_the_plain_loop_and_a_new_one_resumes_to_the_bit(trainer, how):
    def build() -> Any:
        model = gpt2()
        return trainer(model=model, **how(model))

    whole = build()
    whole.train()
    inner = whole.optimizer.optimizer
    found = bounds(inner, whole.model)
    assert_acting(found)
    assert ("transformer.wte.weight" in found) == (how is HOW["the class, Trainer's groups"])  # which decay embeddings

    plain = gpt2()
    exempt = [p for name, p in plain.named_parameters() if name not in found]
    groups = [
        {"params": [plain.get_parameter(name) for name in found], "regularize": True},
        {"params": exempt, "regularize": False},
    ]
    reference = around_sgd(groups, lr=1e-2, **WARM) if isinstance(inner, CPR) else AdamCPR(groups, lr=1e-2, **WARM)
    plain_loop(plain, reference, steps=10)
    torch.testing.assert_close(weights(whole.model), weights(plain), rtol=0, atol=1e-5)
    for name, (kappa, multiplier) in bounds(reference, plain).items():
        assert found[name] == pytest.approx((kappa, multiplier), rel=1e-3, abs=1e-7)

    resumed = build()
    resumed.train(resume_from_checkpoint=str(Path(whole.args.output_dir) / "checkpoint-5"))
    assert torch.equal(weights(resumed.model), weights(whole.model))
    assert bounds(resumed.optimizer.optimizer, resumed.model) == found
    if isinstance(inner, AdamCPR) and how is not HOW["the class, Trainer's groups"]:
        assert cpr.snapshot(whole.optimizer).keys() == found.keys()
    assert (
        cpr.snapshot(whole.optimizer, whole.model)["transformer.h.0.attn.c_attn.weight"].kappa
        == found["transformer.h.0.attn.c_attn.weight"][0]
    )


def test_a_trainer_without_weight_decay_is_refused(trainer):
    with pytest.raises(ValueError, match=r"no parameter is regularized\. .*weight_decay is not 0"):
        trainer(weight_decay=0.0, optimizer_cls_and_kwargs=(AdamCPR, {"lr": 1e-2, **WARM})).create_optimizer()


# --- accelerate


@every_kind
def test_accelerate_accumulates_clips_saves_and_resumes_as_the_plain_loop(make, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    net, plain = network(), network()
    reference = make(plain, **ACTING)
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=3)
    model, optimizer = accelerator.prepare(net, make(net, **ACTING))

    def run(steps: range) -> None:
        for step in steps:
            with accelerator.accumulate(model):
                accelerator.backward(loss_of(model, step))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()

    try:
        run(range(15))
        accelerator.save_state(str(tmp_path))
        run(range(15, 30))
        end = weights(net), bounds(optimizer.optimizer, net)
        assert set(cpr.snapshot(optimizer, net)) == {"0.weight", "2.weight", "4.weight"}
        for first in range(0, 30, 3):
            reference.zero_grad()
            for step in range(first, first + 3):
                (loss_of(plain, step) / 3).backward()
            nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
            reference.step()
        torch.testing.assert_close(end[0], weights(plain), rtol=0, atol=1e-6)
        assert_acting(end[1])
        accelerator.load_state(str(tmp_path))
        run(range(15, 30))
        assert torch.equal(weights(net), end[0])
        assert bounds(optimizer.optimizer, net) == end[1]
    finally:
        accelerate.state.AcceleratorState._reset_state(True)


# --- several processes


def test_a_flat_shard_is_refused_in_a_regularized_group():
    """FSDP1 and DeepSpeed set these marks on their parameters."""
    flat, bias = nn.Parameter(torch.ones(64)), nn.Parameter(torch.ones(3))
    flat._fsdp_flattened = True
    message = r"shape \(64,\) is a flat shard of FullyShardedDataParallel.*fully_shard \(FSDP2\)"
    with pytest.raises(ValueError, match=message):
        AdamCPR([{"params": [flat], "regularize": True}])
    with pytest.raises(ValueError, match="flat shard"):
        around_sgd([{"params": [flat], "weight_decay": 0.1}, {"params": [bias], "weight_decay": 0.0}])


def ddp(make: Make) -> None:
    """Train with DDP, each rank with half of the batch."""
    net, plain = network().double(), network().double()
    model = nn.parallel.DistributedDataParallel(net)
    optimizer, reference = make(model, **ACTING), make(plain, **ACTING)
    for step in range(15):
        inputs, targets = (t.double() for t in batch(step))
        mine = slice(8 * dist.get_rank(), 8 * dist.get_rank() + 8)
        optimizer.zero_grad()
        (model(inputs[mine]) - targets[mine]).square().mean().backward()
        optimizer.step()
        reference.zero_grad()
        (plain(inputs) - targets).square().mean().backward()
        reference.step()
    torch.testing.assert_close(weights(net), weights(plain), rtol=0, atol=1e-9)
    assert_acting(bounds(optimizer, net))


def sharded() -> nn.Module:
    net, mesh = network(), init_device_mesh("cpu", (2,))
    for layer in (net[0], net[2]):
        fully_shard(layer, mesh=mesh)
    return fully_shard(net, mesh=mesh)


def names_of_model_are_kept(make: Make) -> None:
    net = sharded()
    optimizer = make(net, **ACTING)
    train(net, optimizer, range(3))
    sizes = {name: p.detach().full_tensor().square().mean().item() for name, p in net.named_parameters() if p.ndim == 2}
    assert {name: bound.R for name, bound in cpr.snapshot(optimizer, net).items()} == pytest.approx(sizes, rel=1e-5)


def getting_a_fresh_optimizer_s_state_leaves_the_weights(make: Make) -> None:
    net = sharded()
    optimizer = make(net, **ACTING)
    before = weights(net)
    state = get_optimizer_state_dict(net, optimizer)["state"]["0.weight"]
    assert torch.equal(weights(net), before)
    assert all(p.grad is None for p in net.parameters())
    prefix = "cpr_" if isinstance(optimizer, CPR) else ""
    assert float(state[prefix + "step"]) == 0 and float(state[prefix + "lagmul"]) == 0
    plain = sharded()
    reference = make(plain, **ACTING)
    train(net, optimizer, range(10))
    train(plain, reference, range(10))
    torch.testing.assert_close(weights(net), weights(plain), rtol=0, atol=1e-6)
    for name, pair in bounds(reference, plain).items():
        assert bounds(optimizer, net)[name] == pytest.approx(pair, rel=1e-4, abs=1e-8)


WAYS = {
    "sharded": (StateDictOptions(), StateDictOptions()),
    "full": (
        StateDictOptions(full_state_dict=True, cpu_offload=True),
        StateDictOptions(full_state_dict=True, broadcast_from_rank0=True),
    ),
    "flattened": (StateDictOptions(flatten_optimizer_state_dict=True),) * 2,
}


def a_state_goes_on(make: Make, way: str, folder: Path) -> None:
    """Load the states into a fresh model and optimizer. CPR may refuse a flattened state."""
    saving, loading = WAYS[way]
    net = sharded()
    optimizer = make(net, **ACTING)
    train(net, optimizer, range(8))
    kept = bounds(optimizer, net)
    saved = get_model_state_dict(net, options=saving), get_optimizer_state_dict(net, optimizer, options=saving)
    saved = copy.deepcopy(saved)
    if way == "sharded":
        dcp.save({"model": saved[0], "optimizer": saved[1]}, checkpoint_id=folder)
    train(net, optimizer, range(8, 16))

    again = sharded()
    train(again, make(again, **WARM), range(100, 102))  # other weights
    again.zero_grad()
    loaded = make(again, lr=0.5, **WARM)  # all of it is overwritten
    if way == "sharded":
        saved = get_model_state_dict(again), get_optimizer_state_dict(again, loaded)
        dcp.load({"model": saved[0], "optimizer": saved[1]}, checkpoint_id=folder)
    set_model_state_dict(again, saved[0], options=loading)
    try:
        set_optimizer_state_dict(again, loaded, saved[1], options=loading)
    except ValueError as error:
        assert way == "flattened" and isinstance(loaded, CPR) and "flatten_optimizer_state_dict" in str(error)
        return
    assert bounds(loaded, again) == kept, way
    train(again, loaded, range(8, 16))
    assert torch.equal(weights(again), weights(net)), way
    assert bounds(loaded, again) == bounds(optimizer, net)
    assert_acting(bounds(optimizer, net))


def zero_groups(net: nn.Sequential, matrices: int) -> list[dict[str, Any]]:
    """Return groups with the first matrices bounded. With only one, one of two ranks has none."""
    chosen = [p for p in net.parameters() if p.ndim == 2][:matrices]
    others = [p for p in net.parameters() if all(p is not matrix for matrix in chosen)]
    return [{"params": chosen, "regularize": True}, {"params": others, "regularize": False}]


def zero_redundancy(matrices: int, bucket_view: bool) -> None:
    def build(net: nn.Sequential) -> ZeroRedundancyOptimizer:
        options = {"lr": 1e-2, "parameters_as_bucket_view": bucket_view, **ACTING}
        return ZeroRedundancyOptimizer(zero_groups(net, matrices), optimizer_class=AdamCPR, **options)

    net, plain, again = network(), network(), network()
    optimizer, reference, loaded = build(net), AdamCPR(zero_groups(plain, matrices), lr=1e-2, **ACTING), build(again)
    mine = [len(group["params"]) for group in optimizer.optim.param_groups]
    counts = [torch.zeros(2, dtype=torch.int64) for _ in range(2)]
    dist.all_gather(counts, torch.tensor(mine))
    assert (min(count[0].item() for count in counts) == 0) == (matrices == 1)
    train(net, optimizer, range(10))
    optimizer.consolidate_state_dict(0)
    saved = [optimizer.state_dict() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(saved, 0)
    again.load_state_dict(copy.deepcopy(net.state_dict()))
    loaded.load_state_dict(copy.deepcopy(saved[0]))
    train(net, optimizer, range(10, 20))
    train(again, loaded, range(10, 20))
    train(plain, reference, range(20))
    assert torch.equal(weights(net), weights(plain))
    assert torch.equal(weights(again), weights(plain))
    own = bounds(optimizer.optim, net)
    assert len(own) == mine[0]
    assert own == {name: pair for name, pair in bounds(reference, plain).items() if name in own}
    assert {name: (bound.kappa, bound.lam) for name, bound in cpr.snapshot(optimizer, net).items()} == own


def fsdp1() -> None:
    for original in (False, True):
        net = FullyShardedDataParallel(network(), device_id=torch.device("cpu"), use_orig_params=original)
        with pytest.raises(ValueError, match="flat shard of FullyShardedDataParallel"):
            AdamCPR([{"params": list(net.parameters()), "regularize": True}])
        with pytest.raises(ValueError, match="flat shard of FullyShardedDataParallel"):
            AdamCPR(net.parameters(), weight_decay=0.1)
        with pytest.raises(ValueError, match="fully_shard"):
            AdamCPR(net)


def of_plain_sgd(groups: Any, **options: Any) -> CPR:
    return around_sgd(groups, momentum=0, **options)


def in_each_kind(check: Callable[..., None], *arguments: Any) -> dict[str, Callable[[Path], None]]:
    return {f"{check.__name__}, {name}": lambda folder, m=make: check(m, *arguments) for name, make in KINDS.items()}


def goes_on(way: str, name: str, make: Make) -> dict[str, Callable[[Path], None]]:
    return {f"a_{way}_state_goes_on, {name}": lambda folder: a_state_goes_on(make, way, folder)}


CHECKS: dict[str, Callable[[Path], None]] = {
    **in_each_kind(ddp),
    **{
        f"ZeroRedundancyOptimizer, {m} bounded, bucket_view={v}": lambda folder, m=m, v=v: zero_redundancy(m, v)
        for m in (1, 3)
        for v in (False, True)
    },
    "FSDP1": lambda folder: fsdp1(),
}
if hasattr(torch.cpu.Stream, "record_event"):  # without it, as in torch 2.6, there is no FSDP2 on CPUs
    CHECKS |= {
        **in_each_kind(names_of_model_are_kept),
        **in_each_kind(getting_a_fresh_optimizer_s_state_leaves_the_weights),
        **{k: v for way in WAYS for name, make in KINDS.items() for k, v in goes_on(way, name, make).items()},
        **goes_on("sharded", "CPR around plain SGD", of_plain_sgd),  # torch loads no full state without moments
    }


def in_two_processes(rank: int, port: int, folder: Path) -> None:
    """Run every check and record why one failed. Ranks that disagree time out in the next check."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2, timeout=timedelta(seconds=20))
    for number, check in enumerate(CHECKS.values()):
        (place := folder / str(number)).mkdir(exist_ok=True)
        try:
            check(place)
        except BaseException:
            (folder / f"failed {number} on {rank}").write_text(traceback.format_exc())
    (folder / f"done {rank}").touch()
    with contextlib.suppress(RuntimeError):
        dist.barrier()
    os._exit(0)  # gloo's threads may abort Python's finalization (pytorch issue 190489)


def test_the_loops_work_in_two_processes(tmp_path):
    """One test for all checks, since each process needs seconds to import torch."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    multiprocessing.spawn(in_two_processes, (port, tmp_path), nprocs=2)
    assert all((tmp_path / f"done {rank}").exists() for rank in range(2))
    failures = {}
    for number, check in enumerate(CHECKS):
        for file in sorted(tmp_path.glob(f"failed {number} on *"))[:1]:
            failures[check] = f"{check}\n{file.read_text()}"
    assert not failures, "\n".join(["", *failures, "", *failures.values()])
