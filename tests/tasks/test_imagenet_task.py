"""ImageNet from files to a record: batches, workers, evaluation, failures, DeiT-Small, and Table 1."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from commands import call, call_forked, is_one_line, records, write_fashion_mnist
from kills import killed_runs_end_the_same
from made_runs import artefact, run
from PIL import Image

from results import Run
from results.cells import cell_table, readable
from results.layouts import heatmap
from results.runs import frame
from results.schema import at_scale
from scripts.cli.common import compose_config
from scripts.prepare_data import prepare_task
from scripts.sweep.plan import expand
from tasks.data.images import loader, prepare
from tasks.data.images.labelled import load, read
from tasks.engine import run as engine
from tasks.engine.batching import micro_batches
from tasks.engine.config import read_config
from tasks.engine.errors import UserError
from tasks.engine.launch import Launch
from tasks.engine.seeding import random_state
from tasks.engine.workload import Work
from tasks.imagenet import data as imagenet
from tasks.imagenet.task import build

CPU = torch.device("cpu")
TINY = (
    *(
        "task=imagenet",
        "scale=mini",
        "quiet=true",
        "task.data.train_size=60",
        "task.data.val_size=50",
        "task.batch_size=16",
    ),
    *(
        "task.augment.mix_group=4",
        "task.model.arguments.embed_dim=16",
        "task.model.arguments.depth=1",
        "task.eval_batch_size=20",
    ),
)
TABLE1 = artefact("table1")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_fashion_mnist(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Write four training and three validation images in two classes, as in ImageNet."""
    root = tmp_path_factory.mktemp("folders")
    generator = np.random.default_rng(0)
    for split, counts in (("train", (3, 1)), ("val", (1, 2))):
        for name, count in zip(("n01440764", "n01443537"), counts, strict=True):
            folder = root / "imagenet" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (10, 12, 3), dtype=np.uint8).repeat(28, axis=0).repeat(28, axis=1)
                Image.fromarray(pixels).save(folder / f"{name}_{number}.JPEG")
    return root


def tiny(data: Path, *overrides: str):
    return read_config(compose_config([*TINY, "regularizer=adamcpr_ip", f"data_dir={data}", *overrides]))


def batches(data: Path, *overrides: str):
    cfg = tiny(data, *overrides)
    return imagenet.batches(load(cfg.task.data, data, "train"), cfg, CPU)


