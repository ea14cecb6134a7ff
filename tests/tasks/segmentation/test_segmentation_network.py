"""The task segmentation's plans: full-scale networks, regularized matrices, schedule, invalid settings."""

import pytest
import torch
from made_segmentation import CPU, SGD, config, trainer_of

from cpr import regularized_names
from scripts.cli.common import compose_config
from scripts.sweep.artefacts import load_artefact
from scripts.sweep.plan import expand
from tasks.engine.config import read_config
from tasks.engine.errors import UserError
from tasks.engine.optimizers import build_optimizer
from tasks.engine.run import build_workload
from tasks.engine.schedule import lr_factor
from tasks.segmentation import nnunet
from tasks.segmentation.nnunet import Plan

FULL = {  # the paper's patches, nnU-Net's spacing in mm, channels and labels
    "segmentation": ([80, 192, 160], [1.37, 1.25, 1.25], 1, 2),
    "segmentation_btcv": ([48, 192, 192], [3.0, 0.76, 0.76], 1, 14),
    "segmentation_brats": ([128, 128, 128], [1.0, 1.0, 1.0], 4, 4),
}


@pytest.fixture
def full_network(made, tmp_path):
    """Return the network of a task at paper scale on the meta device."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    def build(name: str):
        configuration = dict(trainer_of(made, tmp_path).plans_manager.plans["configurations"]["3d_fullres"])
        patch, spacing, channels, labels = FULL[name]
        settings = read_config(compose_config([f"task={name}", "scale=paper"])).task
        assert list(settings.plan.patch) == patch and settings.batch_size == 2
        configuration["spacing"] = spacing
        nnunet.apply(
            configuration, Plan(tuple(patch), tuple(settings.plan.features), settings.batch_size, settings.folds)
        )
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
        assert (key in names) == (key.endswith("weight") and parameter.ndim == 5), (
            key
        )  # convolutions, without biases and norms
    assert any("transpconvs" in key for key in names) and any("seg_layers" in key for key in names)


def test_the_paper_s_sgd_has_momentum_and_regularizes_the_convolutions_alone(full_network):
    configs = [
        cfg
        for cfg in expand(load_artefact("table_j1"), {"scale": "paper", "seeds": "1"}, {}).values()
        if cfg.task.data.name == "Heart"
    ]
    network = full_network("segmentation")
    for cfg in (cfg for cfg in configs if cfg.regularizer.name == "sgd"):
        optimizer = build_optimizer(read_config(cfg), network)
        regularized, others = optimizer.param_groups
        for group in (regularized, others):
            assert (group["lr"], group["momentum"], group["nesterov"]) == (0.01, 0.99, True)
        assert (regularized["weight_decay"], others["weight_decay"]) == (cfg.regularizer.weight_decay, 0)
        assert all(p.ndim == 5 for p in regularized["params"]) and all(p.ndim == 1 for p in others["params"])
    assert {cfg.regularizer.name for cfg in configs} == {"sgd", "sgd_cpr", "adamw", "adamcpr_ws"}
    for cfg in configs:
        assert cfg.regularizer.name != "sgd_cpr" or (cfg.lr, cfg.regularizer.momentum, cfg.regularizer.nesterov) == (
            0.01,
            0.99,
            True,
        )


def test_nnunet_s_default_decays_everything(full_network):
    cfg = compose_config(["task=segmentation_amos22", "scale=paper", *SGD, "regularizer.weight_decay=3e-5"])
    assert {
        group["weight_decay"] for group in build_optimizer(read_config(cfg), full_network("segmentation")).param_groups
    } == {3e-5}


def test_the_paper_s_schedule():
    cfg = read_config(compose_config(["task=segmentation", "scale=paper", "lr=1e-2"]))
    factors = {step: lr_factor(cfg.task.schedule, step, cfg.num_steps) for step in (0, 2000, 10_000, 25_000)}
    assert factors == pytest.approx({0: 0, 2000: 1, 10_000: (15 / 23) ** 0.9, 25_000: 0})
    assert compose_config(["task=segmentation_btcv", "scale=paper"]).num_steps == 125_000
    amos = read_config(compose_config(["task=segmentation_amos22", "scale=paper"]))
    assert lr_factor(amos.task.schedule, 0, amos.num_steps) == 1


@pytest.mark.slow
def test_settings_that_cannot_be_are_said(made, tmp_path):
    for settings, words in (
        (
            ["task.plan.patch=[18,16,16]"],
            r"task\.plan\.patch=\[18, 16, 16\] cannot be halved as often .* is \[20, 16, 16\]",
        ),
        (["task.folds=5"], "task.folds=5 are more than MNI152's 4 cases"),
        (["task.fold=2"], "task.fold=2 must be a whole number from 0 to 1, or null"),
        (["gpus=2"], "trains on one GPU"),
        (["task.data.name=Head"], "task.data.name=Head is unknown; choose one of MNI152, Heart"),
    ):
        with pytest.raises(UserError, match=words):
            build_workload(read_config(config(made, f"runs_dir={tmp_path}", *settings)), CPU)
    with pytest.raises(
        UserError,
        match=r"Heart is not in .*prepare it with: python scripts/prepare_data\.py segmentation Heart data_dir=",
    ):
        build_workload(read_config(config(made, f"runs_dir={tmp_path}", "task.data.name=Heart")), CPU)


def test_without_nnunet_the_command_to_install_it_is_said(made, monkeypatch):
    monkeypatch.setattr(nnunet.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs nnU-Net v2: make setup EXTRAS=segmentation"):
        build_workload(read_config(config(made)), CPU)
