"""What a run sends to wandb, read from the files of wandb's offline mode."""

import json
import struct
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from commands import call, write_fashion_mnist
from torch import nn

from scripts.cli.common import compose_config
from scripts.sweep.artefacts import load_artefact
from scripts.sweep.plan import expand
from tasks.engine import records
from tasks.engine.errors import TrainingFailed
from tasks.engine.layer_groups import group_of, layer_groups, summary
from tasks.engine.run import run

pytest.importorskip("wandb")
from wandb.proto import wandb_internal_pb2

SMALL = ("task=grokking", "quiet=true", "logging=wandb", "num_steps=8", "task.log_every_steps=2")
BLOCK, HEADER, CHECK = 32768, 7, 7
WHOLE, LAST = 1, 4


def sent(path: Path) -> list[Any]:
    """Return the messages in a .wandb file: blocks of 32 kB with pieces of messages, as in LevelDB's log."""
    content, place, message, found = path.read_bytes(), HEADER, b"", []
    while place < len(content):
        if BLOCK - place % BLOCK < CHECK:  # the rest of a block is empty
            place += BLOCK - place % BLOCK
            continue
        size, kind = struct.unpack("<HB", content[place + 4 : place + CHECK])
        message += content[place + CHECK : place + CHECK + size]
        place += CHECK + size
        if kind in (WHOLE, LAST):
            found.append(wandb_internal_pb2.Record.FromString(message))
            message = b""
    return found


def about(path: Path) -> Any:
    """Return wandb's message about the run: its id, name, group, tags and configuration."""
    return next(message.run for message in sent(path) if message.WhichOneof("record_type") == "run")


def history(path: Path) -> dict[int, dict[str, Any]]:
    """Return the logged numbers by step."""
    rows: dict[int, dict[str, Any]] = {}
    for message in sent(path):
        if message.WhichOneof("record_type") == "history":
            row = {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in message.history.item}
            rows[int(row["_step"])] = row
    return rows


def wandb_files(runs_dir: Path) -> list[Path]:
    return sorted(runs_dir.glob("*/*/wandb/offline-run-*/*.wandb"))


def test_layer_sizes_are_logged_with_the_losses_and_are_those_of_dynamics(tmp_path):
    cfg = compose_config(
        [*SMALL, "regularizer=adamcpr_ki0", "regularizer.kappa_init_param=0.8", f"runs_dir={tmp_path}"]
    )
    run(cfg)
    (path,) = wandb_files(tmp_path)
    rows = history(path)
    assert sorted(rows) == [0, 2, 4, 6, 8]
    logged = (path.parents[2] / "dynamics.jsonl").read_text().splitlines()
    names, first, *sizes = [json.loads(line) for line in logged]
    assert set(first["kappa"]) == {None} and "kappa/attention" not in rows[0]  # no bound before the first step
    places = [names["matrices"].index(f"{name}.weight") for name in ("query", "key", "value")]
    for line in sizes:
        row = rows[line["step"]]
        for name in ("R", "kappa", "lambda"):
            assert row[f"{name}/attention"] == sorted(line[name][place] for place in places)[1]
        ratios = [line["R"][place] / line["kappa"][place] for place in places]
        assert row["R_over_kappa/attention_max"] == pytest.approx(max(ratios))
        assert row["lambda/attention_max"] == max(line["lambda"][place] for place in places)
    assert {key.partition("/")[2].removesuffix("_max") for key in rows[8] if "/" in key} >= {"attention", "mlp", "head"}
    assert "loss" in rows[8] and "validation_accuracy" in rows[8]


def test_a_run_without_bounds_logs_r_alone(tmp_path):
    run(compose_config([*SMALL, "regularizer=adamw", f"runs_dir={tmp_path}"]))
    row = history(*wandb_files(tmp_path))[8]
    assert "R/mlp" in row and "R/mlp_max" in row
    assert not [key for key in row if key.startswith(("kappa", "lambda", "R_over"))]


@pytest.mark.parametrize(("lr", "exit_code"), [("1e-3", 0), ("1e30", 1)])
def test_wandb_shows_a_diverged_run_as_failed(tmp_path, lr, exit_code):
    cfg = compose_config([*SMALL, "regularizer=adamw", f"lr={lr}", f"runs_dir={tmp_path}"])
    with pytest.raises(TrainingFailed) if exit_code else nullcontext():
        run(cfg)
    (path,) = wandb_files(tmp_path)
    (end,) = [message.exit for message in sent(path) if message.WhichOneof("record_type") == "exit"]
    assert end.exit_code == exit_code


