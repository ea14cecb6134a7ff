"""The task segmentation's training: the trainer beside nnU-Net's own, validation, and runs of folds."""

import json
import resource

import numpy as np
import pytest
import torch
from commands import call, is_one_line, records, start, wait_until
from made_segmentation import CPU, SETTINGS, SGD, config, nibabel, trainer_of

from scripts.cli.common import compose_config
from scripts.sweep.local import run_all
from tasks.engine import checkpoint
from tasks.engine.config import read_config
from tasks.engine.errors import TrainingFailed, UserError
from tasks.engine.records import run_id
from tasks.engine.run import build_workload, run
from tasks.engine.seeding import seed_everything
from tasks.segmentation import raw, task, validation
from tasks.segmentation.trainer import MeanCrossEntropy

# The trainer


def losses(trainer, steps: int) -> list[float]:
    """Return the losses of `steps` iterations in nnU-Net's loop, in epochs of one, without validation."""
    trainer.num_epochs, trainer.num_iterations_per_epoch = steps, 1
    trainer.lr_scheduler.max_steps = steps
    found = []
    for epoch in range(steps):
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
        found.append(float(trainer.train_step(next(trainer.dataloader_train))["loss"]))
    return found


def stock_trainer(made, tmp_path, steps: int):
    """nnU-Net's own trainer, on the same plans."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    own = trainer_of(made, tmp_path)
    plans = own.plans_manager.plans | {"continue_training": False}
    trainer = nnUNetTrainer(plans, "3d_fullres", 0, own.dataset_json, CPU)
    trainer.num_epochs = steps
    return trainer


def ready(trainer, seed: int = 1):
    """Initialize the trainer, with batches from the global generators as in nnU-Net."""
    seed_everything(seed)
    trainer.initialize()
    seed_everything(seed)
    trainer.dataloader_train, trainer.dataloader_val = trainer.get_dataloaders()
    return trainer


def compared(made, tmp_path, steps: int) -> tuple[list[float], list[float]]:
    ours = trainer_of(
        made,
        tmp_path,
        *SGD,
        "regularizer.weight_decay=3e-5",
        "task.decay_all=true",
        "task.weight_decay_multiplier=1",
        "task.schedule.warmup_steps=0",
        f"num_steps={steps}",
        "deterministic=false",
    )
    return losses(ready(ours), steps), losses(ready(stock_trainer(made, tmp_path, steps)), steps)


def test_with_weight_decay_and_without_warmup_our_losses_are_those_of_nnunet_s_own_trainer(made, tmp_path):
    ours, theirs = compared(made, tmp_path, 50)
    assert ours == theirs
    assert len(set(ours)) == 50 and sum(ours[-10:]) < sum(ours[:10])


def test_nnunet_s_loop_and_the_suite_s_end_with_the_same_weights(made, tmp_path):
    settings = ["regularizer=sgd_cpr", *SGD[1:], "regularizer.warm_start=2", f"runs_dir={tmp_path}"]
    cfg = config(made, *settings)
    run(cfg)
    (path,) = tmp_path.glob("segmentation/*/checkpoint.pt")
    saved = checkpoint.read(path)
    trainer = trainer_of(made, tmp_path / "nnunet", *settings[:-1])
    trainer.initialize()
    trainer.dataloader_train, _ = trainer.get_dataloaders()
    trainer.set_deep_supervision_enabled(True)
    trainer.on_train_epoch_start()
    for _ in range(cfg.num_steps):
        trainer.train_step(next(trainer.dataloader_train))
    assert checkpoint.digest(trainer.network.state_dict()) == checkpoint.digest(saved["model"])


def test_on_a_gpu_the_deterministic_loss_is_nnunet_s_own(made, tmp_path):
    """torch's mean over voxels has no deterministic form on a GPU."""
    trainer = trainer_of(made, tmp_path, "deterministic=true")
    trainer.initialize()
    outputs = [
        output.detach().requires_grad_()
        for output in trainer.network(torch.randn(2, 1, *trainer.configuration_manager.patch_size))
    ]
    targets = [torch.randint(0, output.shape[1], (2, 1, *output.shape[2:])).float() for output in outputs]
    found = []
    for device in (CPU, torch.device("cuda")):  # the loss itself is computed on the CPU
        trainer.device = device
        loss = trainer._build_loss()
        value = loss(outputs, targets)
        found.append((value.item(), *(gradient for gradient in torch.autograd.grad(value, outputs, allow_unused=True))))
        assert any(isinstance(part, MeanCrossEntropy) for part in loss.modules()) == (device.type == "cuda")
    (ours, *gradients), (theirs, *expected) = found
    assert ours == pytest.approx(theirs, rel=1e-6)
    for a, b in zip(gradients, expected, strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, rtol=1e-5, atol=1e-9)


