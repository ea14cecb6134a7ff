"""Stages that run tests of the package on this machine's device: kernels, CUDA graphs, no waiting."""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import torch

from scripts.check.report import FAILED, NOT_RUN, PASSED, Stage
from scripts.cli.parser import ROOT

# On a GPU these run Triton's kernels as they are, elsewhere in its interpreter, which is slow.
MATRIX = ("tests/cpr/test_matrix.py", "tests/cpr/test_kernels.py")
QUEUED = ("tests/cpr/test_no_waiting.py",)


def kernels(device: torch.device, folder: Path, seconds: float) -> Stage:
    """Compare the device's kernel with the plain Algorithm 1, and with torch's Adam, on every layout and dtype."""
    kernel = "triton" if device.type == "cuda" else "cpu"
    return _suite("kernels", MATRIX, kernel, folder, seconds)


def graphs(device: torch.device, folder: Path, seconds: float) -> Stage:
    """Capture whole training steps in CUDA graphs, and look for steps that wait for the device."""
    if device.type != "cuda":
        return Stage("graphs", NOT_RUN, "CUDA graphs need a GPU")
    return _suite("graphs", QUEUED, "", folder, seconds)


def _suite(name: str, files: tuple[str, ...], chosen: str, folder: Path, seconds: float) -> Stage:
    folder.mkdir(parents=True, exist_ok=True)
    found = folder / f"{name}.xml"
    found.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={found}", "-m", ""]
    try:
        subprocess.run([*command, "-k", chosen, *files], cwd=ROOT, timeout=seconds, capture_output=True, check=False)
    except subprocess.TimeoutExpired:
        return Stage(name, NOT_RUN, f"not done within {seconds:.0f} s")
    if not found.exists():
        return Stage(
            name, FAILED, f"pytest wrote no result; to see why: {' '.join(command[1:])} -k '{chosen}' {files[0]}"
        )
    return _read(name, found)


def _read(name: str, path: Path) -> Stage:
    """Return a stage from pytest's JUnit file: counts, and a row for each failure."""
    counts: Counter[str] = Counter()
    failures = []
    for case in ElementTree.parse(path).iter("testcase"):
        ended = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        counts["passed" if ended is None else ended.tag] += 1
        if ended is not None and ended.tag != "skipped":
            failures.append({"test": case.get("name"), "message": (ended.get("message") or "").splitlines()[0][:200]})
    said = ", ".join(f"{number} {outcome}" for outcome, number in counts.items()) or "no test was found"
    return Stage(name, PASSED if counts["passed"] and not failures else FAILED, said, failures)
