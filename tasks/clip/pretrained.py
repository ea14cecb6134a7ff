"""OpenAI's weights of ViT-B/32 in the data folder, or any checkpoint file of open_clip.

No run needs a network.
"""

import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.factory import load_state_dict
from torch import Tensor

from tasks.clip.model import build_clip, shape_of
from tasks.data.downloads import giving_up_after
from tasks.engine.errors import UserError, one_line

# OpenAI trained with x sigmoid(1.702 x) in place of GELU.
ARCHITECTURE = "ViT-B-32-quickgelu"
# The file of the Hugging Face hub, and OpenAI's own.
FILES = ("open_clip_model.safetensors", "ViT-B-32.pt")
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")  # in OpenAI's own files


def load(architecture: str, path: Path) -> open_clip.CLIP:
    """Return open_clip's model `architecture` with the weights of a file.

    The file is safetensors, a state_dict, or in OpenAI's own format. open_clip's configuration of an
    architecture that it doesn't have may lie beside it, as <architecture>.json.

    Raises:
        UserError: the file or the architecture does not exist, or they don't fit.
    """
    own = path.with_name(f"{architecture}.json")
    if architecture not in open_clip.list_models() and own.exists():
        open_clip.add_model_config(own)
    shape, found = shape_of(architecture), read(path)
    model = build_clip(shape)
    expected = model.state_dict()
    wrong = [f"it has no {name}" for name in expected if name not in found]
    wrong += [f"it has {name}, which the model has not" for name in found if name not in expected]
    for name in expected.keys() & found.keys():
        if expected[name].shape != found[name].shape:
            wrong.append(f"its {name} is {list(found[name].shape)}, the model's {list(expected[name].shape)}")
    if wrong:
        more = f" ({len(wrong) - 1} more such)" if len(wrong) > 1 else ""
        raise UserError(f"{path} is not a checkpoint of task.architecture={architecture}: {min(wrong)}{more}")
    model.load_state_dict(found)
    return model


def read(path: Path) -> dict[str, Tensor]:
    """Return name -> weight, or raise UserError if the file is missing or contains no weights."""
    if not path.is_file():
        raise UserError(f"task.checkpoint={path} does not exist")
    try:
        if _is_torchscript(path):
            state: Any = torch.jit.load(path, map_location="cpu").state_dict()
        else:
            state = load_state_dict(str(path))
        return {
            name: weight for name, weight in state.items() if name not in NOT_WEIGHTS and isinstance(weight, Tensor)
        }
    # Errors of zipfile, pickle, torch and safetensors have no class in common.
    except Exception as error:
        raise UserError(f"{path} contains no weights: {' '.join(str(error).split())[:200]}") from error


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def kept_at(root: Path, architecture: str) -> Path:
    """Return the path of OpenAI's weights in the data folder.

    Raises:
        UserError: they are missing, or do not belong to `architecture`.
    """
    if architecture != ARCHITECTURE and not (folder(root) / f"{architecture}.json").exists():
        raise UserError(
            f"task.architecture={architecture}: OpenAI's weights are of {ARCHITECTURE}; name a file with task.checkpoint=PATH"
        )
    there = [path for path in _places(root) if path.exists()]
    if not there:
        bring = f"prepare them with: python scripts/prepare_data.py clip ImageNet data_dir={root}"
        raise UserError(
            f"OpenAI's weights of {ARCHITECTURE} are not in {folder(root)}; {bring}, or name a file with task.checkpoint=PATH"
        )
    return there[0]


def fetch(root: Path, say: Callable[[str], None]) -> None:
    """Download the weights if missing: 600 MB from the Hugging Face hub, else 350 MB from OpenAI.

    Raises:
        UserError: neither can be reached.
    """
    if any(path.exists() for path in _places(root)):
        return
    say(f"CLIP {ARCHITECTURE}: OpenAI's weights, 350 to 600 MB, downloaded into {folder(root)}")
    folder(root).mkdir(parents=True, exist_ok=True)
    source, (from_hub, from_openai) = open_clip.get_pretrained_cfg(ARCHITECTURE, "openai"), _places(root)
    try:
        with giving_up_after(), tempfile.TemporaryDirectory(dir=folder(root)) as part:
            try:
                from huggingface_hub import hf_hub_download

                os.replace(hf_hub_download(source["hf_hub"].rstrip("/"), from_hub.name, local_dir=part), from_hub)
            except Exception as error:  # many classes with none in common
                say(
                    f"the Hugging Face hub does not give them ({' '.join(str(error).split())[:200]}); trying OpenAI's own site"
                )
                # The download checks its SHA-256.
                os.replace(open_clip.download_pretrained_from_url(source["url"], cache_dir=part), from_openai)
    except (OSError, RuntimeError) as error:
        where = " or ".join(path.name for path in _places(root))
        raise UserError(
            f"OpenAI's weights of {ARCHITECTURE} cannot be downloaded ({one_line(error)}); connect to a network and "
            f"run the same command again, or put {where} into {folder(root)}"
        ) from error


def folder(root: Path) -> Path:
    return root / "clip" / "openai"


def _places(root: Path) -> tuple[Path, ...]:
    return tuple(folder(root) / name for name in FILES)
