"""The recipes of DeiT and ResNet-50 equal timm's: models, groups, learning rates, augmentation, losses."""

import math

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import Mixup, create_transform, resolve_data_config
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import nn

from cpr import regularized_names
from scripts.cli.common import compose_config
from scripts.sweep.artefacts import load_artefact
from scripts.sweep.plan import expand
from tasks.engine.batching import epoch_order
from tasks.engine.config import read_config
from tasks.engine.cpr_keys import warm_start_steps
from tasks.engine.errors import UserError
from tasks.engine.optimizers import build_optimizer
from tasks.engine.schedule import lr_factor
from tasks.engine.seeding import derive
from tasks.imagenet.model import build, check
from tasks.models.flops import flops_per_image
from tasks.recipes.timm import Mixing, criterion, drawing_from, eval_transform, train_transform

# DeiT's arguments under their names in timm's train.py (huggingface/pytorch-image-models, commit
# 004fb5f8), without its defaults. Values are the defaults of main.py (facebookresearch/deit, commit
# 0282d2a1). A comment marks the paper's other values.
DEIT = {
    "opt": "adamw",
    "opt_eps": 1e-8,
    "lr": 1e-3,  # --lr 5e-4 for each 512 images. The paper's batch is twice as large
    "sched": "cosine",
    "epochs": 300,
    "warmup_epochs": 5,
    "warmup_lr": 1e-6,
    "min_lr": 1e-5,
    "aa": "rand-m9-mstd0.5",  # the paper's (main.py: rand-m9-mstd0.5-inc1)
    "train_interpolation": "bicubic",
    "reprob": 0.25,
    "remode": "pixel",
    "mixup": 0.8,
    "cutmix": 1.0,
    "mixup_switch_prob": 0.5,
    "smoothing": 0.1,
    "drop_path": 0.1,
    "batch_size": 256,  # the paper's, on each of 4 GPUs (main.py: 64)
}
DEIT_MODELS = {"imagenet": "deit_small_patch16_224", "deit_base": "deit_base_patch16_224"}
MODELS = DEIT_MODELS | {"resnet50": "resnet50"}
either_deit = pytest.mark.parametrize("task", DEIT_MODELS)
every_model = pytest.mark.parametrize("task", MODELS)


def paper(task: str, *overrides: str):
    fixed = [f"task={task}", "scale=paper", "regularizer=adamw", "regularizer.weight_decay=0.05"]
    return read_config(compose_config([*fixed, *overrides]))


def without_memory(task: str) -> nn.Module:
    with torch.device("meta"):
        return build(paper(task).task.model)


@pytest.mark.parametrize(
    ("task", "parameters"), [("imagenet", 22_050_664), ("deit_base", 86_567_656), ("resnet50", 25_557_032)]
)
def test_a_model_is_timm_s_with_the_paper_s_number_of_parameters(task, parameters):
    model = without_memory(task)
    assert sum(p.numel() for p in model.parameters()) == parameters
    with torch.device("meta"):
        theirs = timm.create_model(MODELS[task], drop_path_rate=0.05 if task == "resnet50" else DEIT["drop_path"])
    assert repr(model) == repr(theirs)
    assert [(n, p.shape) for n, p in model.named_parameters()] == [(n, p.shape) for n, p in theirs.named_parameters()]


@every_model
def test_the_groups_are_timm_s_and_regularized_is_what_decays_there(task):
    model = without_memory(task)
    ours = build_optimizer(paper(task), model)
    theirs = create_optimizer_v2(model, opt=DEIT["opt"], lr=DEIT["lr"], weight_decay=0.05, eps=DEIT["opt_eps"])

    def decaying(optimizer):
        return {id(p) for group in optimizer.param_groups if group["weight_decay"] == 0.05 for p in group["params"]}

    assert decaying(ours) == decaying(theirs)
    of_all = [{id(p) for group in optimizer.param_groups for p in group["params"]} for optimizer in (ours, theirs)]
    assert of_all[0] == of_all[1]
    for key in ("betas", "eps"):
        assert {group[key] for group in ours.param_groups} == {group[key] for group in theirs.param_groups}


@every_model
def test_no_bias_norm_token_or_position_is_regularized_and_every_other_matrix_is(task):
    model = without_memory(task)
    layers = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    assert set(regularized_names(model, paper(task).task.reg_embedding)) == layers
    assert not {"cls_token", "pos_embed"} & layers


