"""Check what users install: `make test-wheel`.

Wheel and sdist hold every file of cpr/ and nothing else. A wheel built from the sdist is the same.
The wheel takes a step in an environment with only torch and its requirements, linked from this one.
"""

import importlib.metadata
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

from packages import NAME, ROOT, STEP, built_wheel, copied_sources, run
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

NOTHING_ELSE = """
import importlib.util
seen = [name for name in ("numpy", "hydra", "tasks", "scripts") if importlib.util.find_spec(name)]
assert not seen, f"{seen} can be imported, so that a missing requirement would not be noticed"
"""


def contents(archive: Path) -> dict[str, bytes]:
    """Return the files of a wheel, or those of an sdist without its top folder."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return {name: wheel.read(name) for name in wheel.namelist()}
    with tarfile.open(archive) as sdist:
        members = [member for member in sdist.getmembers() if member.isfile()]
        return {member.name.split("/", 1)[1]: sdist.extractfile(member).read() for member in members}  # type: ignore


def package_files() -> dict[str, bytes]:
    """Return the files of cpr/ in this checkout."""
    files = [path for path in (ROOT / "cpr").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {str(path.relative_to(ROOT)): path.read_bytes() for path in files}


def check_same(first: dict[str, bytes], second: dict[str, bytes], what: str) -> None:
    names = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    if names:
        sys.exit(f"error: {what}: {', '.join(names)}")


def check_metadata(text: str) -> None:
    """Check that torch is the only requirement without an extra."""
    metadata = Parser().parsestr(text)
    requirements = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    needed = [line.name for line in requirements if line.marker is None or line.marker.evaluate({"extra": ""})]
    if metadata["Name"] != NAME or needed != ["torch"]:
        sys.exit(f"error: the wheel of {metadata['Name']} requires {needed}, not torch alone")


def link_requirements(name: str, folder: Path) -> None:
    """Link a distribution of this environment and all its requirements into a folder."""
    todo, done = [Requirement(name)], set()
    while todo:
        requirement = todo.pop()
        key = canonicalize_name(requirement.name), tuple(sorted(requirement.extras))
        if key in done:
            continue
        done.add(key)
        distribution = importlib.metadata.distribution(requirement.name)
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(str(distribution.locate_file(top))).resolve())
        for needed in map(Requirement, distribution.requires or ()):
            extras = [{"extra": extra} for extra in ("", *requirement.extras)]
            if needed.marker is None or any(needed.marker.evaluate(extra) for extra in extras):
                todo.append(needed)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("source", "sdist", "first", "second", "torch", "elsewhere"):
            (folder / part).mkdir()
        source = copied_sources(folder / "source")
        wheel = built_wheel(source, folder / "first", "--no-build-isolation")
        build = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
        (source / "tests").mkdir()
        (source / "tests" / "test_anything.py").write_text("")
        run([sys.executable, "-c", build, folder / "sdist"], cwd=source, stdout=subprocess.DEVNULL)
        (sdist,) = (folder / "sdist").iterdir()
        files = contents(wheel)
        ours = {name: content for name, content in files.items() if ".dist-info/" not in name}
        unpacked = {name: content for name, content in contents(sdist).items() if name.startswith(("cpr/", "tests/"))}
        again = built_wheel(sdist, folder / "second", "--no-build-isolation")
        check_same(ours, package_files(), "the wheel's files are not those of cpr/")
        check_same(unpacked, package_files(), "the sdist's files are not those of cpr/")
        check_same(contents(again), files, "the wheel of the sdist is another one")
        (metadata,) = [content for name, content in files.items() if name.endswith(".dist-info/METADATA")]
        check_metadata(metadata.decode())
        print(f"{wheel.name}: {len(ours)} files, the same from {sdist.name}")

        link_requirements("torch", folder / "torch")
        venv.create(folder / "environment", symlinks=True)
        python = folder / "environment" / "bin" / "python"
        run([sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel])
        (site,) = (folder / "environment").glob("lib/python*/site-packages")
        (site / "torch.pth").write_text(f"{folder / 'torch'}\n")
        command = [python, "-I", "-W", "ignore:Failed to initialize NumPy", "-c", NOTHING_ELSE + STEP]
        run(command, cwd=folder / "elsewhere")


if __name__ == "__main__":
    main()