def test_a_run_is_grouped_by_task_named_readably_and_resumed_under_its_id(tmp_path):
    arguments = (*SMALL, "regularizer=adamcpr_ws", "regularizer.warm_start=2", "lr=1e-2", f"runs_dir={tmp_path}")
    for _ in range(2):
        done = call("train.py", *arguments)
        assert done.returncode == 0, done.stderr
        (folder,) = (tmp_path / "grokking").iterdir()
        (folder / "record.json").unlink()  # as if it had been killed at the end
    first, second = map(about, wandb_files(tmp_path))
    assert first.run_id == second.run_id == folder.name == records.run_id(compose_config(list(arguments)))
    assert first.display_name == "adamcpr_ws lr=0.01 warm_start=2 num_steps=8 log_every_steps=2 s1"
    assert first.run_group == "grokking"
    assert set(first.tags) == {"grokking", "mini", "adamcpr_ws"}
    config = {update.key: json.loads(update.value_json) for update in first.config.update}
    assert (config["lr"], config["seed"], config["regularizer"]["warm_start"]) == (0.01, 1, 2)
    assert "wandb:" not in done.stderr  # a quiet run shows no lines of wandb


@pytest.mark.weekly
def test_a_sweep_of_an_artefact_groups_and_names_its_runs_and_leaves_their_ids(tmp_path):
    data = write_fashion_mnist(tmp_path / "data", train=1000)
    places = {"runs_dir": str(tmp_path), "data_dir": str(data), "num_steps": "2", "lr": "1e-3"}
    arguments = ("figure2", "seeds=1", "logging=wandb", *(f"{key}={value}" for key, value in places.items()))
    done = call("reproduce.py", *arguments, timeout=240)
    assert done.returncode == 0, done.stderr
    runs = [about(path) for path in wandb_files(tmp_path)]
    assert {one.run_group for one in runs} == {"figure2"}
    assert all({"cifar100", "mini", "figure2"} < set(one.tags) for one in runs)
    names = {one.display_name for one in runs}
    assert {"adamcpr_ws lr=0.001 warm_start=2x num_steps=2 s1", "adamcpr_ip lr=0.001 num_steps=2 s1"} <= names
    assert len(names) == 8
    plain = expand(load_artefact("figure2"), {"scale": "mini", "seeds": "1"}, places)
    assert {one.run_id for one in runs} == set(plain)


def test_a_whole_artefact_s_runs_have_names_of_their_own():
    configs = expand(load_artefact("figure2"), {"scale": "mini"}, {"logging": "wandb"}).values()
    labels = {(cfg.regularizer.name, cfg.logging.label) for cfg in configs}
    assert len(labels) == len(configs) / 2  # two seeds
    assert ("adamcpr_ws", "lr=0.01 warm_start=2x") in labels
    several = expand(load_artefact("table1"), {"scale": "paper"}, {"logging": "wandb"}).values()
    names = [f"{cfg.regularizer.name} {cfg.logging.label} {cfg.seed}" for cfg in several]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("blocks.0.attention.qkv.weight", "attention"),
        ("visual.transformer.resblocks.3.attn.in_proj_weight", "attention"),
        ("model.layers.0.self_attn.q_proj.lora_A.default.weight", "attention"),
        ("blocks.0.mlp.fc1.weight", "mlp"),
        ("unembedding.weight", "head"),
        ("fc.weight", "head"),
        ("patch_embed.proj.weight", "embedding"),
        ("pos_embedding", "embedding"),
        ("text_projection", "other"),
    ],
)
def test_a_parameter_s_name_tells_its_layer_group(name, group):
    assert group_of(name, nn.Linear(1, 1)) == group


def test_the_kind_of_a_module_decides_where_its_name_does_not_and_unset_bounds_are_left_out():
    model = nn.ModuleDict({"first": nn.Conv3d(1, 1, 1), "words": nn.Embedding(2, 2), "last": nn.Linear(1, 1)})
    groups = layer_groups(model, ["first.weight", "words.weight", "last.weight"])
    assert groups == {"conv": [0], "embedding": [1], "other": [2]}
    found = summary({"R": [1.0, 2.0, 3.0], "kappa": [None, 4.0, None], "lambda": [0.0, 0.5, 0.0]}, groups)
    assert "kappa/conv" not in found and "R_over_kappa/conv_max" not in found
    assert (found["R/conv"], found["kappa/embedding"], found["R_over_kappa/embedding_max"]) == (1.0, 4.0, 0.5)
