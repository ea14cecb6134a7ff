"""The task segmentation: data sets in nnU-Net's format, plans, the trainer beside nnU-Net's own, validation, and runs."""

import json
import resource
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ROOT, call, is_one_line, records, start, wait_until
from omegaconf import OmegaConf

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("nnunetv2")

from cpr import regularized_names  # noqa: E402
from scripts.common import compose_config  # noqa: E402
from scripts.plan import expand, load_artefact  # noqa: E402
from tasks.engine import checkpoint  # noqa: E402
from tasks.engine.errors import TrainingFailed, UserError  # noqa: E402
from tasks.engine.optimizers import build_optimizer  # noqa: E402
from tasks.engine.run import build_workload, run  # noqa: E402
from tasks.engine.schedule import lr_factor  # noqa: E402
from tasks.engine.seeding import seed_everything  # noqa: E402
from tasks.segmentation import mni, nnunet, owners, raw, task, validation  # noqa: E402
from tasks.segmentation.nnunet import Plan  # noqa: E402
from tasks.segmentation.raw import Case, Facts  # noqa: E402

CPU = torch.device("cpu")
MADE = Facts("MNI152", ["MRI"], ["background", "grey", "white"], 4, "none")
SETTINGS = [
    "task=segmentation",
    "scale=mini",
    "device=cpu",
    "quiet=true",
    "num_steps=6",
    "task.folds=2",
    "task.plan.patch=[16,16,16]",
    "task.plan.features=[2,4]",
    "task.schedule.warmup_steps=2",
    "task.log_every_steps=1",
    "task.eval_every_steps=null",
]
SGD = ["regularizer=sgd", "lr=1e-2", "regularizer.momentum=0.99", "regularizer.nesterov=true"]


def volume(values, affine=None):
    return nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine)


def made_case(number: int) -> Case:
    """A bright box in noise, with a brighter one in it."""
    draw = np.random.default_rng(number)
    label = np.zeros((18, 18, 18), np.uint8)
    label[4:13, 4:13, 4:13] = 1
    x, y, z = draw.integers(5, 8, 3)
    label[x : x + 4, y : y + 4, z : z + 4] = 2
    image = (label * 60 + draw.integers(20, 60, label.shape)).astype(np.uint8)
    return Case(f"case_{number}", [volume(image)], volume(label))


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A data folder with four small made cases, preprocessed by the first test that needs them."""
    root = tmp_path_factory.mktemp("segmentation")
    raw.write(root, MADE, (made_case(number) for number in range(4)))
    return root


@pytest.fixture(autouse=True)
def no_process_group(monkeypatch):
    """Other tests leave a group of one process, which nnU-Net would take for a share of a run on several GPUs."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)


def config(made, *more):
    return compose_config([*SETTINGS, f"data_dir={made}", *more])


def trainer_of(made, tmp_path, *more, fold=0):
    return task.make_trainer(config(made, f"runs_dir={tmp_path}", *more), fold, CPU)


# Data sets


@pytest.fixture(scope="session")
def blocks():
    from tasks.engine import pypi

    try:
        return list(mni.cases(pypi.archive(*mni.WHEEL)))
    except UserError as error:
        pytest.skip(str(error))


def test_mini_scale_has_twelve_blocks_of_one_hemisphere_with_gaps_between_them(blocks):
    assert len(blocks) == 12 == len({case.name for case in blocks})
    places = [case.label.affine[:3, 3].round().astype(int) for case in blocks]
    for place, case in zip(places, blocks, strict=True):
        assert case.label.shape == mni.SIZE
        assert place[0] + mni.SIZE[0] <= 0  # in mm from the middle plane: the right hemisphere mirrors the left one
        assert np.array_equal(np.diag(case.label.affine), [1, 1, 1, 1])
    for number, one in enumerate(places):
        for other in places[:number]:
            assert any(abs(a - b) >= size + mni.GAP for a, b, size in zip(one, other, mni.SIZE, strict=True))


def test_mini_scale_s_labels_are_tissue(blocks):
    for case in blocks:
        image, label = np.asarray(case.channels[0].dataobj), np.asarray(case.label.dataobj)
        assert set(np.unique(label)) == {0, 1, 2}
        assert (label > 0).mean() > 0.6
        assert image[label == 2].mean() > image[label == 1].mean() > image[label == 0].mean()  # T1: white matter is bright


def test_the_likeliest_tissue_is_the_label():
    grey, white = np.array([[0, 200, 60, 128, 100]], np.uint8), np.array([[0, 55, 140, 127, 100]], np.uint8)
    assert mni.tissue(grey, white).tolist() == [[0, 1, 2, 1, 1]]