def test_voxels_that_are_ignored_do_not_count_in_the_mean():
    logits, target = torch.randn(2, 3, 4, 4, 4), torch.randint(0, 3, (2, 4, 4, 4))
    target[0, 0] = 9
    mean = torch.nn.CrossEntropyLoss(ignore_index=9)(logits, target)
    assert MeanCrossEntropy(torch.nn.CrossEntropyLoss(ignore_index=9))(logits, target).item() == pytest.approx(
        mean.item(), rel=1e-6
    )


def test_a_batch_depends_on_seed_and_iteration_alone(made, tmp_path):
    first, again, other = (
        build_workload(read_config(config(made, f"runs_dir={tmp_path}", f"seed={seed}", "task.fold=0")), CPU)
        for seed in (1, 1, 2)
    )
    for step in (7, 0, 3):
        ours, theirs = first.batch_at(step), again.batch_at(step)
        assert torch.equal(ours[0], theirs[0])
        assert all(torch.equal(a, b) for a, b in zip(ours[1], theirs[1], strict=True))
    assert ours[0].shape == (2, 1, 16, 16, 16) and len(ours[1]) > 1
    assert not torch.equal(first.batch_at(0)[0], other.batch_at(0)[0])


def test_processes_that_read_ahead_change_no_batch(made, tmp_path):
    alone, ahead = (
        build_workload(read_config(config(made, f"runs_dir={tmp_path}", f"loader_workers={workers}")), CPU)
        for workers in (0, 1)
    )
    for step in (2, 3, 0):
        assert torch.equal(alone.batch_at(step)[0], ahead.batch_at(step)[0])


@pytest.mark.parametrize(("clip", "precision"), [(1e-3, "fp32"), (None, "fp32"), (12, "bf16")])
def test_in_nnunet_s_loop_clipping_and_precision_are_the_configuration_s(clip, precision, made, tmp_path):
    settings = [
        f"task.grad_clip={'null' if clip is None else clip}",
        f"task.precision={precision}",
        *SGD,
        f"runs_dir={tmp_path}",
    ]
    trainer = ready(trainer_of(made, tmp_path, *settings))
    trainer.set_deep_supervision_enabled(True)
    kinds = []
    trainer.network.encoder.stages[0].register_forward_hook(lambda module, given, output: kinds.append(output.dtype))
    trainer.on_train_epoch_start()
    trainer.train_step(next(trainer.dataloader_train))
    norm = torch.nn.utils.get_total_norm([p.grad for p in trainer.network.parameters() if p.grad is not None]).item()
    assert norm == pytest.approx(clip, rel=1e-3) if clip == 1e-3 else norm > 1e-2
    assert kinds == [torch.bfloat16 if precision == "bf16" else torch.float32]


