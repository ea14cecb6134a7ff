"""Every key is declared once: what the YAML files say loads, and a wrong key or value is one line before anything is written."""

import copy
import inspect
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from commands import ROOT, write_fashion_mnist
from omegaconf import OmegaConf

from cpr import CPR, AdamCPR
from cpr.bounds import METHODS
from cpr.measures import MEASURES
from cpr.settings import ADAPTIVE, EVALUATE_AT
from scripts.cli.common import compose_config
from tasks.engine import cpr_keys
from tasks.engine.config import read_config, task_model
from tasks.engine.errors import UserError
from tasks.engine.records import run_id
from tasks.engine.run import run

CONFIGS = ROOT / "configs"
TASKS = sorted(path.stem for path in (CONFIGS / "task").glob("*.yaml"))
REGULARIZERS = sorted(path.stem for path in (CONFIGS / "regularizer").glob("*.yaml"))
SCALES = sorted(path.stem for path in (CONFIGS / "scale").glob("*.yaml"))
NAMES = ("task.name", "regularizer.name", "task.data.name")  # of folders
# Arguments of libraries. Their keys are the libraries' own.
FREE = ("task.model.arguments", "task.small.shape")


def composed(*overrides: str) -> dict[str, Any]:
    """Plain values of a configuration, in which every reference is resolved."""
    return OmegaConf.to_container(compose_config(list(overrides)), resolve=True)


def leaves(content: dict[str, Any], where: str = "") -> Iterator[str]:
    for key, value in content.items():
        path = f"{where}.{key}".strip(".")
        if isinstance(value, dict) and path not in FREE:
            yield from leaves(value, path)
        else:
            yield path


def section_of(content: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """The section that holds a key, and the key's name in it."""
    *sections, name = key.split(".")
    for part in sections:
        content = content[part]
    return content, name


def refusal(content: dict[str, Any], runs_dir: Path) -> str:
    """What a run says that is refused before it writes anything."""
    if isinstance(content.get("runs_dir"), str):
        content = content | {"runs_dir": str(runs_dir)}
    with pytest.raises(UserError) as refused:
        run(OmegaConf.create(content))
    said = str(refused.value)
    assert refused.value.exit_code == 2 and "\n" not in said and not list(runs_dir.iterdir())
    return said


# A configuration, and the part of it whose keys are tried.
CHOICES = [
    *((f"task={task}", "regularizer=adamw", "task.") for task in ("cifar100c", "clip", "gpt2", "grokking", "lora")),
    *((f"task={task}", "regularizer=adamw", "task.") for task in ("resnet50", "segmentation")),
    *(("task=cifar100", f"regularizer={name}", "regularizer.") for name in REGULARIZERS),
    ("launcher=slurm", "logging=wandb", ""),
]
each_choice = pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: " ".join(choice[:2]))
# Without these nobody knows whose keys the others are.
KINDS = ("task.name", "regularizer.name", "regularizer.optimizer", "launcher.name")


def copies(choice):
    """Yield each key of a choice, with a copy of the configuration to spoil, the key's section there and its name."""
    *overrides, part = choice
    content = composed(*overrides)
    for key in (key for key in leaves(content) if key.startswith(part)):
        wrong = copy.deepcopy(content)
        yield key, wrong, *section_of(wrong, key)


@each_choice
def test_every_misspelled_key_is_named_with_the_right_one(tmp_path, choice):
    for key, wrong, section, name in copies(choice):
        section[f"{name}e"] = section.pop(name)
        said = refusal(wrong, tmp_path)
        if key in KINDS:
            assert said.startswith(f"{key}="), said
        elif key.startswith("regularizer."):
            assert said.startswith(f"{key}e=") and name in said.partition(" is not read by ")[2], said
        else:
            assert re.match(rf"{key}e(\.\w+)*=", said) and said.endswith(f" is unknown; did you mean {key}?"), said