def test_the_same_cases_give_the_same_bytes(made, tmp_path):
    raw.write(tmp_path, MADE, (made_case(number) for number in range(4)))
    assert raw.manifest(tmp_path, "MNI152") == raw.manifest(made, "MNI152")
    folder = raw.folder_of(tmp_path, "MNI152")
    assert json.loads((folder / "dataset.json").read_text())["labels"] == {"background": 0, "grey": 1, "white": 2}
    (folder / "labelsTr" / "case_2.nii.gz").write_bytes(b"")
    assert not raw.finished(tmp_path, "MNI152") and raw.finished(made, "MNI152")
    with pytest.raises(UserError, match=r"labelsTr/case_2\.nii\.gz is missing or not as long as it was; bring the data set anew with"):
        raw.manifest(tmp_path, "MNI152")


def shifted(affine_shift: float):
    affine = np.eye(4)
    affine[0, 3] = affine_shift
    return affine


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: Case(c.name, c.channels * 2, c.label), "2 images, not one for each of MRI"),
        (lambda c: Case(c.name, c.channels, volume(np.zeros((18, 18, 17), np.uint8))), r"shape \(18, 18, 18\), its label \(18, 18, 17\)"),
        (lambda c: Case(c.name, c.channels, volume(np.full((18, 18, 18), 3, np.uint8))), r"label 3 is none of 0 to 2 \(background, grey"),
        (lambda c: Case(c.name, c.channels, volume(np.full((18, 18, 18), 0.5))), r"label 0\.5 is none of"),
        (lambda c: Case(c.name, c.channels, volume(np.asarray(c.label.dataobj), shifted(5))), "lie at different places"),
        (lambda c: Case(c.name, [volume(np.full((18, 18, 18), np.nan))], c.label), "holds NaN"),
    ],
)
def test_a_case_that_nnunet_could_not_use_is_said_and_nothing_is_left(change, words, tmp_path):
    with pytest.raises(UserError, match=f"MNI152, case case_1: .*{words}"):
        raw.write(tmp_path, MADE, (change(made_case(number)) if number == 1 else made_case(number) for number in range(4)))
    assert not raw.finished(tmp_path, "MNI152")
    assert not raw.folder_of(tmp_path, "MNI152").exists()
    with pytest.raises(UserError, match="has 3 cases here, not 4"):
        raw.write(tmp_path, MADE, (made_case(number) for number in range(3)))


# What owners publish


def save(path: Path, values) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(volume(np.full((3, 3, 3), values, np.uint8)), path)


def read(source, folder):
    return [(case.name, len(case.channels), int(np.asarray(case.label.dataobj).max())) for case in owners.cases(source, folder)]


def test_the_decathlon_s_layout(tmp_path):
    for name in ("la_003", "la_004"):
        save(tmp_path / "imagesTr" / f"{name}.nii.gz", 9)
        save(tmp_path / "labelsTr" / f"{name}.nii.gz", 1)
    (tmp_path / "imagesTr" / "._la_003.nii.gz").write_bytes(b"left by macOS")
    assert read(owners.HEART, tmp_path) == [("la_003", 1, 1), ("la_004", 1, 1)]
    (tmp_path / "labelsTr" / "la_004.nii.gz").unlink()
    with pytest.raises(UserError, match=r"labelsTr/la_004\.nii\.gz is missing: an image has a label of the same name"):
        read(owners.HEART, tmp_path)


def test_synapse_s_layout(tmp_path):
    save(tmp_path / "img" / "img0001.nii.gz", 9)
    save(tmp_path / "label" / "label0001.nii.gz", 13)
    assert read(owners.BTCV, tmp_path) == [("img0001", 1, 13)]
    assert len(owners.BTCV.facts.labels) == 14 and owners.BTCV.facts.cases == 30


def test_brats_s_layout_with_four_images_and_a_label_that_is_left_out(tmp_path):
    for number, label in ((1, "BraTS20_Training_001_seg.nii.gz"), (355, "W39_1998.09.19_Segm.nii")):
        patient = tmp_path / f"BraTS20_Training_{number:03}"
        for kind in ("t1", "t1ce", "t2", "flair"):
            save(patient / f"{patient.name}_{kind}.nii", 9)
        save(patient / label, 4)
    assert read(owners.BRATS, tmp_path) == [("BraTS20_Training_001", 4, 3), ("BraTS20_Training_355", 4, 3)]


