"""The task clip: the small CLIP, a run's start, batches, mistakes, and a run."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from commands import call, records, write_fashion_mnist
from PIL import Image

from scripts.cli.common import compose_config
from scripts.sweep.artefacts import load_artefact
from scripts.sweep.plan import expand
from tasks.clip import data as clip_data
from tasks.clip import prepare, pretrained, small, task
from tasks.clip.config import SmallClip
from tasks.data.images import loader
from tasks.data.images.labelled import load
from tasks.engine import checkpoint
from tasks.engine.batching import micro_batches
from tasks.engine.config import Config, read_config
from tasks.engine.cpr_keys import warm_start_steps
from tasks.engine.errors import UserError
from tasks.engine.launch import Launch
from tasks.engine.run import build_workload
from tasks.engine.schedule import lr_factor
from tasks.engine.section import read_part
from tasks.engine.seeding import random_state
from tasks.recipes.timm import eval_transform

CPU = torch.device("cpu")
TINY = [
    *(
        "task=clip",
        "scale=mini",
        "quiet=true",
        "num_steps=6",
        "task.batch_size=16",
        "task.eval_batch_size=20",
        "task.wise_ft=[0,0.5,1]",
    ),
    *(
        "task.data.train_size=60",
        "task.data.val_size=50",
        "task.small.images=200",
        "task.small.batch_size=16",
        "task.small.steps=3",
    ),
    *("task.small.shape.embed_dim=16", "task.small.shape.vision_cfg.width=32", "task.small.shape.vision_cfg.layers=2"),
    *(
        "task.small.shape.vision_cfg.head_width=16",
        "task.small.shape.text_cfg.width=16",
        "task.small.shape.text_cfg.layers=1",
    ),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_fashion_mnist(tmp_path_factory.mktemp("data"))


def config(root: Path, *more: str) -> Config:
    return read_config(compose_config([*TINY, "regularizer=adamcpr_ip", f"data_dir={root}", *more]))


def sha(model) -> str:
    return checkpoint.digest(model.state_dict())


# The protocol


def test_the_paper_s_protocol_has_10_epochs_of_512_a_warm_up_of_500_and_a_cosine_to_nothing():
    cfg = read_config(compose_config(["task=clip", "scale=paper", "regularizer=adamw"]))
    assert cfg.task.batch_size == 512 and cfg.num_steps == 10 * (1_281_167 // 512) == 25_020
    assert (list(cfg.task.betas), cfg.task.eps, cfg.task.grad_clip, cfg.task.head) == (
        [0.9, 0.999],
        1e-8,
        1.0,
        "random",
    )
    middle = (500 + 25_020) // 2
    rates = [cfg.task.lr * lr_factor(cfg.task.schedule, step, cfg.num_steps) for step in (0, 250, 500, middle, 25_020)]
    assert rates == pytest.approx([0, 1.5e-5, 3e-5, 1.5e-5, 0], abs=1e-12)
    assert [warm_start_steps(start, cfg.task.schedule.warmup_steps) for start in ("1x", "2x", "4x")] == [
        500,
        1000,
        2000,
    ]
    table2 = expand(load_artefact("table2"), {"scale": "paper"}, {}).values()
    assert {run.lr for run in table2} == {3e-5} and len(table2) == 9 * 3  # seeds


# The small CLIP and the data


def test_the_small_clip_that_is_prepared_is_that_of_a_run():
    of_run = read_config(compose_config(["task=clip", "scale=mini"])).task.small
    assert read_part(SmallClip, prepare.MINI, "task.small") == of_run


def test_the_small_clip_is_kept_by_configuration_and_images(root, tmp_path):
    own = config(root).task.small
    first = small.trained(root, own, quiet=True)
    path = small.kept_at(root, own)
    changed = path.stat().st_mtime_ns
    assert sha(small.trained(root, own, quiet=True)) == sha(first)
    assert path.stat().st_mtime_ns == changed
    path.write_bytes(path.read_bytes()[:-100])
    assert sha(small.trained(root, own, quiet=True)) == sha(first)  # a damaged one is made again, with the same bits
    assert small.kept_at(root, own.model_copy(update={"lr": 1e-4})) != path
    assert small.kept_at(write_fashion_mnist(tmp_path, train=300), own).name != path.name


def test_a_run_s_random_numbers_do_not_depend_on_whether_it_trained_the_small_clip(root):
    other = ("task.small.seed=9",)
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(sha(build_workload(config(root, *other), CPU).model) + str(random_state()["torch"].sum()))
    assert states[0] == states[1]


def test_the_small_clip_sees_no_image_of_the_fine_tuning_and_none_of_an_unnamed_class(root):
    own = config(root).task.small
    tuned = load(config(root).task.data, root, "train").indices
    assert not set(tuned) & set(small.subset(400, own).tolist()) and len(tuned) + own.images < 400
    unnamed = {own.classes.index(name) for name in own.unnamed}
    pixels, classes = small.pairs(root, own)
    assert set(classes.tolist()) == set(range(10)) - unnamed and 100 < len(pixels) == len(classes) < 200
    with pytest.raises(
        UserError, match=r"task\.small\.images=200 and task\.data\.train_size=201 must be disjoint parts of 400 images"
    ):
        task.build(config(root, "task.data.train_size=201"), CPU)


def test_images_are_transformed_as_open_clip_does():
    cfg = read_config(compose_config(["task=clip", "scale=paper"])).task
    pixels = torch.randint(0, 256, (40, 50, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    picture = Image.fromarray(pixels.numpy()).resize((300, 250))
    train, plain = (open_clip.image_transform(224, is_train=training) for training in (True, False))
    assert torch.equal(eval_transform(cfg.data)(picture), plain(picture))
    torch.manual_seed(1)
    expected = train(picture)
    torch.manual_seed(1)
    assert torch.equal(clip_data.train_transform(cfg.data, cfg.augment)(picture), expected)


@pytest.mark.parametrize("world", [1, 3])
def test_a_batch_depends_on_seed_and_step_alone_and_each_process_reads_its_part(root, world, monkeypatch):
    def batch(rank: int, seed: int = 1):
        monkeypatch.setattr(loader, "launched", lambda: Launch(rank, world, rank))
        cfg = config(root, f"seed={seed}")
        return clip_data.batches(load(cfg.task.data, root, "train"), cfg, CPU)(4)

    parts = [part for rank in range(world) for part, _ in micro_batches(batch(rank), rank, world)]
    pixels, classes = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    assert pixels.shape == (16, 3, 28, 28) and classes.shape == (16,) and classes.dtype == torch.int64
    monkeypatch.undo()
    cfg = config(root)
    whole = clip_data.batches(load(cfg.task.data, root, "train"), cfg, CPU)(4)[0:16]
    assert torch.equal(pixels, whole[0]) and torch.equal(classes, whole[1])
    if world == 1:
        assert not torch.equal(batch(0, seed=2)[0:16][0], pixels)


# A run


def test_heads_are_as_configured_and_a_run_s_random_head_is_its_seed_s(root):
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(build_workload(config(root), CPU).model.state_dict())
    assert torch.equal(states[0]["head.weight"], states[1]["head.weight"])
    assert not torch.equal(states[0]["head.weight"], states[2]["head.weight"])
    assert all(torch.equal(states[0][name], states[2][name]) for name in states[0] if name.startswith("tower."))
    assert states[0]["head.bias"].abs().max() > 0
    workload = build_workload(config(root, "task.head=zero_shot"), CPU)
    assert workload.model.head.normalize and workload.model.head.bias.abs().max() == 0
    assert all(p.requires_grad for p in workload.model.parameters())
    before = workload.evaluate(workload.model)["top1_accuracy"]
    assert workload.at_end(workload.model) == dict.fromkeys(
        ("zero_shot_accuracy", "wise_ft_0.0", "wise_ft_0.5", "wise_ft_1.0"), before
    )


@pytest.mark.slow
def test_a_run_has_zero_shot_and_wise_ft_scores_in_its_last_evaluation(root, tmp_path):
    own = ("regularizer=adamcpr_ws", "regularizer.warm_start=2", "task.eval_every_steps=3", "quiet=false")
    done = call("train.py", *TINY, *own, f"data_dir={root}", f"runs_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "regularized: 11 of 34 tensors" in done.stdout + done.stderr
    (record,) = records(tmp_path).values()
    metrics = record["metrics"]
    assert set(metrics) == {
        "top1_accuracy",
        "top1_accuracy_selection",
        "top1_accuracy_report",
        "validation_loss",
        "zero_shot_accuracy",
        "wise_ft_0.0",
        "wise_ft_0.5",
        "wise_ft_1.0",
    }
    assert (
        metrics["wise_ft_0.0"] == metrics["zero_shot_accuracy"] and metrics["wise_ft_1.0"] == metrics["top1_accuracy"]
    )
    assert record["metric"] == {"name": "top1_accuracy", "unit": "%", "better": "higher"}
    (log,) = tmp_path.glob("clip/*/metrics.jsonl")
    evaluations = [row for row in map(json.loads, log.read_text().splitlines()) if "top1_accuracy" in row]
    assert [(row["step"], "wise_ft_1.0" in row) for row in evaluations] == [(3, False), (6, True)]


# Mistakes


def test_missing_weights_are_one_line_with_the_command(tmp_path):
    with pytest.raises(
        UserError,
        match=r"^OpenAI's weights .* are not in .*: python scripts/prepare_data\.py clip ImageNet data_dir=.*$",
    ):
        task.build(read_config(compose_config(["task=clip", "scale=paper", f"data_dir={tmp_path}"])), CPU)
    with pytest.raises(
        UserError, match=r"OpenAI's weights are of ViT-B-32-quickgelu; name a file with task\.checkpoint=PATH"
    ):
        pretrained.kept_at(tmp_path, "ViT-B-16")
    with pytest.raises(UserError, match=r"FashionMNIST \(train\) is not in .*prepare_data\.py"):
        task.build(config(tmp_path), CPU)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.head=linear", r"task\.head=linear is unknown; choose one of random, zero_shot"),
        ("task.wise_ft=[0,1.5]", r"task\.wise_ft=\[0, 1\.5\] must be a list of numbers in \[0, 1\]"),
        ("task.data.image_size=32", r"task\.data\.image_size=32 is not the model's 28"),
        (
            "task.zero_shot.classes=[]",
            r"task\.zero_shot\.classes=\[\] must be imagenet, or a list of text, at least one",
        ),
        ("task.zero_shot.templates=[a photo]", r"must be a list of sentences with \{\} for the name, or openai"),
        ("task.zero_shot.classes=[bag,coat]", r"FashionMNIST .* has 10 classes, and task\.zero_shot\.classes names 2"),
        ("task.batch_size=64", r"60 training images, fewer than task\.batch_size=64"),
        ("+task.small.colour=red", r"task\.small\.colour is unknown; did you mean"),
        ("+task.small.shape.colour=red", r"task\.small\.shape: open_clip cannot make a CLIP of it"),
        ("task.small.unnamed=[hat]", r"task\.small\.unnamed: 'hat' is not one of task\.small\.classes"),
        ("task.small.images=401", r"task\.small\.images=401 and task\.data\.train_size=60 must be disjoint parts"),
    ],
)
def test_a_mistake_is_one_line(root, override, message):
    with pytest.raises(UserError, match=message) as error:
        task.build(config(root, override), CPU)
    assert "\n" not in str(error.value)


def test_sharded_weights_are_refused(root):
    with pytest.raises(UserError, match="compares whole weights, which parallel=fsdp divides; use parallel=ddp"):
        task.build(config(root, "parallel=fsdp", "gpus=2"), CPU)