@each_choice
def test_every_value_of_a_wrong_type_is_named_with_what_it_must_be(tmp_path, choice):
    for key, wrong, section, name in copies(choice):
        is_text = section[name] is None or isinstance(section[name], str)
        section[name] = {"a": 1} if is_text else "many"
        said = refusal(wrong, tmp_path)
        shown = "{'a': 1}" if key.endswith(".name") and key in NAMES else "{a: 1}" if is_text else "many"
        assert said.startswith(f"{key}={shown} ") and (" must be " in said or " is unknown; " in said), said


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("num_steps", 0, "must be a whole number >= 1"),
        ("num_steps", 1.5, "must be a whole number >= 1"),
        ("seed", True, "must be a whole number >= 0"),
        ("lr", float("inf"), "must be a number >= 0"),
        ("threads", 0, "must be a whole number in [1, 4096], or null"),
        ("quiet", "yes", "must be true or false"),
        ("parallel", "pipeline", "is unknown; choose one of ddp, fsdp"),
        ("task.precision", "fp8", "is unknown; choose one of fp32, tf32, bf16"),
        ("task.grad_clip", 0, "must be a number > 0, or null"),
        ("task.betas", [0.9, 1], "must be a list of 2 numbers in [0, 1)"),
        ("task.betas", [0.9], "must be a list of 2 numbers in [0, 1)"),
        ("task.schedule", 5, "must be a section with the keys warmup_steps, decay, final_factor, power"),
        ("task.data.mean", ["white"], "must be a list of numbers"),
        ("regularizer.reg_ema_decay", 1, "must be a number in [0, 1)"),
        ("regularizer.adaptive", True, "is unknown; choose one of false, transition, latched"),
        ("device", "tpu", "is unknown; use cpu, cuda or cuda:N"),
    ],
)
def test_a_value_out_of_its_range_is_named_with_the_range(tmp_path, key, value, wanted):
    content = composed("task=cifar100", "regularizer=adamcpr_ip")
    section, name = section_of(content, key)
    section[name] = value
    said = refusal(content, tmp_path)
    assert said.startswith(f"{key}=") and f" {wanted}" in said


@pytest.mark.parametrize(
    ("method", "value", "said"),
    [
        ("k", "abc", "kappa_init_param=abc must be a number > 0"),
        ("ki0", -1, "kappa_init_param=-1 must be a number > 0"),
        ("k", True, "kappa_init_param=true must be a number > 0"),
        ("k", float("nan"), "kappa_init_param=nan must be a number > 0"),
        ("k", None, "kappa_init_param is missing; kappa_init_method=uniform needs a number > 0"),
        (
            "ws",
            "soon",
            "warm_start=soon must be a whole number of steps >= 0, or a multiple of the lr warm-up such as 2x",
        ),
        ("ws", 1.5, "warm_start=1.5 must be a whole number of steps >= 0, or a multiple of the lr warm-up such as 2x"),
        (
            "ws",
            "100",
            "warm_start=100 is text; write 100 without quotes for steps, or 100x for a multiple of the lr warm-up",
        ),
        (
            "ws",
            None,
            "warm_start is missing; kappa_init_method=warm_start needs a whole number of steps >= 0, or a multiple of the "
            "lr warm-up such as 2x",
        ),
    ],
)
def test_each_bound_says_the_form_of_its_key(tmp_path, method, value, said):
    content = composed("task=cifar100", f"regularizer=adamcpr_{method}")
    content["regularizer"]["warm_start" if method == "ws" else "kappa_init_param"] = value
    assert refusal(content, tmp_path) == f"regularizer.{said}"


@pytest.mark.parametrize(
    ("task", "key", "value", "said"),
    [
        ("grokking", "data.modulus", 1, "must be a whole number >= 2"),
        ("grokking", "data.train_fraction", 1, "must be a number in (0, 1)"),
        ("grokking", "data.train_fraction", 1e-6, "leaves none of 12769 pairs for training"),
        ("gpt2", "model.vocabulary", 100, "must be at least task.data.vocabulary="),
        ("cifar100", "data.mean", [], "must be a list of numbers, at least one"),
        ("cifar100", "data.std", [0.3, 0.3], "must have as many values as mean"),
        ("cifar100", "data.downsample", 29, "must be at most FashionMNIST's 28 pixels"),
        ("cifar100", "data.crop_padding", 14, "must be less than the images' 14 pixels"),
        ("cifar100", "model.num_classes", 9, "must be at least the 10 of FashionMNIST"),
        ("cifar100", "model.in_channels", 3, "must be 1, as task.data.mean has values"),
        ("cifar100c", "corruptions.images", 1, "must be a whole number >= 2, or null"),
        ("imagenet", "data.mean", [], "must be a list of 3 numbers"),
        ("imagenet", "data.interpolation", "foo", "is unknown; choose one of nearest, bilinear, bicubic"),
        ("imagenet", "data.crop_pct", 97, "must be a number in (0, 1]"),
        ("imagenet", "data.val_size", 1, "must be a whole number >= 2, or null"),
        ("imagenet", "augment.crop_scale", [1.0, 0.08], "must be a smallest share > 0 and a largest one"),
        ("clip", "augment.crop_scale", [0, 1], "must be a smallest share > 0 and a largest one"),
        ("clip", "small.std", [], "must be a list of 3 numbers > 0"),
        ("lora", "small.heads", 3, "width=128 must be a multiple of 2 x heads=3"),
        ("lora", "small.kv_heads", 3, "heads=4 must be a multiple of kv_heads=3"),
        ("segmentation", "folds", 1, "must be a whole number >= 2"),
        ("segmentation", "fold", 7, "must be a whole number from 0 to 6, or null for the seed's own"),
    ],
)
def test_what_could_not_be_trained_is_refused_by_the_task_s_keys(tmp_path, task, key, value, said):
    content = composed(f"task={task}")
    section, name = section_of(content, f"task.{key}")
    section[name] = value
    refused = refusal(content, tmp_path)
    assert refused.startswith("task.") and name in refused and said in refused


