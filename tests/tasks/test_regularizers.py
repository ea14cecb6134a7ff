"""Every file of configs/regularizer builds an optimizer for the layers of every task."""

import pkgutil

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import tasks.regularizers
from cpr.baselines import Hyperball
from scripts.cli.common import compose_config
from scripts.cli.parser import CONFIG_DIR
from tasks.engine.config import read_config
from tasks.engine.errors import UserError
from tasks.engine.optimizers import build_optimizer, evaluating
from tasks.engine.regularizer import optimizers
from tasks.engine.run import run

torch.set_num_threads(1)

NAMES = sorted(path.stem for path in (CONFIG_DIR / "regularizer").glob("*.yaml"))
every = pytest.mark.parametrize("name", NAMES)


class Layers(nn.Module):
    """One layer of each kind that the tasks train: 2-D and 3-D convolutions, linear, embedding, norm."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.image, self.volume = nn.Conv2d(2, 4, 3), nn.Conv3d(1, 2, 3)
        self.token, self.norm, self.head = nn.Embedding(5, 6), nn.LayerNorm(6), nn.Linear(6, 3)


def built(name: str, model: nn.Module, *overrides: str) -> Optimizer:
    schedule = ["task.schedule.decay=constant", "task.schedule.warmup_steps=2"]
    cfg = compose_config(["task=gpt2", f"regularizer={name}", "lr=0.01", *schedule, *overrides])
    optimizer = build_optimizer(read_config(cfg), model)
    if hasattr(optimizer, "train"):
        optimizer.train()
    return optimizer


def feed(optimizer: Optimizer, model: nn.Module, steps: range) -> None:
    for step in steps:
        torch.manual_seed(step)
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        for group in optimizer.param_groups:
            group["lr"] = 0.01 / (1 + step)
        optimizer.step()


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_every_module_has_a_file_and_every_file_a_module():
    used = {
        read_config(compose_config(["task=cifar100", f"regularizer={name}"])).regularizer.optimizer for name in NAMES
    }
    modules = {module.name for module in pkgutil.iter_modules(tasks.regularizers.__path__)}
    assert used == modules == set(optimizers())


@every
def test_every_kind_of_layer_is_trained(name):
    model = Layers()
    before = values(model)
    feed(built(name, model), model, range(4))
    for part, value in values(model).items():
        assert value.isfinite().all() and not torch.equal(value, before[part]), part


# A schedule-free average goes on moving towards the weights that are stepped.
@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("schedule_free")])
def test_biases_and_norms_stay_where_they_are_at_a_learning_rate_of_zero(name):
    model = Layers()
    optimizer = built(name, model)
    feed(optimizer, model, range(3))
    before = values(model)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    for part, value in values(model).items():
        assert torch.equal(value, before[part]) or value.ndim > 1, part


@every
def test_a_loaded_state_continues_to_the_bit(name, tmp_path):
    whole, stopped = Layers(), Layers()
    feed(built(name, whole), whole, range(8))
    first = built(name, stopped)
    feed(first, stopped, range(5))
    torch.save({"model": stopped.state_dict(), "optimizer": first.state_dict()}, tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = Layers(seed=1)
    second = built(name, resumed)
    resumed.load_state_dict(saved["model"])
    second.load_state_dict(saved["optimizer"])
    feed(second, resumed, range(5, 8))
    for part, value in values(resumed).items():
        assert torch.equal(value, values(whole)[part]), part


def test_muon_is_torch_s_on_matrices_and_adamw_on_all_other_parameters():
    ours, theirs = Layers(), Layers()
    optimizer = built("muon", ours)
    matrices, others = optimizer.param_groups
    feed(optimizer, ours, range(6))
    decay, adam = matrices["weight_decay"], {"betas": others["betas"], "eps": others["eps"], "weight_decay": 0.0}
    reference = [
        torch.optim.Muon([theirs.head.weight], momentum=0.95, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([*theirs.norm.parameters(), theirs.head.bias], **adam),
    ]
    for step in range(6):
        for one in reference:
            feed(one, theirs, range(step, step + 1))
    # Both orthogonalize in bfloat16.
    assert torch.allclose(ours.head.weight, theirs.head.weight, atol=2e-4)
    assert torch.allclose(ours.norm.weight, theirs.norm.weight, rtol=1e-6)
    assert torch.allclose(ours.head.bias, theirs.head.bias, rtol=1e-6)


def test_muon_takes_the_filters_of_a_convolution_as_the_rows_of_a_matrix():
    model = Layers()
    matrix = nn.Parameter(model.image.weight.detach().flatten(1).clone())
    torch.manual_seed(0)
    matrix.grad = torch.randn_like(model.image.weight).flatten(1)  # the first that `feed` draws
    feed(built("muon", model, "regularizer.weight_decay=0"), model, range(1))
    torch.optim.Muon([matrix], lr=0.01, momentum=0.95, weight_decay=0.0, adjust_lr_fn="match_rms_adamw").step()
    assert torch.allclose(model.image.weight.flatten(1), matrix, atol=2e-4)


@pytest.mark.parametrize("name", ["hyperball", "muonh"])
def test_every_matrix_keeps_its_norm_and_no_other_parameter_does(name):
    model = Layers()
    before = {part: value.norm() for part, value in values(model).items()}
    optimizer = built(name, model)
    assert isinstance(optimizer, Hyperball)
    feed(optimizer, model, range(20))
    kept = {part for part, value in values(model).items() if torch.isclose(value.norm(), before[part], rtol=1e-5)}
    assert kept == {"image.weight", "volume.weight", "head.weight"}


def test_adamc_s_output_layer_is_a_layer_of_the_model():
    model = Layers()
    decays = {
        id(p): group["corrected"]
        for group in built("adamc", model, "regularizer.output=head").param_groups
        if group["regularize"]
        for p in group["params"]
    }
    assert [decays[id(p)] for p in (model.image.weight, model.volume.weight, model.head.weight)] == [True, True, False]
    with pytest.raises(
        UserError, match=r"regularizer\.output=fc is no layer of the model; it has image, volume, token"
    ):
        built("adamc", Layers(), "regularizer.output=fc")


@pytest.mark.parametrize("name", ["schedule_free", "schedule_free_cpr"])
def test_schedule_free_methods_refuse_a_falling_learning_rate(name):
    with pytest.raises(UserError, match=rf"{name} averages .*; say task\.schedule\.decay=constant"):
        built(name, Layers(), "task.schedule.decay=cosine")


def test_a_schedule_free_run_evaluates_the_average_and_goes_on_from_the_trained_weights():
    model = Layers()
    optimizer = built("schedule_free", model)
    feed(optimizer, model, range(6))
    before = values(model)
    averages = {name: optimizer.state[p]["z"] for name, p in model.named_parameters()}
    beta = optimizer.param_groups[0]["betas"][0]
    with evaluating(optimizer):
        for name, x in values(model).items():
            assert torch.allclose(before[name], beta * x + (1 - beta) * averages[name], atol=1e-6), name
            assert not torch.allclose(x, before[name], atol=1e-5), name
    for name, value in values(model).items():
        assert torch.allclose(value, before[name], atol=1e-6), name


@pytest.mark.parametrize("regularizer", [("schedule_free",), ("schedule_free_cpr", "regularizer.warm_start=9")])
def test_a_stopped_schedule_free_run_ends_with_the_same_bits(tmp_path, regularizer):
    name, *keys = regularizer
    common = ("task=grokking", "task.data.modulus=13", "task.model.width=8", "task.model.heads=2", "quiet=true")
    steps = ("num_steps=30", "task.eval_every_steps=7", "checkpoint_every_steps=10", "task.schedule.warmup_steps=4")
    overrides = [*common, *steps, "task.schedule.decay=constant", f"regularizer={name}", *keys]
    whole = run(compose_config([*overrides, f"runs_dir={tmp_path / 'whole'}"]))
    stopped = compose_config([*overrides, f"runs_dir={tmp_path / 'stopped'}"])

    def stop(_: int, taken: list[int] = []) -> None:  # noqa: B006
        taken.append(1)
        if len(taken) == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(stopped, stop)
    again = run(stopped)
    assert (again["state_sha256"], again["metrics"]) == (whole["state_sha256"], whole["metrics"])
