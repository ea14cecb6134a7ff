"""Weights and tokenizer of Mistral-7B-Instruct from the Hugging Face hub, kept in the data folder.

No run needs a network.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tasks.engine.errors import UserError, one_line
from tasks.lora.data import Encode
from tasks.lora.questions import fix

REPOSITORY = "mistralai/Mistral-7B-Instruct-v0.2"
FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
)


def fetch(root: Path, say: Callable[[str], None]) -> None:
    """Download 14.5 GB if missing, and continue an earlier download that was stopped.

    Raises:
        UserError: the hub can't be reached or requires a login.
    """
    if is_complete(root):
        return
    from huggingface_hub import snapshot_download

    say(f"Mistral-7B-Instruct: 14.5 GB, downloaded from {REPOSITORY} into {weights_folder(root)}")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        snapshot_download(REPOSITORY, local_dir=weights_folder(root), allow_patterns=list(FILES))
    except Exception as error:  # many classes with none in common
        reason = " ".join(str(error.__cause__ or error).split())
        raise UserError(
            f"{REPOSITORY} cannot be downloaded ({reason}); accept its terms on huggingface.co, log in with: "
            f"hf auth login, then run the same command again; or put a copy of its files into {weights_folder(root)}"
        ) from error


def load(root: Path, precision: str) -> tuple[nn.Module, Any]:
    """Return the model (bfloat16 for precision "bf16") and its tokenizer from the data folder.

    Raises:
        UserError: they are not there or damaged.
    """
    if not is_complete(root):
        raise UserError(f"Mistral-7B-Instruct is not in {weights_folder(root)}; {fix(root, 'PubMedQA')}")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    try:
        model = AutoModelForCausalLM.from_pretrained(weights_folder(root), dtype=dtype, local_files_only=True)
        return model, AutoTokenizer.from_pretrained(weights_folder(root), local_files_only=True)
    except MemoryError:
        raise
    except Exception as error:  # classes of safetensors, tokenizers and json
        raise UserError(
            f"the files in {weights_folder(root)} cannot be loaded ({one_line(error)}); delete the damaged one, then "
            f"{fix(root, 'PubMedQA')}"
        ) from error


def encoder(tokenizer: Any) -> Encode:
    """Return a function from texts to token ids, with the tokenizer's prefix before every text."""
    return lambda texts: tokenizer(texts)["input_ids"]


def is_complete(root: Path) -> bool:
    """Return whether the configuration, a tokenizer and all weight files of the index are there."""
    folder = weights_folder(root)
    if not (folder / "config.json").exists() or not any(folder.glob("tokenizer*")):
        return False
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return (folder / "model.safetensors").exists()
    try:
        files = set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    return all((folder / file).exists() for file in files)


def weights_folder(root: Path) -> Path:
    return root / "lora" / REPOSITORY.rpartition("/")[2]