@pytest.fixture(scope="module")
def fashion_mnist(tmp_path_factory):
    return write_fashion_mnist(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("task.augment.randaugment=foo", r"task\.augment\.randaugment=foo is not timm's"),
        ("task.data.image_size=32", r"task\.data\.image_size=32 is not the size of deit_tiny_patch16_224, 28; set"),
        (
            "task.model.arguments.patch_size=0",
            r"cannot make deit_tiny_patch16_224 with arguments={.*patch_size: 0, .*by zero",
        ),
        ("task.model.arguments.depth=many", r"cannot make deit_tiny_patch16_224 with arguments={.*depth: many"),
        ("+task.model.arguments.layers=3", r"cannot make .* \(.*unexpected keyword argument 'layers'\)"),
        (
            "+task.model.arguments.num_classes=5",
            r"cannot make .* \(.*multiple values for keyword argument 'num_classes'\)",
        ),
        ("+task.model.arguments.weight_init=x", r"cannot make .* \(assert mode in "),
        ("+task.model.arguments.in_chans=1", r"arguments={.*in_chans: 1} does not take images of 3 x 28 x 28 \("),
        ("+task.model.arguments.device=meta", r"arguments={.*device: meta} does not take images of 3 x 28 x 28 \("),
        (
            "task.model.arguments.patch_size=100",
            r"arguments={.*patch_size: 100, .*} does not take images of 3 x 28 x 28 \(",
        ),
        ("task.model.arguments.drop_path_rate=2", r"arguments={drop_path_rate: 2, .*} does not take images .*p=-0.3"),
        ("+task.model.arguments.global_pool=", r"gives values of shape \[17, 10\] for an image, not 10 values"),
        ("+task.model.arguments.features_only=true", r"gives a list for an image, not 10 values"),
    ],
)
def test_what_only_timm_knows_is_refused_in_one_line_too(fashion_mnist, tmp_path, given, said):
    few = ["task=imagenet", "task.data.train_size=64", "task.data.val_size=32", "quiet=true"]
    with pytest.raises(UserError, match=said) as refused:
        run(compose_config([*few, f"data_dir={fashion_mnist}", f"runs_dir={tmp_path / 'runs'}", given]))
    assert "\n" not in str(refused.value)


def test_numbers_stay_what_they_are():
    """Optimizers keep them in their states, and the digest of a run's state tells 1 from 1.0."""
    cfg = read_config(compose_config(["task=cifar100", "regularizer=adamw", "regularizer.weight_decay=1", "lr=1e-3"]))
    assert repr((cfg.regularizer.weight_decay, cfg.lr, cfg.task.eps)) == "(1, 0.001, 1e-08)"
    whole = read_config(compose_config(["task=cifar100", "num_steps=1e3"]))
    assert repr(whole.num_steps) == "1000"


@pytest.mark.parametrize(("task", "scale"), itertools.product(TASKS, SCALES))
def test_every_task_loads_at_every_scale(task, scale):
    content = composed(f"task={task}", f"scale={scale}")
    config = read_config(compose_config([f"task={task}", f"scale={scale}"]))
    assert type(config.task) is task_model(content["task"]["name"])
    assert config.task.model_dump(mode="json", exclude_unset=True) == content["task"]