def timm_s_schedule(**more):
    """Return an optimizer with timm's scheduler of DeiT, and its number of epochs."""
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=DEIT["lr"])
    arguments = {"num_epochs": DEIT["epochs"]} | {
        key: DEIT[key] for key in ("sched", "warmup_epochs", "warmup_lr", "min_lr")
    }
    return optimizer, *create_scheduler_v2(optimizer, **arguments, **more)


@either_deit
def test_the_learning_rate_at_the_start_of_every_epoch_is_timm_s(task):
    cfg = paper(task)
    optimizer, scheduler, epochs = timm_s_schedule()
    assert epochs == 300 and cfg.num_steps == 300 * 1256 and cfg.task.schedule.warmup_steps == 6280
    for epoch in range(epochs + 1):
        scheduler.step(epoch)
        ours = cfg.lr * lr_factor(cfg.task.schedule, 1256 * epoch, cfg.num_steps)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


@either_deit
def test_the_learning_rate_of_every_step_is_timm_s_with_updates_in_place_of_epochs(task):
    cfg = paper(task)
    optimizer, scheduler, _ = timm_s_schedule(step_on_epochs=False, updates_per_epoch=1256)
    for step in (0, 1, 3140, 6279, 6280, 100_001, 376_799):
        scheduler.step_update(step)
        ours = cfg.lr * lr_factor(cfg.task.schedule, step, cfg.num_steps)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


