"""nnU-Net's own pipeline up to training: fingerprint, plans, preprocessing, folds.

It runs once for each data set and plan, and its results are kept.
<data_dir>/segmentation/preprocessed/<hash>/ is a folder for nnU-Net's own commands: their variable
nnUNet_preprocessed.
"""

import contextlib
import hashlib
import importlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata, util
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import torch

from tasks.engine import verified
from tasks.engine.errors import UserError
from tasks.segmentation import raw

CONFIGURATION, PLANS = "3d_fullres", "nnUNetPlans"
AUGMENTING = "nnUNet_n_proc_DA"  # the number of processes
SPLIT_SEED = 12345  # nnU-Net's own
FINGERPRINT = "nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor"
PREPROCESSOR = "nnunetv2.preprocessing.preprocessors.default_preprocessor"
FILE_NAMES = "nnunetv2.utilities.utils"


@dataclass(frozen=True)
class Plan:
    """What nnU-Net's planner does not decide.

    Attributes:
        patch: edges in voxels, or None for the planner's.
        features: those of the first stage, and the most of any stage.
        batch_size: patches in a batch.
        folds: number of folds.
    """

    patch: tuple[int, int, int] | None
    features: tuple[int, int]
    batch_size: int
    folds: int


def require() -> None:
    """Raise UserError if nnU-Net is not installed."""
    if util.find_spec("nnunetv2") is None:
        raise UserError(
            "the task segmentation needs nnU-Net v2: make setup EXTRAS=segmentation, or pip install '.[segmentation]'"
        )


def use(root: Path, preprocessed: Path, results: Path, processes: int) -> None:
    """Set nnU-Net's folders, and make it augment in this process and not compile.

    The engine augments in processes and compiles if asked to.
    """
    os.environ |= {
        "nnUNet_raw": str(root / "segmentation" / "raw"),
        "nnUNet_preprocessed": str(preprocessed),
        "nnUNet_results": str(results),
        AUGMENTING: "0",
        "nnUNet_def_n_proc": str(max(1, processes)),
        "nnUNet_compile": "f",
    }


def preprocessed(root: Path, name: str, plan: Plan, processes: int, results: Path) -> Path:
    """Return the folder with the data set's preprocessed cases, and point nnU-Net's environment to it.

    One process makes the folder if it is missing, while others wait.

    Raises:
        UserError: the data set is not prepared or the plan is impossible.
    """
    cases = raw.manifest(root, name)["cases"]
    content = json.dumps([name, cases, asdict(plan), metadata.version("nnunetv2")], sort_keys=True)
    folder = root / "segmentation" / "preprocessed" / hashlib.sha256(content.encode()).hexdigest()[:16]
    if plan.folds > len(cases):
        raise UserError(f"task.folds={plan.folds} are more than {name}'s {len(cases)} cases")
    if not folder.exists():
        with raw.locked(folder):
            if not folder.exists():
                with raw.made_at_once(folder) as fresh, quietly():
                    use(root, fresh, results, processes)
                    with _files_listed_here():  # reads nnU-Net's environment
                        _make(fresh / raw.folder_of(root, name).name, raw.NUMBERS[name], plan, processes)
                    verified.remember(fresh, _files(fresh))
    verified.verify_remembered(folder, None, f"delete {folder}: the next run makes it again")
    use(root, folder, results, processes)
    return folder / raw.folder_of(root, name).name


def _files(folder: Path) -> list[str]:
    """Return the files that nnU-Net reads while it trains."""
    endings = (".b2nd", ".npz", ".npy", ".pkl", ".json", ".nii.gz")
    paths = (path for path in folder.rglob("*") if path.name.endswith(endings) and not path.name.startswith("."))
    return sorted(str(path.relative_to(folder)) for path in paths if path.name != verified.KNOWN)