def test_the_ranges_of_cpr_s_settings_are_those_of_the_package():
    fields = cpr_keys.CPR.model_fields
    choices = {
        name: set(get_args(fields[name].annotation)) for name in ("kappa_init_method", "evaluate_at", "adaptive")
    }
    assert choices == {"kappa_init_method": {*METHODS}, "evaluate_at": {*EVALUATE_AT}, "adaptive": {*ADAPTIVE}}
    assert set(get_args(fields["reg_function"].annotation)) == set(MEASURES)
    for optimizer in (AdamCPR, CPR):
        defaults = {name: p.default for name, p in inspect.signature(optimizer).parameters.items()}
        assert all(
            defaults[name] == field.default
            for name, field in fields.items()
            if name in defaults and name not in ("lr", "kappa_init_param") and not field.is_required()
        )


@pytest.mark.parametrize("task", ["cifar100", "cifar100c", "clip", "imagenet", "segmentation"])
def test_the_data_sets_of_a_task_are_those_that_can_be_prepared(task):
    prepare = pytest.importorskip(f"tasks.{task}.prepare")
    data = task_model(task).model_fields["data"].annotation
    assert set(get_args(data.model_fields["name"].annotation)) == set(prepare.DATA_SETS)


def test_a_dry_run_refuses_a_wrong_value_without_torch():
    program = (
        "import atexit, runpy, sys; atexit.register(lambda: print('torch' in sys.modules)); "
        "sys.argv = ['scripts/reproduce.py', 'grokking', 'num_steps=abc', '--dry-run']; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "False\n")
    assert done.stderr == "error: num_steps=abc must be a whole number >= 1\n"


@pytest.mark.parametrize("name", ["engine", "recipes", "data.images"])
def test_a_folder_that_is_no_task_is_refused(name):
    with pytest.raises(UserError, match=f"task={name} is unknown"):
        read_config(compose_config(["task=grokking", f"task.name={name}"]))


def test_a_rule_between_keys_of_a_section_names_the_first_of_them():
    with pytest.raises(UserError, match=r"^task\.model\.width=128 must be a multiple of"):
        read_config(compose_config(["task=grokking", "task.model.heads=3"]))


def test_a_folder_without_a_name_is_refused():
    with pytest.raises(UserError, match="runs_dir"):
        read_config(compose_config(["task=grokking", "runs_dir="]))


@pytest.mark.parametrize(
    ("given", "same"),
    [("seed=1e0", "seed=1"), ("task.batch_size=6.4e1", "task.batch_size=64"), ("num_steps=1e1", "num_steps=10")],
)
def test_a_whole_number_written_as_a_float_names_the_same_run(given, same):
    configs = [compose_config(["task=cifar100", key]) for key in (given, same)]
    assert run_id(configs[0]) == run_id(configs[1])
    assert read_config(configs[0]).model_dump() == read_config(configs[1]).model_dump()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("seed", 2**63, "must be less than 2^63"),
        ("seed", 2**70, "must be less than 2^63"),
        ("seed", -1, "must be a whole number >= 0"),
        ("task.data.subset_seed", 2**64, "must be less than 2^63"),
        ("num_steps", 2**31, "must be less than 2^31"),
        ("task.batch_size", 10**30, "must be less than 2^31"),
        ("task.model.width", 2**63, "must be less than 2^31"),
        ("threads", 10**6, "must be a whole number in [1, 4096], or null"),
        ("loader_workers", 10**6, "must be a whole number in [0, 1024]"),
    ],
)
def test_a_number_that_no_library_can_hold_is_one_line(tmp_path, key, value, said):
    content = composed("task=cifar100")
    section, name = section_of(content, key)
    section[name] = value
    assert refusal(content, tmp_path) == f"{key}={value} {said}"


def test_the_largest_seed_trains(tmp_path):
    write_fashion_mnist(tmp_path)
    keys = ("task=cifar100", "scale=mini", "num_steps=1", "task.data.train_size=20", "device=cpu", "quiet=true")
    cfg = compose_config([*keys, f"seed={2**63 - 1}", f"data_dir={tmp_path}", f"runs_dir={tmp_path / 'runs'}"])
    assert run(cfg)["seed"] == 2**63 - 1


@pytest.mark.parametrize("size", [1, 0])
def test_a_validation_set_without_two_halves_is_one_line(size):
    with pytest.raises(UserError, match=f"^task.data.val_size={size} must be a whole number >= 2, or null$"):
        read_config(compose_config(["task=imagenet", f"task.data.val_size={size}"]))