def same(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_batch_is_a_function_of_seed_and_step_for_any_order_of_calls_and_any_number_of_workers(data):
    in_order = batches(data, "num_steps=7")
    expected = {step: in_order(step)[0:16] for step in range(7)}
    assert len({images.numpy().tobytes() for images, _ in expected.values()}) == 7
    assert all(images.shape == (16, 3, 28, 28) and targets.shape == (16, 10) for images, targets in expected.values())
    other_order = batches(data, "num_steps=7")
    assert all(same(other_order(step)[0:16], expected[step]) for step in (6, 2, 3, 3, 0))
    with_workers = batches(data, "num_steps=5", "loader_workers=2")
    assert all(same(with_workers(step)[0:16], expected[step]) for step in (0, 1, 2, 4, 5, 6))
    assert not same(batches(data, "seed=2")(0)[0:16], expected[0])


def test_reading_draws_nothing_from_the_global_generators(data):
    batch_at = batches(data)
    before = random_state()
    batch_at(0)
    after = random_state()
    assert before["python"] == after["python"] and torch.equal(before["torch"], after["torch"])
    assert torch.equal(before["numpy"][1], after["numpy"][1]) and before["numpy"][2:] == after["numpy"][2:]


@pytest.mark.parametrize("world", [2, 3, 8])
def test_each_process_reads_its_own_part_of_the_batch(data, world, monkeypatch):
    whole = batches(data)(1)[0:16]
    parts = []
    for rank in range(world):
        monkeypatch.setattr(loader, "launched", lambda rank=rank: Launch(rank, world, rank))
        batch = batches(data)(1)
        assert len(batch) == 16 and len(batch.images) == (rank + 1) * 16 // world - rank * 16 // world
        parts += [part for part, _ in micro_batches(batch, rank, world, 1 if world == 8 else None)]
    assert same((torch.cat(tensors) for tensors in zip(*parts, strict=True)), whole)
    with pytest.raises(IndexError, match="rows 0 to 1 are another process's"):
        batch[0:1]


def test_an_epoch_has_every_image_once_with_its_own_label(data):
    plain = (
        "task.augment.mixup=0",
        "task.augment.cutmix=0",
        "task.augment.label_smoothing=0",
        "task.augment.randaugment=null",
    )
    batch_at = batches(
        data,
        *plain,
        "task.data.train_size=null",
        "task.batch_size=100",
        "task.augment.erasing=0",
        "task.augment.mix_group=50",
    )
    labels = torch.cat([batch_at(step)[0:100][1].argmax(1) for step in range(4)])
    assert labels.bincount().tolist() == [40] * 10
    assert not torch.equal(batch_at(4)[0:100][1], batch_at(0)[0:100][1])


def test_evaluation_is_the_plain_count_over_all_validation_images(data):
    cfg = tiny(data, "task.data.val_size=null")
    torch.manual_seed(0)
    workload = build(cfg, CPU)
    metrics = workload.evaluate(workload.model)
    images = read("FashionMNIST", data, "val")
    pixels = (images.data.float() / 255 - 0.286) / 0.353
    with torch.no_grad():
        logits = workload.model.eval()(pixels[:, None].expand(-1, 3, -1, -1))
    order = logits.argsort(descending=True)
    assert metrics["top1_accuracy"] == 100 * (order[:, 0] == images.targets).double().mean().item()
    assert metrics["top5_accuracy"] == 100 * (order[:, :5] == images.targets[:, None]).any(1).double().mean().item()
    assert metrics["validation_loss"] == pytest.approx(F.cross_entropy(logits, images.targets).item(), rel=1e-5)
    assert workload.work == Work("image", 16) and workload.metric.better == "higher"


def test_channels_last_reaches_the_model_and_the_images_of_training_and_evaluation(data):
    words = [word for word in TINY if not word.startswith(("task=", "task.model"))]
    cfg = read_config(compose_config(["task=resnet50", *words, "regularizer=adamw", f"data_dir={data}"]))
    workload, seen = build(cfg, CPU), []
    workload.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    workload.loss(workload.model.train(), workload.batch_at(0)[0:16])
    workload.evaluate(workload.model)
    wide = [parameter for parameter in workload.model.parameters() if parameter.dim() == 4 and parameter.shape[2] > 1]
    assert len(seen) == 4 and len(wide) > 4
    for tensor in (*seen, *wide):
        assert tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


@pytest.mark.parametrize("task", ["imagenet", "resnet50"])
def test_a_run_learns_and_its_record_says_how_fast_it_was(data, tmp_path, task):
    small = [word for word in TINY if not word.startswith(("task=", "task.model"))]
    easy = [
        "task.augment.mixup=0",
        "task.augment.cutmix=0",
        "task.augment.randaugment=null",
        "task.augment.crop_scale=[0.9,1.0]",
    ]
    options = [
        "num_steps=60",
        "lr=3e-3",
        "regularizer=adamcpr_ws",
        "regularizer.warm_start=30",
        f"data_dir={data}",
        f"runs_dir={tmp_path}",
    ]
    record = engine.run(compose_config([f"task={task}", *small, *easy, *options]))
    assert 20 < record["metrics"]["top1_accuracy"] < record["metrics"]["top5_accuracy"]  # chance: 10 and 50
    assert record["images_per_second"] == pytest.approx(16 * record["steps_per_second"])
    assert not record["without_bound"]


def test_micro_batches_give_the_same_losses(data, tmp_path):
    curves = []
    for micro_batch in ("null", "4"):
        folder = tmp_path / micro_batch
        options = (
            "num_steps=4",
            "task.log_every_steps=1",
            "task.model.arguments.drop_path_rate=0",
            f"micro_batch={micro_batch}",
        )
        engine.run(tiny(data, *options, f"runs_dir={folder}").source)
        (log,) = folder.glob("*/*/metrics.jsonl")
        curves.append([row["loss"] for row in map(json.loads, log.read_text().splitlines()) if "loss" in row])
    assert len(curves[0]) == 4 and curves[1] == pytest.approx(curves[0], abs=1e-5)


@pytest.mark.weekly
def test_killed_runs_with_workers_end_with_the_same_bits(data, tmp_path):
    """A worker that outlived its run would hold the run's lock."""
    short = (
        "num_steps=60",
        "task.log_every_steps=10",
        "checkpoint_every_steps=7",
        "task.eval_every_steps=20",
        "loader_workers=1",
    )
    killed_runs_end_the_same(tmp_path, *TINY, "regularizer=adamcpr_ip", f"data_dir={data}", *short)


@pytest.mark.weekly
def test_deit_small_takes_three_steps_of_files_at_224_pixels(folders, tmp_path):
    few = ("num_steps=3", "task.batch_size=2", "task.log_every_steps=1", "loader_workers=1")
    options = (
        "scale=paper",
        "device=cpu",
        "micro_batch=null",
        "regularizer=adamcpr_ws",
        "regularizer.warm_start=1",
    )
    done = call("train.py", "task=imagenet", *options, *few, f"data_dir={folders}", f"runs_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    (record,) = records(tmp_path).values()
    assert record["config"]["task"]["precision"] == "bf16" and not record["without_bound"]
    assert {"top1_accuracy", "top1_accuracy_report", "top5_accuracy", "validation_loss"} < record["metrics"].keys()
    (log,) = tmp_path.glob("*/*/metrics.jsonl")
    losses = [row["loss"] for row in map(json.loads, log.read_text().splitlines()) if "loss" in row]
    assert len(losses) == 3 and losses[0] == pytest.approx(np.log(1000), abs=0.7)
    assert "regularized: 50 of 152 tensors, 21,912,576 of 22,050,664 parameters" in done.stdout + done.stderr


def test_missing_data_is_one_line_with_the_command_that_brings_it(tmp_path):
    done = call_forked(
        "train.py",
        "task=imagenet",
        "scale=paper",
        "device=cpu",
        f"data_dir={tmp_path}",
        f"runs_dir={tmp_path}",
    )
    assert done.returncode == 2
    is_one_line(done, "ImageNet (train) is not in", "python scripts/prepare_data.py imagenet ImageNet")
    for name in ("FashionMNIST", "ImageNetParquet"):
        with pytest.raises(UserError, match=rf"{name} \(val\) is not in .* scripts/prepare_data\.py imagenet {name}"):
            read(name, tmp_path, "val")
    with pytest.raises(UserError, match=r"task\.data\.name=ImageNot is unknown; choose one of ImageNet, "):
        tiny(tmp_path, "task.data.name=ImageNot")


def test_preparation_says_what_the_user_has_to_download_and_what_is_not_whole(tmp_path, folders, monkeypatch):
    with pytest.raises(
        UserError, match=r"register at https://image-net\.org/.* put ILSVRC2012_img_train\.tar and ILSVRC2012_devkit"
    ):
        prepare_task("deit_base", ["ImageNet"], tmp_path)
    with pytest.raises(UserError, match=r"has 4 images of 2 classes, not 1,281,167 of 1,000"):
        prepare_task("imagenet", ["ImageNet"], folders)
    monkeypatch.setattr(prepare, "import_datasets", lambda name: None)
    with pytest.raises(
        UserError, match=r"accept the terms at https://huggingface\.co/datasets/ILSVRC/imagenet-1k, then: hf download"
    ):
        prepare_task("imagenet", ["ImageNetParquet"], tmp_path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task.batch_size=64", "task.augment.mix_group=64"], "60 training images, fewer than task.batch_size=64"),
        (["task.data.val_size=0"], r"task\.data\.val_size=0 must be a whole number >= 2, or null"),
        (["task.data.val_size=101"], r"task\.data\.val_size=101 must lie in 1\.\.100"),
        (["loader_workers=-1"], r"loader_workers=-1 must be a whole number in \[0, 1024\]"),
    ],
)
def test_a_setting_out_of_its_range_is_one_line(data, tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        engine.run(tiny(data, *overrides, f"runs_dir={tmp_path}").source)


def test_more_classes_than_outputs_are_refused(folders):
    few = (
        "task.data.name=ImageNet",
        "task.data.train_size=null",
        "task.data.val_size=null",
        "task.batch_size=2",
        "task.model.num_classes=1",
    )
    with pytest.raises(UserError, match=r"has 2 classes, more than task\.model\.num_classes=1"):
        build(tiny(folders, *few), CPU)


def test_the_rows_of_parquet_shards_are_those_of_the_files(folders):
    pytest.importorskip("datasets")
    import pyarrow
    from pyarrow import parquet

    for split, shard in (("train", "train-00000-of-00002"), ("val", "validation-00000-of-00001")):
        paths = sorted((folders / "imagenet" / split).glob("*/*"))
        rows = {"image": [{"bytes": path.read_bytes(), "path": path.name} for path in paths]}
        rows["label"] = [int(path.parent.name == "n01443537") for path in paths]
        target = folders / "imagenet-parquet" / "data" / f"{shard}.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pyarrow.table(rows), target)
        files, shards = read("ImageNet", folders, split), read("ImageNetParquet", folders, split)
        assert len(shards) == len(files)
        for index in range(len(files)):
            assert shards[index][1] == files[index][1]
            assert np.array_equal(np.asarray(shards[index][0].convert("RGB")), np.asarray(files[index][0]))


def table1_runs(scale: str) -> list[Run]:
    """Return a run of every configuration. The score depends on the model."""
    runs = []
    for cfg in expand(TABLE1, {"scale": scale}, {}).values():
        settings = {key: cfg.regularizer[key] for key in ("weight_decay", "warm_start") if key in cfg.regularizer}
        score = {"top1_accuracy": 80.0 if cfg.task.size == "deit_small" else 81.0}
        made = run(cfg.regularizer.name, cfg.seed, score, lr=cfg.lr, **settings)
        runs.append(Run(made.config | {"task": made.config["task"] | {"size": cfg.task.size}}, made.record))
    return runs


def test_table_1_has_every_published_cell_and_the_one_that_the_paper_leaves_open():
    definition, runs = at_scale(TABLE1, "paper"), table1_runs("paper")
    table = readable(definition, cell_table(definition, frame(runs, "top1_accuracy"), seeds=1))
    told = {(row["method"], row["setting"]): row["paper"] for _, row in table.iterrows()}
    assert told == {
        **{("DeiT-S AdamW", "0.005"): "76.97", ("DeiT-S AdamW", "0.05"): "79.03", ("DeiT-S AdamW", "0.5"): "79.16"},
        **{("DeiT-S Kappa-WS", "1x"): "79.81", ("DeiT-S Kappa-WS", "2x"): "79.33", ("DeiT-S Kappa-WS", "4x"): "78.04"},
        **{("DeiT-B AdamW", "0.005"): "76.19", ("DeiT-B AdamW", "0.05"): "78.59", ("DeiT-B AdamW", "0.5"): "80.56"},
        **{("DeiT-B Kappa-WS", "1x"): "81.19", ("DeiT-B Kappa-WS", "2x"): "79.61", ("DeiT-B Kappa-WS", "4x"): "TBA"},
        **{("DeiT-S Kappa-IP", "-"): "79.84", ("DeiT-B Kappa-IP", "-"): "80.95"},
    }
    assert table["ours"].tolist() == ["80.00 (1 seed)"] * 7 + ["81.00 (1 seed)"] * 7
    figure = heatmap.figure(definition, heatmap.table(definition, runs, 1), runs, "ours", "footer")
    texts = [text.get_text() for text in figure.subfigs[1].axes[4].texts]
    assert texts == ["81.19", "79.61", "TBA"]


def test_table_1_at_mini_scale_is_of_one_model():
    definition, runs = at_scale(TABLE1, "mini"), table1_runs("mini")
    assert len(runs) == 24
    assert [panel.id for panel in definition.panels] == ["adamw", "ws", "ip"] and len(definition.claims) == 2
    assert len({(r.config["lr"], r.config["seed"]) for r in runs}) == 4
