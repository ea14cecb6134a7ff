"""Fake data in ImageNet's files, and a tiny CLIP in OpenAI's file format."""

import io
import json
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from tasks.clip import pretrained
from tasks.clip.model import build_clip
from tasks.data.images import fake as images
from tasks.engine import fake
from tasks.engine.files import write_bytes_atomically

ARCHITECTURE = "fake-ViT-32"
SHAPE = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 224, "patch_size": 32, "width": 64, "layers": 2, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@fake.once("CLIP")
def weights(root: Path) -> None:
    """Write ViT-B-32.pt, a TorchScript archive like OpenAI's, and open_clip's configuration of its small shape."""
    folder = fake.begin(root, pretrained.folder(Path()))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_clip(SHAPE)
    archive = _bare(model)
    for name, value in zip(pretrained.NOT_WEIGHTS, (224, 77, 49408), strict=True):
        archive.register_buffer(name, torch.tensor(value))
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated, but OpenAI's files stay
        torch.jit.save(torch.jit.script(archive), file)
    write_bytes_atomically(folder / pretrained.FILES[1], file.getvalue())
    write_bytes_atomically(folder / f"{ARCHITECTURE}.json", json.dumps(SHAPE, indent=1).encode())
    fake.end(root, "CLIP", {"architecture": ARCHITECTURE}, folder)


def _bare(module: nn.Module) -> nn.Module:
    """Return a module with the same parameters, in half precision as OpenAI's matrices are, and no computation."""
    made = nn.Module()
    for name, child in module.named_children():
        made.add_module(name, _bare(child))
    for name, parameter in module.named_parameters(recurse=False):
        kept = parameter.detach().half() if parameter.ndim > 1 else parameter.detach()
        made.register_parameter(name, nn.Parameter(kept, requires_grad=False))
    return made


def _with_weights(make_images: Callable[[Path], None], root: Path) -> None:
    weights(root)
    make_images(root)


FAKES = {
    "ImageNet": partial(_with_weights, images.imagenet),
    "ImageNetParquet": partial(_with_weights, images.imagenet_parquet),
    "ImageNetWebDataset": partial(_with_weights, images.imagenet_webdataset),
}