def test_dice_over_the_batch_is_not_split(made, tmp_path, monkeypatch):
    original = task.make_trainer

    def over_the_batch(*arguments):
        trainer = original(*arguments)
        trainer.configuration_manager.configuration["batch_dice"] = True
        return trainer

    monkeypatch.setattr(task, "make_trainer", over_the_batch)
    with pytest.raises(UserError, match="Dice over the whole batch"):
        build_workload(read_config(config(made, f"runs_dir={tmp_path}", "micro_batch=1")), CPU)


# Validation


def test_dice_is_that_of_the_predicted_files(made, tmp_path):
    cfg = config(made, f"runs_dir={tmp_path}")
    metrics = build_workload(read_config(cfg), CPU).evaluate(None)
    (predicted,) = tmp_path.glob("segmentation/*/nnunet/Dataset900_MNI152/*/fold_0/validation")
    scores = {1: [], 2: []}
    for path in predicted.glob("*.nii.gz"):
        label, found = (
            np.asarray(nibabel.load(file).dataobj)
            for file in (raw.folder_of(made, "MNI152") / "labelsTr" / path.name, path)
        )
        for number, values in scores.items():
            values.append(
                200
                * ((label == number) & (found == number)).sum()
                / ((label == number).sum() + (found == number).sum())
            )
    assert len(scores[1]) == 2
    assert metrics["dice_grey"] == pytest.approx(np.mean(scores[1])) and metrics["dice_white"] == pytest.approx(
        np.mean(scores[2])
    )
    assert metrics["dice"] == pytest.approx((metrics["dice_grey"] + metrics["dice_white"]) / 2)


def test_at_paper_scale_patches_are_evaluated_while_it_trains_and_whole_cases_at_the_end(made, tmp_path):
    cfg = config(made, f"runs_dir={tmp_path}", *SGD, "num_steps=4", "task.online_batches=2", "task.eval_every_steps=2")
    found = run(cfg)["metrics"]
    (log,) = tmp_path.glob("segmentation/*/metrics.jsonl")
    first, last = [row for row in map(json.loads, log.read_text().splitlines()) if "online_dice" in row]
    assert "dice" not in first and {"step": 4} | found == last
    assert {name.removeprefix("online_") for name in first if name != "step"} == {
        name for name in found if name.startswith("dice")
    }
    workload = build_workload(read_config(cfg), CPU)
    once, again = workload.evaluate(workload.model), workload.evaluate(workload.model)
    assert once == again and 0 <= once["online_dice"] <= 100
    assert (cfg_paper := read_config(compose_config(["task=segmentation", "scale=paper"])).task).online_batches == 50
    assert cfg_paper.eval_every_steps == 1000


def test_online_dice_is_that_of_all_voxels_of_the_patches(made, tmp_path):
    trainer = trainer_of(made, tmp_path)
    trainer.initialize()
    trainer.open_patches()
    trainer.set_deep_supervision_enabled(True)
    hits, sizes = np.zeros(2), np.zeros(2)
    for number in range(3):
        batch = trainer.validation_batch_at(number)
        with torch.no_grad():
            predicted = trainer.network.eval()(batch["data"])[0].argmax(1, keepdim=True)
        for label in (1, 2):
            right, found = batch["target"][0] == label, predicted == label
            hits[label - 1] += (right & found).sum().item()
            sizes[label - 1] += right.sum().item() + found.sum().item()
    metrics = validation.online_dice(trainer, 3)
    assert [metrics["online_dice_grey"], metrics["online_dice_white"]] == pytest.approx((200 * hits / sizes).tolist())


def test_a_picture_shows_image_label_and_prediction():
    image, label = np.arange(64, dtype=float).reshape(8, 8), np.zeros((8, 8), np.uint8)
    label[2, 5] = 1
    picture = np.asarray(validation.overlay(image, label, np.zeros_like(label), height=8)).astype(int)
    assert picture.shape == (8, 24, 3)
    plain, labelled, predicted = picture[:, :8], picture[:, 8:16], picture[:, 16:]
    assert np.array_equal(plain, predicted)
    changed = np.argwhere((plain != labelled).any(axis=-1))
    assert changed.tolist() == [[8 - 1 - 5, 2]]  # the last axis points up