def test_of_amos_the_ct_volumes_are_taken(tmp_path):
    for name in ("amos_0004", "amos_0507"):
        save(tmp_path / "imagesTr" / f"{name}.nii.gz", 9)
        save(tmp_path / "labelsTr" / f"{name}.nii.gz", 15)
    assert read(owners.AMOS22, tmp_path) == [("amos_0004", 1, 15)]


def test_what_the_user_has_to_download_is_said(tmp_path):
    done = call("prepare_data.py", "segmentation", "Heart", f"data_dir={tmp_path}")
    assert done.returncode == 2
    is_one_line(done, "Task02_Heart.tar", "medicaldecathlon.com", "CC BY-SA 4.0", "unpack it there")
    (tmp_path / "segmentation" / "source" / "amos22").mkdir(parents=True)
    with pytest.raises(UserError, match="not laid out as its owners publish it"):
        read(owners.AMOS22, tmp_path / "segmentation" / "source" / "amos22")


# Plans


def test_preprocessing_is_done_once_for_each_data_set_and_plan(made, tmp_path):
    folder = Path(trainer_of(made, tmp_path).preprocessed_dataset_folder_base)
    changed = (folder / "nnUNetPlans.json").stat().st_mtime_ns
    assert Path(trainer_of(made, tmp_path, "seed=5").preprocessed_dataset_folder_base) == folder
    assert (folder / "nnUNetPlans.json").stat().st_mtime_ns == changed
    splits = json.loads((folder / "splits_final.json").read_text())
    assert Counter(name for split in splits for name in split["val"]) == {f"case_{number}": 1 for number in range(4)}
    assert all(not set(split["train"]) & set(split["val"]) for split in splits)
    other = tmp_path / "data"
    raw.write(other, MADE, (made_case(number) for number in range(10, 14)))
    assert Path(trainer_of(other, tmp_path).preprocessed_dataset_folder_base).parent.name != folder.parent.name


FULL = {  # the paper's patches; spacing in mm, as nnU-Net finds it; channels and labels
    "segmentation": ([80, 192, 160], [1.37, 1.25, 1.25], 1, 2),
    "segmentation_btcv": ([48, 192, 192], [3.0, 0.76, 0.76], 1, 14),
    "segmentation_brats": ([128, 128, 128], [1.0, 1.0, 1.0], 4, 4),
}


