"""Small models that a task trains before its runs: interrupted, resumed, and without a trace in the caller."""

import os
import signal

import pytest
import torch

from tasks.engine.checkpoint import digest
from tasks.engine.config import SmallModel
from tasks.engine.errors import Interrupted
from tasks.engine.kept import trained
from tasks.engine.seeding import random_state
from tasks.engine.workload import Workload

SMALL = SmallModel(batch_size=6, steps=8, lr=0.1, weight_decay=0.01, warmup_steps=2, seed=3)


def training(signal_at: int | None = None) -> tuple[Workload, torch.optim.Optimizer]:
    """A linear layer of random batches. The process gets a SIGTERM at step `signal_at`."""
    model = torch.nn.Linear(4, 2)

    def batch_at(step: int) -> torch.Tensor:
        if step == signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return torch.randn(6, 4, generator=torch.Generator().manual_seed(step))

    def loss(model: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return (model(batch) - 1).square().mean()

    workload = Workload(model, batch_at, loss, evaluate=lambda model: {}, metric=None)
    return workload, torch.optim.AdamW(model.parameters())


def test_an_interrupted_training_resumes_and_ends_with_the_same_bits(tmp_path):
    whole = trained(tmp_path / "whole.pt", SMALL, training, final_factor=0.1, quiet=True)
    path = tmp_path / "stopped.pt"
    with pytest.raises(Interrupted, match="stopped at step 6 of 8; run the same command to resume"):
        trained(path, SMALL, lambda: training(signal_at=5), final_factor=0.1, quiet=True)
    assert not path.exists()
    steps = []

    def counted() -> tuple[Workload, torch.optim.Optimizer]:
        workload, optimizer = training()
        optimizer.register_step_post_hook(lambda *_: steps.append(1))
        return workload, optimizer

    resumed = trained(path, SMALL, counted, final_factor=0.1, quiet=True)
    assert len(steps) == 2 and digest(resumed) == digest(whole)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["stopped.lock", "stopped.pt", "whole.lock", "whole.pt"]


def test_the_caller_s_threads_and_random_numbers_stay_as_they_were(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        before = random_state()
        trained(tmp_path / "model.pt", SMALL, training, final_factor=0.0, quiet=True)
        after = random_state()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert before["python"] == after["python"] and torch.equal(before["torch"], after["torch"])
    assert torch.equal(before["numpy"][1], after["numpy"][1]) and before["numpy"][2:] == after["numpy"][2:]