def _make(folder: Path, number: int, plan: Plan, processes: int) -> None:
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    with pools(processes, FINGERPRINT):
        api.extract_fingerprint_dataset(number, num_processes=max(1, processes), show_progress_bar=False)
    threads = torch.get_num_threads()
    # The planner takes this as the number of torch's threads.
    os.environ[AUGMENTING] = "1"
    api.plan_experiment_dataset(number)
    os.environ[AUGMENTING] = "0"
    torch.set_num_threads(threads)
    path = folder / f"{PLANS}.json"
    plans = json.loads(path.read_text())
    apply(plans["configurations"][CONFIGURATION], plan)
    path.write_text(json.dumps(plans, indent=1))
    with pools(processes, PREPROCESSOR):
        api.preprocess_dataset(number, PLANS, (CONFIGURATION,), [max(1, processes)], show_progress_bar=False)
    names = sorted(path.name.removesuffix(raw.SUFFIX) for path in (folder / "gt_segmentations").iterdir())
    splits = generate_crossval_split(names, SPLIT_SEED, plan.folds)
    splits = [{part: list(map(str, keys)) for part, keys in split.items()} for split in splits]
    (folder / "splits_final.json").write_text(json.dumps(splits, indent=1))


def apply(configuration: dict[str, Any], plan: Plan) -> None:
    """Change nnU-Net's configuration to the plan's patch, batch and features.

    The number of stages follows nnU-Net's own rule.

    Raises:
        UserError: the stages do not divide the patch.
    """
    patch = list(plan.patch or configuration["patch_size"])
    pooled = _pooling(configuration["spacing"], patch)
    if list(pooled.patch) != patch:
        raise UserError(
            f"task.plan.patch={patch} cannot be halved as often as nnU-Net does; the next one that can is {list(pooled.patch)}"
        )
    stages = len(pooled.strides)
    first, most = plan.features
    configuration |= {"patch_size": patch, "batch_size": plan.batch_size}
    configuration["architecture"]["arch_kwargs"] |= {
        "n_stages": stages,
        "features_per_stage": [min(most, first * 2**stage) for stage in range(stages)],
        "kernel_sizes": [list(map(int, size)) for size in pooled.kernels],
        "strides": [list(map(int, stride)) for stride in pooled.strides],
        "n_conv_per_stage": [2] * stages,  # the planner's numbers
        "n_conv_per_stage_decoder": [2] * (stages - 1),
    }


@dataclass(frozen=True)
class Pooling:
    """Strides and kernels of every stage, and the patch that they fit."""

    strides: Sequence[Sequence[int]]
    kernels: Sequence[Sequence[int]]
    patch: Sequence[int]


def _pooling(spacing: Sequence[float], patch: Sequence[int]) -> Pooling:
    from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

    least_edge, most_halvings = 4, 999999  # the planner's values
    _, strides, kernels, fitting, _ = get_pool_and_conv_props(spacing, patch, least_edge, most_halvings)
    return Pooling(strides, kernels, [int(edge) for edge in fitting])


@contextlib.contextmanager
def pools(processes: int, *modules: str) -> Iterator[None]:
    """Replace the pools of nnU-Net's modules by a thread if `processes` is 0.

    Each process of such a pool would import torch again.
    """
    with contextlib.ExitStack() as stack:
        for name in () if processes else modules:
            stack.enter_context(_replaced(importlib.import_module(name), "multiprocessing", _Threads))
        yield


@contextlib.contextmanager
def _files_listed_here() -> Iterator[None]:
    """Let nnU-Net list a data set's files in threads. Its 12 processes would import torch again, four times a data set."""
    with _replaced(importlib.import_module(FILE_NAMES), "Pool", ThreadPool):
        yield


class _Threads:
    """The part of the module multiprocessing that nnU-Net uses."""

    @staticmethod
    def get_context(_: str) -> Any:
        return _Threads

    @staticmethod
    def Pool(_: int) -> ThreadPool:
        return ThreadPool(1)


@contextlib.contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    kept = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, kept)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Suppress nnU-Net's printed plans, citations and paths, which are in its log files too."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