@pytest.fixture
def full_network(made, tmp_path):
    """The network of a task at paper scale, without memory."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    def build(name: str):
        configuration = dict(trainer_of(made, tmp_path).plans_manager.plans["configurations"]["3d_fullres"])
        patch, spacing, channels, labels = FULL[name]
        settings = compose_config([f"task={name}", "scale=paper"]).task
        assert list(settings.plan.patch) == patch and settings.batch_size == 2
        configuration["spacing"] = spacing
        nnunet.apply(configuration, Plan(tuple(patch), tuple(settings.plan.features), settings.batch_size, settings.folds))
        architecture = configuration["architecture"]
        with torch.device("meta"):
            return get_network_from_plans(
                architecture["network_class_name"],
                architecture["arch_kwargs"],
                architecture["_kw_requires_import"],
                channels,
                labels,
                allow_init=False,
                deep_supervision=True,
            )

    return build


@pytest.mark.parametrize("name", FULL)
def test_the_paper_s_patches_go_through_nnunet_s_network(name, full_network):
    network, (patch, _, channels, labels) = full_network(name), FULL[name]
    outputs = network(torch.empty(2, channels, *patch, device="meta"))
    assert outputs[0].shape == (2, labels, *patch)
    assert 25e6 < sum(p.numel() for p in network.parameters()) < 40e6
    names = set(regularized_names(network))
    for key, parameter in network.named_parameters():
        assert (key in names) == (key.endswith("weight") and parameter.ndim == 5), key  # convolutions, without biases and norms
    assert any("transpconvs" in key for key in names) and any("seg_layers" in key for key in names)


def test_the_paper_s_sgd_has_momentum_and_regularizes_the_convolutions_alone(full_network):
    configs = [
        cfg for cfg in expand(load_artefact("table_j1"), {"scale": "paper", "seeds": "1"}, {}).values() if cfg.task.data.name == "Heart"
    ]
    network = full_network("segmentation")
    for cfg in (cfg for cfg in configs if cfg.regularizer.name == "sgd"):
        optimizer = build_optimizer(cfg, network)
        regularized, others = optimizer.param_groups
        for group in (regularized, others):
            assert (group["lr"], group["momentum"], group["nesterov"]) == (0.01, 0.99, True)
        assert (regularized["weight_decay"], others["weight_decay"]) == (cfg.regularizer.weight_decay, 0)
        assert all(p.ndim == 5 for p in regularized["params"]) and all(p.ndim == 1 for p in others["params"])
    assert {cfg.regularizer.name for cfg in configs} == {"sgd", "sgd_cpr", "adamw", "adamcpr_ws"}
    for cfg in configs:
        assert cfg.regularizer.name != "sgd_cpr" or (cfg.lr, cfg.regularizer.momentum, cfg.regularizer.nesterov) == (0.01, 0.99, True)


def test_nnunet_s_default_decays_everything(full_network):
    cfg = compose_config(["task=segmentation_amos22", "scale=paper", *SGD, "regularizer.weight_decay=3e-5"])
    assert {group["weight_decay"] for group in build_optimizer(cfg, full_network("segmentation")).param_groups} == {3e-5}


def test_the_paper_s_schedule():
    cfg = compose_config(["task=segmentation", "scale=paper", "lr=1e-2"])
    factors = {step: lr_factor(cfg.task.schedule, step, cfg.num_steps) for step in (0, 2000, 10_000, 25_000)}
    assert factors == pytest.approx({0: 0, 2000: 1, 10_000: (15 / 23) ** 0.9, 25_000: 0})
    assert compose_config(["task=segmentation_btcv", "scale=paper"]).num_steps == 125_000
    amos = compose_config(["task=segmentation_amos22", "scale=paper"])
    assert lr_factor(amos.task.schedule, 0, amos.num_steps) == 1


def test_settings_that_cannot_be_are_said(made, tmp_path):
    for settings, words in (
        (["task.plan.patch=[18,16,16]"], r"task\.plan\.patch=\[18, 16, 16\] cannot be halved as often .* is \[20, 16, 16\]"),
        (["task.folds=5"], "task.folds=5 are more than MNI152's 4 cases"),
        (["task.fold=2"], "task.fold=2 must be a whole number from 0 to 1, or null"),
        (["gpus=2"], "trains on one GPU"),
        (["task.data.name=Head"], "task.data.name=Head is unknown; choose one of MNI152, Heart"),
    ):
        with pytest.raises(UserError, match=words):
            build_workload(config(made, f"runs_dir={tmp_path}", *settings), CPU)
    with pytest.raises(UserError, match=r"Heart is not in .*bring it with: python scripts/prepare_data\.py segmentation Heart data_dir="):
        build_workload(config(made, f"runs_dir={tmp_path}", "task.data.name=Heart"), CPU)


def test_without_nnunet_the_command_to_install_it_is_said(made, monkeypatch):
    monkeypatch.setattr(nnunet.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs nnU-Net v2: make setup EXTRAS=segmentation"):
        build_workload(config(made), CPU)


def test_seeds_are_folds():
    assert [task.fold_of(None, 5, seed) for seed in (1, 2, 5, 6)] == [0, 1, 4, 0]
    assert task.fold_of(3, 5, 1) == 3


# The trainer


def losses(trainer, steps: int) -> list[float]:
    """The losses of `steps` iterations in nnU-Net's loop, with epochs of one iteration; validation left out."""
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
    """Initialized and with batches from the global generators, as nnU-Net has them."""
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


def test_a_batch_depends_on_seed_and_iteration_alone(made, tmp_path):
    first, again, other = (build_workload(config(made, f"runs_dir={tmp_path}", f"seed={seed}", "task.fold=0"), CPU) for seed in (1, 1, 2))
    for step in (7, 0, 3):
        ours, theirs = first.batch_at(step), again.batch_at(step)
        assert torch.equal(ours[0], theirs[0])
        assert all(torch.equal(a, b) for a, b in zip(ours[1], theirs[1], strict=True))
    assert ours[0].shape == (2, 1, 16, 16, 16) and len(ours[1]) > 1
    assert not torch.equal(first.batch_at(0)[0], other.batch_at(0)[0])


def test_processes_that_read_ahead_change_no_batch(made, tmp_path):
    alone, ahead = (build_workload(config(made, f"runs_dir={tmp_path}", f"loader_workers={workers}"), CPU) for workers in (0, 1))
    for step in (2, 3, 0):
        assert torch.equal(alone.batch_at(step)[0], ahead.batch_at(step)[0])