# Runs


def test_seeds_are_folds():
    assert [task.fold_of(None, 5, seed) for seed in (1, 2, 5, 6)] == [0, 1, 4, 0]
    assert task.fold_of(3, 5, 1) == 3


def test_a_fold_whose_loss_is_not_finite_is_on_record(made, tmp_path):
    cfg = config(made, f"runs_dir={tmp_path}", *SGD[:1], "lr=1e30", "task.grad_clip=null")
    with pytest.raises(TrainingFailed, match="loss is"):
        run(cfg)
    assert records(tmp_path)[next(iter(records(tmp_path)))]["status"] == "diverged"


@pytest.mark.slow
def test_a_fold_that_fails_is_said_and_the_others_of_the_sweep_finish(made, tmp_path, capfd):
    settings = ["num_steps=4", "task.grad_clip=null", f"runs_dir={tmp_path}"]
    failing, finishing = (
        config(made, *SGD[:1], *settings, f"seed={seed}", f"lr={lr}") for seed, lr in ((1, "1e30"), (2, "1e-2"))
    )
    run_all([failing, finishing], jobs=1, title="folds")
    ended = {record["seed"]: record["status"] for record in records(tmp_path).values()}
    assert ended == {1: "diverged", 2: "finished"}
    assert f"run {run_id(failing)} diverged: loss is" in capfd.readouterr().err


@pytest.mark.slow
def test_too_little_memory_for_a_patch_is_said(made, tmp_path):
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))  # a batch of such patches takes 8.6 GB

    large = [*SETTINGS, *SGD, "task.plan.patch=[1024,1024,1024]", f"data_dir={made}", f"runs_dir={tmp_path}"]
    done = call("train.py", *large, preexec_fn=limited)
    assert done.returncode == 1
    is_one_line(done, "ran out of memory before its first step", "free some; then run the same command again")
    assert records(tmp_path) == {}


@pytest.mark.weekly
def test_a_killed_fold_goes_on_and_ends_with_the_same_bits_beside_another_fold(made, tmp_path):
    arguments = [
        *SETTINGS,
        "regularizer=sgd_cpr",
        *SGD[1:],
        "regularizer.warm_start=3",
        "num_steps=40",
        f"data_dir={made}",
    ]
    arguments += ["checkpoint_every_steps=1"]
    whole, other = (
        run(compose_config([*arguments, f"runs_dir={tmp_path / 'whole'}", f"seed={seed}"])) for seed in (1, 2)
    )
    process = start("train.py", *arguments, f"runs_dir={tmp_path / 'killed'}")
    beside = start("train.py", *arguments, "seed=2", f"runs_dir={tmp_path / 'killed'}")
    wait_until(lambda: list((tmp_path / "killed").glob(f"segmentation/{whole['run_id']}/checkpoint.pt")))
    process.kill()
    process.communicate()
    assert whole["run_id"] not in records(tmp_path / "killed")
    done = call("train.py", *arguments, f"runs_dir={tmp_path / 'killed'}")
    assert done.returncode == 0, done.stderr
    assert beside.wait(120) == 0
    beside.communicate()
    resumed = records(tmp_path / "killed")[whole["run_id"]]
    assert whole["metrics"] == resumed["metrics"] and whole["state_sha256"] == resumed["state_sha256"]
    neighbour = records(tmp_path / "killed")[other["run_id"]]
    assert other["metrics"] == neighbour["metrics"] and other["state_sha256"] == neighbour["state_sha256"]
    assert len(records(tmp_path / "killed")) == 2
    pictures = sorted(
        path.name for path in (tmp_path / "killed" / "segmentation" / whole["run_id"] / "overlays").iterdir()
    )
    assert len(pictures) == 2 and all(name.startswith("case_") and name.endswith(".png") for name in pictures)
