"""Download the image data sets with torchvision, or Fashion-MNIST from Debian's package archive."""

import gzip
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.data.downloads import giving_up_after
from tasks.engine import fake, verified
from tasks.engine.errors import UserError, one_line
from tasks.engine.files import write_bytes_atomically

# SHA-256 of the unpacked files, equal for both sources.
FASHION_MNIST = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}

DATA_SETS = ("CIFAR100", "FashionMNIST")
# torchvision's lists of CIFAR-100's files with their MD5 sums.
CIFAR100_LISTS = ("train_list", "test_list")


def prepare(name: str, root: Path, say: Callable[[str], None]) -> None:
    """Put the data set `name` of DATA_SETS into `root` and verify it. Do nothing if it is complete.

    Raises:
        UserError: no source can be reached.
    """
    root.mkdir(parents=True, exist_ok=True)
    if name == "CIFAR100":
        # torchvision verifies existing files and downloads missing ones.
        _from_torchvision(name, root, say, "169 MB")
        return
    raw = root / name / "raw"
    if damaged := [path for path in (raw / file for file in FASHION_MNIST) if not _is_intact(path)]:
        # torchvision would accept damaged files.
        for path in (*damaged, raw / verified.KNOWN):
            path.unlink(missing_ok=True)
        try:
            _from_torchvision(name, root, say, "30 MB")
        except UserError as error:
            say(f"{error}; trying Debian's package archive instead (31 MB)")
            _from_debian(raw)
            say(f"{name}: from Debian's package dataset-fashion-mnist, checksums match")
        if not all(_is_intact(raw / file) for file in FASHION_MNIST):
            raise UserError(
                f"{name}: the files in {raw} do not match their checksums; delete them, then run the same command again"
            )


def digest(name: str, root: Path) -> str:
    """Return a digest of the data set's files, after comparing them with their owners' checksums.

    Other files in Fashion-MNIST's format bring their own checksums.json (tasks/engine/verified.py).

    Raises:
        UserError: a file is missing or damaged.
    """
    fix = f"prepare it with: python scripts/prepare_data.py cifar100 {name}"
    if name == "FashionMNIST":
        raw = root / name / "raw"
        return verified.verify_remembered(raw, FASHION_MNIST, fix) or verified.verify(raw, FASHION_MNIST, fix)
    reader = reader_of(name, root)
    # torchvision compared their MD5 sums when it opened them.
    return verified.overall(dict(reader.train_list + reader.test_list))


def reader_of(name: str, root: Path) -> Any:
    """Return torchvision's class of a data set. For fake files of CIFAR-100 it checks their own MD5 sums."""
    import torchvision.datasets as datasets

    reader = getattr(datasets, name)
    if name != "CIFAR100" or (made := fake.facts(root, name)) is None:
        return reader
    lists = {part: [[file, made["md5"][file]] for file, _ in getattr(reader, part)] for part in CIFAR100_LISTS}
    return type("FakeCIFAR100", (reader,), lists | {"meta": reader.meta | {"md5": made["md5"]["meta"]}})


def _is_intact(path: Path) -> bool:
    return path.exists() and _digest(path.read_bytes()) == FASHION_MNIST[path.name]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _from_torchvision(name: str, root: Path, say: Callable[[str], None], size: str) -> None:
    say(f"{name}: {size}, downloaded into {root} unless it is there")
    try:
        with giving_up_after():
            reader_of(name, root)(root=root, download=True)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{name} cannot be downloaded ({one_line(error)})") from error


def _from_debian(raw: Path) -> None:
    """Unpack Debian's package with apt's tools but without root. apt's package lists go to a temporary folder."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise UserError(
            "Fashion-MNIST: neither its download site nor apt-get is available; put its four files into " + str(raw)
        )
    with tempfile.TemporaryDirectory() as folder:
        options = [f"-oDir::State::Lists={folder}/lists", f"-oDir::Cache={folder}/cache", "-oAPT::Sandbox::User="]
        Path(folder, "lists/partial").mkdir(parents=True)
        Path(folder, "cache/archives/partial").mkdir(parents=True)
        for command in (["update"], ["download", "dataset-fashion-mnist"]):
            done = subprocess.run(["apt-get", "-qq", *options, *command], cwd=folder, capture_output=True, text=True)
            if done.returncode:
                raise UserError(f"Fashion-MNIST: apt-get {command[0]} failed: {done.stderr.strip()[-300:]}")
        package = next(Path(folder).glob("*.deb"))
        subprocess.run(["dpkg-deb", "-x", str(package), folder], check=True)
        for name, digest in FASHION_MNIST.items():
            content = gzip.decompress(Path(folder, "usr/share/datasets/fashion-mnist", f"{name}.gz").read_bytes())
            if _digest(content) != digest:
                raise UserError(
                    f"Fashion-MNIST: {name} does not match its checksum; the archive is not the expected one"
                )
            raw.mkdir(parents=True, exist_ok=True)
            write_bytes_atomically(raw / name, content)