def test_the_steps_of_an_epoch_follow_from_timm_s_readers_and_the_warm_starts_are_the_paper_s():
    gpus, workers, batch_size = 4, 8, DEIT["batch_size"]
    assert math.ceil(math.ceil(1_281_167 / (gpus * workers)) / batch_size) * workers == 1256
    warmup = paper("imagenet").task.schedule.warmup_steps
    assert [warm_start_steps(value, warmup) for value in ("1x", "2x", "4x")] == [6280, 12560, 25120]
    a2 = paper("resnet50").task
    assert (a2.num_steps, a2.schedule.warmup_steps) == (300 * (1_281_167 // 2048), 5 * (1_281_167 // 2048))


@pytest.mark.parametrize(
    "wrong", ["+task.schedule.start_factor=-0.1", "+task.schedule.start_factor=2", "+task.schedule.warmup_prefix=3"]
)
def test_a_wrong_start_of_a_schedule_is_refused_with_the_name_of_the_key(wrong):
    with pytest.raises(UserError, match=wrong.removeprefix("+").split("=")[0]):
        read_config(compose_config(["task=grokking", wrong]))


def picture(seed: int, width: int = 300, height: int = 260) -> Image.Image:
    """Return a picture of coloured blocks with noise."""
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, 200, (5, 6, 3)).repeat(height // 5, axis=0).repeat(width // 6, axis=1)
    return Image.fromarray((blocks + generator.integers(0, 56, blocks.shape)).astype(np.uint8))


@either_deit
def test_training_and_validation_images_are_those_of_timm_s_arguments(task):
    cfg = paper(task).task
    data = resolve_data_config({}, model=without_memory(task))
    common = {"input_size": data["input_size"], "mean": data["mean"], "std": data["std"]}
    theirs = create_transform(
        **common,
        is_training=True,
        interpolation=DEIT["train_interpolation"],
        auto_augment=DEIT["aa"],
        color_jitter=cfg.augment.color_jitter,
        re_prob=DEIT["reprob"],
        re_mode=DEIT["remode"],
    )
    ours = train_transform(cfg.data, cfg.augment)
    assert repr(ours) == repr(theirs)
    assert "ColorJitter" not in repr(ours)
    for seed in range(6):
        results = []
        for transform in (ours, theirs):
            with drawing_from(seed):
                results.append(transform(picture(seed)))
        assert results[0].shape == (3, 224, 224) and torch.equal(*results)
    evaluated = create_transform(**common, interpolation=data["interpolation"], crop_pct=data["crop_pct"])
    assert repr(eval_transform(cfg.data)) == repr(evaluated)
    assert torch.equal(eval_transform(cfg.data)(picture(9)), evaluated(picture(9)))


def test_a2_erases_nothing_and_crops_95_percent_for_validation():
    cfg = paper("resnet50").task
    assert "RandomErasing" not in repr(train_transform(cfg.data, cfg.augment))
    assert "size=235" in repr(eval_transform(cfg.data)) and cfg.augment.repeats == 3


def test_a2_mixes_little_drops_few_paths_and_has_the_learning_rate_of_deit_s_rule():
    """Check Table 2 of arXiv 2110.00476 without the optimizer's settings."""
    cfg = paper("resnet50")
    augment = cfg.task.augment
    assert (augment.randaugment, augment.mixup, augment.cutmix, augment.label_smoothing) == (
        "rand-m7-mstd0.5-inc1",
        0.1,
        1.0,
        0.0,
    )
    assert cfg.task.model.arguments["drop_path_rate"] == 0.05 and cfg.task.batch_size == 2048
    assert cfg.lr == 5e-4 * 2048 / 512
    rates = [cfg.lr * lr_factor(cfg.task.schedule, step, cfg.num_steps) for step in (0, 3125, cfg.num_steps)]
    assert rates == pytest.approx([2e-6, 2e-3, 1e-6], rel=1e-3)


def test_sgd_has_cross_entropy_at_both_scales_since_a2_s_loss_has_gradients_of_a_thousandth():
    definition = load_artefact("resnet50")
    losses = {"paper": set(), "mini": set()}
    for scale, found in losses.items():
        for cfg in expand(definition, {"scale": scale}, {}).values():
            found.add(
                (cfg.regularizer.name in ("sgd", "sgd_cpr"), cfg.task.loss.name, cfg.task.augment.label_smoothing)
            )
    assert losses["paper"] == losses["mini"] == {(True, "cross_entropy", 0.1), (False, "binary_cross_entropy", 0)}
    # If every class has probability 1/1,000, sigmoid and softmax are the same.
    logits = torch.full((8, 1000), -math.log(999.0))
    targets = F.one_hot(torch.arange(8), 1000).float()
    gradients = []
    for name in ("binary_cross_entropy", "cross_entropy"):
        given = logits.clone().requires_grad_()
        criterion(paper("resnet50", f"task.loss.name={name}").task.loss)(given, targets).backward()
        gradients.append(given.grad)
    torch.testing.assert_close(1000 * gradients[0], gradients[1], rtol=1e-4, atol=1e-7)


def test_a_batch_is_mixed_as_timm_mixes_that_of_each_gpu():
    cfg = paper("imagenet").task
    mixing = Mixing(cfg.augment, 1000, cfg.batch_size, seed=5)
    images, labels = torch.randn(1024, 3, 6, 6), torch.randint(0, 1000, (1024,))
    mixed, targets = mixing.mix(7, mixing.rows(0, 1024), images.clone(), labels)
    arguments = {
        "mixup_alpha": DEIT["mixup"],
        "cutmix_alpha": DEIT["cutmix"],
        "label_smoothing": DEIT["smoothing"],
        "num_classes": 1000,
    }
    theirs = Mixup(**arguments, prob=1.0, switch_prob=DEIT["mixup_switch_prob"], mode="batch")
    for gpu in range(4):
        rows = slice(256 * gpu, 256 * (gpu + 1))
        with drawing_from(derive(5, "mix", 7, gpu)):
            expected = theirs(images[rows].clone(), labels[rows])
        assert torch.equal(mixed[rows], expected[0]) and torch.equal(targets[rows], expected[1])
    assert not torch.equal(mixed, images) and torch.allclose(targets.sum(1), torch.ones(1024))


@pytest.mark.parametrize("world", [2, 3, 8, 32])
def test_a_part_of_a_batch_is_mixed_as_in_the_whole_and_needs_no_more_than_its_mirror_images(world):
    augment = paper("imagenet", "task.augment.mix_group=8").task.augment
    mixing = Mixing(augment, 10, 32, seed=5)
    images, labels = torch.randn(32, 3, 6, 6), torch.arange(32) % 10
    whole = mixing.mix(3, mixing.rows(0, 32), images.clone(), labels)
    for rank in range(world):
        begin, end = rank * 32 // world, (rank + 1) * 32 // world
        rows = mixing.rows(begin, end)
        assert len(rows) <= 2 * (end - begin) and set(range(begin, end)) <= set(rows)
        mixed, targets = mixing.mix(3, rows, images[rows], labels[rows])
        own = slice(rows.index(begin), rows.index(begin) + end - begin)
        assert torch.equal(mixed[own], whole[0][begin:end]) and torch.equal(targets[own], whole[1][begin:end])


def test_without_mixup_and_cutmix_labels_are_smoothed_and_images_stay():
    augment = paper("imagenet", "task.augment.mixup=0", "task.augment.cutmix=0").task.augment
    images = torch.randn(4, 3, 6, 6)
    mixed, targets = Mixing(augment, 10, 4, seed=5).mix(0, [0, 1, 2, 3], images.clone(), torch.arange(4))
    assert torch.equal(mixed, images)
    torch.testing.assert_close(targets, F.one_hot(torch.arange(4), 10) * 0.9 + 0.01)


@pytest.mark.parametrize(("group", "batch_size"), [(8, 12), (3, 9), (256, 7)])
def test_groups_that_are_odd_or_do_not_divide_the_batch_are_refused(group, batch_size):
    augment = paper("imagenet", f"task.augment.mix_group={group}").task.augment
    with pytest.raises(UserError, match=r"mix_group=\d must be even and divide task\.batch_size="):
        Mixing(augment, 10, batch_size, seed=5)


def test_the_losses_are_cross_entropy_with_soft_labels_and_one_of_each_class_on_its_own():
    logits, targets = torch.randn(5, 4), torch.tensor([0.7, 0.3, 0.0, 0.0]).repeat(5, 1)
    soft = criterion(paper("imagenet").task.loss)(logits, targets)
    torch.testing.assert_close(soft, F.cross_entropy(logits, targets))
    each = criterion(paper("resnet50").task.loss)(logits, targets)
    torch.testing.assert_close(each, F.binary_cross_entropy_with_logits(logits, (targets > 0).float()))
    with pytest.raises(UserError, match=r"task\.loss\.name=hinge is unknown; choose one of cross_entropy, binary"):
        paper("imagenet", "task.loss.name=hinge")


def test_drawing_from_a_seed_leaves_the_global_generators_as_they_were():
    torch.manual_seed(1)
    np.random.seed(1)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(1)
    np.random.seed(1)
    with drawing_from(7):
        first = torch.rand(3), np.random.rand(3)
    assert torch.equal(torch.rand(3), expected[0]) and (np.random.rand(3) == expected[1]).all()
    with drawing_from(7):
        assert torch.equal(torch.rand(3), first[0]) and (np.random.rand(3) == first[1]).all()


def test_repeated_augmentation_has_each_image_three_times_in_a_row_and_no_partial_batch():
    order = epoch_order(20, 6, seed=1, drop_last=True, repeats=3)
    epoch = torch.cat([order(step) for step in range(3)])
    assert [len(order(step)) for step in range(7)] == [6] * 7
    assert epoch.view(6, 3).unique(dim=1).shape == (6, 1) and len(epoch.unique()) == 6
    plain = epoch_order(20, 6, seed=1, drop_last=True)
    assert len(torch.cat([plain(step) for step in range(3)]).unique()) == 18


@pytest.mark.parametrize(("task", "products"), [("imagenet", 4.60e9), ("deit_base", 17.56e9), ("resnet50", 4.09e9)])
def test_an_image_costs_six_times_the_published_multiplications(task, products):
    assert flops_per_image(without_memory(task), 224) == pytest.approx(6 * products, rel=0.01)


@pytest.mark.parametrize(
    "wrong", ["task.model.timm=deit_huge", "+task.model.arguments.depth=many", "+task.model.arguments.layers=3"]
)
def test_a_model_that_timm_cannot_make_is_said(wrong):
    with pytest.raises(UserError, match=r"task\.model: timm cannot make deit_\w+ with arguments={drop_path_rate: 0\.1"):
        build(paper("imagenet", wrong).task.model)


def test_the_trial_of_a_model_changes_neither_its_state_nor_what_is_drawn_next():
    cfg = paper("resnet50", "task.model.timm=resnet10t").task.model
    network = build(cfg)  # has batch normalization, whose statistics training changes
    before, drawn = [tensor.clone() for tensor in network.state_dict().values()], torch.get_rng_state()
    check(network, cfg, 64)
    assert network.training and torch.equal(torch.get_rng_state(), drawn)
    assert all(map(torch.equal, network.state_dict().values(), before))
