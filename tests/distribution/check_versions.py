"""Run tests/cpr on the wheel, alone in an empty environment, with the oldest and the newest torch.

`make test-versions` calls it. One environment exists at a time and takes 5 to 6 GB in the folder for
temporary files. Tests that need more than torch, pytest, hypothesis, expecttest and numpy are left
out or skipped, and listed.
"""

import argparse
import ast
import glob
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packages import ROOT, STEP, built_wheel, copied_sources, run

TOOLS = ("pytest", "pytest-xdist", "hypothesis", "expecttest")
# torch 2.6 installs Triton 3.2, and its interpreter fails with numpy 2.4.
NUMPY = {"oldest": "numpy<2.3", "newest": "numpy"}
INSTALLED = {"torch", "cpr", "pytest", "hypothesis", "expecttest", "numpy"}
HELPERS = {"scripts.bench.memory": ("scripts/__init__.py", "scripts/bench/__init__.py", "scripts/bench/memory.py")}


def locked(name: str) -> str:
    """Return a requirement with the exact version of requirements.lock."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return next(line for line in lines if line.split("==")[0] == name)


def interpreter(version: str) -> str | None:
    """Return the path of a Python 3.x that runs, from PATH or pyenv."""
    pyenv = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    candidates = [shutil.which(f"python{version}"), *sorted(glob.glob(f"{pyenv}/versions/{version}.*/bin/python"))]
    for path in filter(None, candidates):
        command = [path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        says = subprocess.run(command, capture_output=True, text=True)
        if says.stdout.strip() == version:  # pyenv has a shim for every version, which fails if the version is missing
            return path
    return None


def needs(test: Path, helpers: set[str]) -> set[str]:
    """Return what a test file needs beyond the environment: top-level imports, or the repository."""
    text = test.read_text()
    names = {"files of the repository"} if 'ROOT / "' in text else set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    there = INSTALLED | helpers | set(sys.stdlib_module_names)
    return {name for name in names if name.split(".")[0] not in there and name not in HELPERS}


def copied_tests(folder: Path) -> None:
    """Copy the tests, so that `import cpr` finds the wheel's, without those that need the suite."""
    tests = folder / "tests" / "cpr"
    shutil.copytree(ROOT / "tests" / "cpr", tests, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tests" / "conftest.py", tests.parent)
    shutil.copy(ROOT / "pyproject.toml", folder)
    shutil.copy(Path(__file__).with_name("skip_absent.py"), folder / "conftest.py")
    for path in [path for paths in HELPERS.values() for path in paths]:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / path)
    helpers = {path.stem for path in tests.glob("*.py")}
    for test in sorted(tests.glob("test_*.py")):
        if missing := needs(test, helpers):
            print(f"  left out: {test.name} needs {', '.join(sorted(missing))}")
            test.unlink()


def check(python: str, torch: str, numpy: str, workers: str, options: list[str]) -> bool:
    """Run the tests with one Python and one torch. Return whether they passed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("source", "wheel", "elsewhere"):
            (folder / part).mkdir()
        wheel = built_wheel(copied_sources(folder / "source"), folder / "wheel")
        run([python, "-m", "venv", folder / "environment"])
        own = folder / "environment" / "bin" / "python"
        install: list[str | Path] = [own, "-m", "pip", "install", "-q", "--no-compile", "--disable-pip-version-check"]
        run([*install, wheel, f"torch=={torch}", numpy, *map(locked, TOOLS)])
        surroundings = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        surroundings |= {"CPR_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
        run([own, "-I", "-c", STEP], cwd=folder / "elsewhere", env=surroundings)
        copied_tests(folder / "elsewhere")
        command: list[str | Path] = [own, "-m", "pytest", "tests/cpr", "-q", "-n", workers, *options]
        return subprocess.run(command, cwd=folder / "elsewhere", env=surroundings).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs="+", help="such as 3.11; the oldest supported one gets the oldest torch")
    parser.add_argument("--oldest", required=True, help="the version of torch for the oldest supported Python")
    parser.add_argument("--newest", required=True, help="the version of torch for the others")
    parser.add_argument("--workers", default="2", help="processes of pytest")
    parser.add_argument("--options", default="", help="more arguments for pytest")
    parser.add_argument("--strict", action="store_true", help="a Python that is not installed is an error")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # removes the environment
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    failed = []
    for version in given.pythons:
        which = "oldest" if project["requires-python"] == f">={version}" else "newest"
        torch, python = getattr(given, which), interpreter(version)
        label = f"Python {version} with torch {torch}"
        if python is None:
            print(f'{label}: skipped, python{version} is not installed; name others: PYTHONS="3.11 3.12"', flush=True)
            failed += [label] if given.strict else []
            continue
        print(f"{label}: {python}", flush=True)
        numpy = NUMPY["oldest"] if which == "oldest" else locked("numpy")
        if not check(python, torch, numpy, given.workers, given.options.split()):
            failed.append(label)
    if failed:
        sys.exit(f"error: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