def test_nnunet_s_command_line_finds_the_trainer_and_its_configuration(made, tmp_path, monkeypatch):
    from nnunetv2.run.run_training import get_trainer_from_args

    trainer_of(made, tmp_path)  # points nnU-Net's variables to the data
    path = tmp_path / "my.yaml"
    OmegaConf.save(config(made, "regularizer=adamcpr_ws", "num_steps=500"), path, resolve=True)
    monkeypatch.setenv("nnUNet_extTrainer", str(ROOT / "tasks" / "segmentation"))
    monkeypatch.setenv("CPR_CONFIG", str(path))
    trainer = get_trainer_from_args("900", "3d_fullres", 1, "CPRTrainer", device=CPU)
    trainer.initialize()
    assert type(trainer.optimizer).__name__ == "AdamCPR"
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.fold) == (2, 250, 1)
    monkeypatch.delenv("CPR_CONFIG")
    with pytest.raises(UserError, match="CPRTrainer needs a configuration: set CPR_CONFIG"):
        get_trainer_from_args("900", "3d_fullres", 1, "CPRTrainer", device=CPU).initialize()


def test_dice_over_the_batch_is_not_split(made, tmp_path, monkeypatch):
    original = task.make_trainer

    def over_the_batch(*arguments):
        trainer = original(*arguments)
        trainer.configuration_manager.configuration["batch_dice"] = True
        return trainer

    monkeypatch.setattr(task, "make_trainer", over_the_batch)
    with pytest.raises(UserError, match="Dice over the whole batch"):
        build_workload(config(made, f"runs_dir={tmp_path}", "micro_batch=1"), CPU)


# Validation


def test_dice_is_that_of_the_predicted_files(made, tmp_path):
    cfg = config(made, f"runs_dir={tmp_path}")
    metrics = build_workload(cfg, CPU).evaluate(None)
    (predicted,) = tmp_path.glob("segmentation/*/nnunet/Dataset900_MNI152/*/fold_0/validation")
    scores = {1: [], 2: []}
    for path in predicted.glob("*.nii.gz"):
        label, found = (np.asarray(nibabel.load(file).dataobj) for file in (raw.folder_of(made, "MNI152") / "labelsTr" / path.name, path))
        for number, values in scores.items():
            values.append(200 * ((label == number) & (found == number)).sum() / ((label == number).sum() + (found == number).sum()))
    assert len(scores[1]) == 2
    assert metrics["dice_grey"] == pytest.approx(np.mean(scores[1])) and metrics["dice_white"] == pytest.approx(np.mean(scores[2]))
    assert metrics["dice"] == pytest.approx((metrics["dice_grey"] + metrics["dice_white"]) / 2)


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


def test_a_fold_whose_loss_is_not_finite_is_on_record(made, tmp_path):
    cfg = config(made, f"runs_dir={tmp_path}", *SGD[:1], "lr=1e30", "task.grad_clip=null")
    with pytest.raises(TrainingFailed, match="loss is"):
        run(cfg)
    assert records(tmp_path)[next(iter(records(tmp_path)))]["status"] == "failed"


def test_too_little_memory_for_a_patch_is_said(made, tmp_path):
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))  # a batch of such patches has 8.6 GB

    large = [*SETTINGS, *SGD, "task.plan.patch=[1024,1024,1024]", f"data_dir={made}", f"runs_dir={tmp_path}"]
    done = call("train.py", *large, preexec_fn=limited)
    assert done.returncode == 1
    is_one_line(done, "ran out of memory before its first step", "smaller")
    assert records(tmp_path) == {}


def test_a_killed_fold_goes_on_and_ends_with_the_same_bits_beside_another_fold(made, tmp_path):
    arguments = [*SETTINGS, "regularizer=sgd_cpr", *SGD[1:], "regularizer.warm_start=3", "num_steps=40", f"data_dir={made}"]
    arguments += ["checkpoint_every_steps=1"]
    whole = run(compose_config([*arguments, f"runs_dir={tmp_path / 'whole'}"]))
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
    assert len(records(tmp_path / "killed")) == 2
    pictures = sorted(path.name for path in (tmp_path / "killed" / "segmentation" / whole["run_id"] / "overlays").iterdir())
    assert len(pictures) == 2 and all(name.startswith("case_") and name.endswith(".png") for name in pictures)


def test_a_killed_preparation_leaves_nothing_that_is_taken_for_whole(made, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(raw.folder_of(made, "MNI152"), raw.folder_of(data, "MNI152"))
    arguments = [*SETTINGS, *SGD, f"data_dir={data}", f"runs_dir={tmp_path / 'runs'}"]
    process = start("train.py", *arguments)
    folder = data / "segmentation" / "preprocessed"
    wait_until(lambda: list(folder.glob(".*.tmp/*/dataset_fingerprint.json")) or process.poll() is not None)
    process.kill()
    process.communicate()
    assert not [path for path in folder.iterdir() if not path.name.startswith(".")]
    run(compose_config(arguments))
    assert [path.name for path in folder.iterdir() if path.name.endswith(".tmp")] == []
