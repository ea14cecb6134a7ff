"""Build the package's wheel and source distribution from a copy of its sources."""

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
NAME = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"]
# The Python of an environment with the package runs this: one step with a pull, with the wheel's kernel.
STEP = f"""
import importlib.metadata, pathlib, sys
import torch
import cpr
assert pathlib.Path(cpr.__file__).is_relative_to(sys.prefix), f"{{cpr.__file__}} is not the wheel's"
assert cpr.__version__ == importlib.metadata.version("{NAME}")
parameter = torch.nn.Parameter(torch.ones(64, 64))
groups = [{{"params": [parameter], "regularize": True}}]
optimizer = cpr.AdamCPR(groups, lr=1e-2, kappa_init_method="warm_start", kappa_init_param=1, kernel="cpu")
for _ in range(3):
    parameter.grad = -torch.ones_like(parameter)
    optimizer.step()
assert optimizer.state[parameter]["lagmul"] > 0
versions = f"Python {{sys.version.split()[0]}}, torch {{torch.__version__}}"
print(f"{NAME} {{cpr.__version__}}, {{versions}}: a step with the kernel")
"""


def run(command: Sequence[str | Path], **options: Any) -> None:
    """Run a command. Exit with a message if it fails."""
    result = subprocess.run(command, **options)
    if result.returncode:
        sys.exit(f"error: exit status {result.returncode} of: {' '.join(map(str, command))}")


def copied_sources(folder: Path) -> Path:
    """Copy the sources of a distribution. setuptools writes build files beside them, and would reuse old ones."""
    shutil.copytree(ROOT / "cpr", folder / "cpr", ignore=shutil.ignore_patterns("__pycache__"))
    for name in SOURCES:
        shutil.copy(ROOT / name, folder)
    return folder


def built_wheel(source: Path, folder: Path, *options: str) -> Path:
    """Build a wheel of a source tree or sdist. `options` are pip's."""
    run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", *options, "-w", folder, source])
    (wheel,) = folder.glob("*.whl")
    return wheel
