"""Draw OpenWebText's documents and GPT-2's vocabulary at random, in their owners' file formats."""

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers.pre_tokenizers import ByteLevel

from tasks.data.downloads import hub_copy, import_datasets
from tasks.data.text import tokenizer
from tasks.data.text.corpora import OPENWEBTEXT
from tasks.engine import fake
from tasks.engine.files import write_bytes_atomically

DOCUMENTS = 400
SHARDS = 2
# What a fake data set's recipe has in place of the real one's (prepare.RECIPES). A real validation
# share would give no document.
RECIPE = {"source": "FAKE OpenWebText", "validation_share": 0.1, "documents_per_group": 200}
SYLLABLES = ("ba", "co", "di", "fe", "gu", "la", "mo", "ni", "pe", "ru", "sa", "to", "é", "ß", "字")


def documents(seed: int = 0, count: int = DOCUMENTS) -> list[str]:
    """Return texts of 40 to 120 words that are drawn from a few hundred."""
    draw = np.random.default_rng(seed)
    words = ["".join(draw.choice(SYLLABLES, draw.integers(1, 4))) for _ in range(300)]
    return [" ".join(draw.choice(words, draw.integers(40, 120))).capitalize() + ".\n" for _ in range(count)]


@fake.once("OpenWebText")
def openwebtext(root: Path) -> None:
    """Write a copy of OpenWebText's repository on the Hugging Face hub, and GPT-2's vocabulary.

    Raises:
        UserError: the package `datasets` is not installed.
    """
    vocabulary(root)
    copy = fake.begin(root, hub_copy(Path(), OPENWEBTEXT))
    write_table(copy / "plain_text", "train", {"text": documents()})
    recipe = RECIPE | {"tokenizer_sha256": _overall(fake.facts(root, "GPT2Vocabulary") or {})}
    fake.end(root, "OpenWebText", {"recipe": recipe}, copy, fake.begin(root, "gpt2"))


def write_table(folder: Path, split: str, columns: dict[str, list[Any]], form: str = "parquet") -> None:
    """Write a split of a hub repository in SHARDS files of a form ("parquet", "arrow" or "jsonl")."""
    datasets = import_datasets("fake data")
    datasets.disable_progress_bars()
    whole = datasets.Dataset.from_dict(columns)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(SHARDS):
        shard = whole.shard(SHARDS, number, contiguous=True)
        path = str(folder / f"{split}-{number:05}-of-{SHARDS:05}.{form}")
        if form == "parquet":
            shard.to_parquet(path)
        elif form == "jsonl":
            shard.to_json(path)
        else:
            _to_arrow(shard, path)


def _to_arrow(table: Any, path: str) -> None:
    import pyarrow

    with pyarrow.OSFile(path, "wb") as file, pyarrow.ipc.new_stream(file, table.data.table.schema) as stream:
        stream.write_table(table.data.table)


@fake.once("GPT2Vocabulary")
def vocabulary(root: Path) -> None:
    """Write encoder.json and vocab.bpe with 50,257 entries: the bytes, pairs of bytes, and <|endoftext|>."""
    symbols = sorted(ByteLevel.alphabet())
    merges = list(itertools.islice(itertools.product(symbols, symbols), tokenizer.VOCABULARY_SIZE - len(symbols) - 1))
    entries = [*symbols, *(first + second for first, second in merges), tokenizer.END_OF_TEXT]
    contents = {
        "encoder.json": json.dumps({entry: number for number, entry in enumerate(entries)}),
        "vocab.bpe": "\n".join(["#version: 0.2", *(f"{first} {second}" for first, second in merges), ""]),
    }
    folder = fake.begin(root, tokenizer.folder_of(Path()))
    for file, content in contents.items():
        write_bytes_atomically(folder / file, content.encode())
    known = {file: hashlib.sha256(content.encode()).hexdigest() for file, content in contents.items()}
    fake.end(root, "GPT2Vocabulary", known, folder)


def _overall(files: dict[str, str]) -> str:
    """Return one fingerprint of the vocabulary's files, as `tokenizer.FINGERPRINT` is of the real ones."""
    return hashlib.sha256("".join(files[name] for name in tokenizer.FILES).encode()).hexdigest()
