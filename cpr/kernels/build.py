"""Build cpu.cpp with torch's extension builder and load it, once per source, torch version and processor.

The cache folder holds two kinds of files, named after a hash of all that the build depends on:

| file | holds |
| --- | --- |
| `cpu-<key>.so` | the library, and behind it the SHA-256 of its bytes, so that a damaged file is never loaded |
| `cpu-<key>.failed` | why the last build failed and with which compiler, so that later processes don't try in vain |

Safe under concurrent builds and `kill -9`: each process builds in its own folder and renames the
library into place.
"""

import contextlib
import errno
import functools
import hashlib
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch

SOURCE = Path(__file__).with_name("cpu.cpp")
FLAGS = {
    "AVX512": [
        *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma"),
        *("-DCPU_CAPABILITY_AVX512", "-DCPU_CAPABILITY=AVX512"),
    ],
    "AVX2": ["-mavx2", "-mfma", "-mf16c", "-DCPU_CAPABILITY_AVX2", "-DCPU_CAPABILITY=AVX2"],
}
# Runs in its own process: setuptools reads the command line and changes global state, and loading a
# bad library may crash. use_ninja=False because torch does not require ninja.
BUILDER = """
import ctypes, json, pathlib, sys
from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension
source, folder, flags, extra = *sys.argv[1:3], *map(json.loads, sys.argv[3:])
extension = CppExtension("cpr_cpu", [source], extra_compile_args=flags + extra, extra_link_args=["-fopenmp"] + extra)
setup(name="cpr_cpu", ext_modules=[extension], cmdclass={"build_ext": BuildExtension.with_options(use_ninja=False)},
      script_args=["-q", "build_ext", "--build-lib", folder, "--build-temp", folder])
(built,) = pathlib.Path(folder).glob("cpr_cpu*.so")
ctypes.CDLL(str(built))
"""
SEAL = b"cpr-sha256:"  # followed by 32 bytes
RETRY_AFTER = 24 * 3600  # seconds, also the age at which the remains of a killed build are removed
# Environment variables that setuptools and compilers read.
COMPILER_VARIABLES = (
    *("CC", "CXX", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "LDSHARED"),
    *("CPATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH"),
)
SPACE = 64 << 20  # bytes of free space for a build, twice what it takes
OTHER_FOLDER = "Set CPR_CACHE to a folder that can be written to, has space and is not mounted noexec"
OTHER_COMPILER = "Fix this, or install a C++20 compiler (g++ 11 or newer)"
MISSING_MODULE = f"Install it: {sys.executable} -m pip install setuptools"


class KernelError(Exception):
    """The kernel can't be built or loaded. `advice` says what to do about it."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(reason)
        self.advice = advice


def cache_folder() -> Path:
    """Return the folder of built kernels: $CPR_CACHE, else `cpr` in the user's cache folder.

    Raises:
        FileNotFoundError: CPR_CACHE is not set and the user has no home folder.
    """
    if named := os.environ.get("CPR_CACHE"):
        return Path(named).absolute()
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cpr"
    except RuntimeError as error:  # no HOME, and no entry in the password file, as in some containers
        raise FileNotFoundError(str(error)) from None


def compile_flags() -> list[str]:
    """Return the compiler's flags for this processor. The kernel's last bits depend on them."""
    capability = torch.backends.cpu.get_cpu_capability()
    return ["-O3", "-std=c++20", "-fopenmp", "-fno-math-errno", *FLAGS.get(capability, ["-DCPU_CAPABILITY=DEFAULT"])]


def extra_flags() -> list[str]:
    """Return the compiler and linker flags of $CPR_KERNEL_FLAGS, which `make test-sanitizers` sets."""
    return shlex.split(os.environ.get("CPR_KERNEL_FLAGS", ""))


def library_path() -> Path:
    """Return where this process's library is, or would be, in the cache folder.

    Raises:
        FileNotFoundError: There is no cache folder.
    """
    abi = str(torch.compiled_with_cxx11_abi())
    parts = [torch.__version__, abi, platform.machine(), *compile_flags(), *extra_flags()]
    key = hashlib.sha256(b"\0".join([SOURCE.read_bytes(), *map(str.encode, parts)])).hexdigest()[:16]
    return cache_folder() / f"cpu-{key}.so"


@functools.cache
def load() -> bool:
    """Make torch.ops.cpr callable and return whether it is.

    Builds the library first if there is none, in about 15 seconds. A damaged library is built again,
    once. A failed build is tried again when another compiler is found or a day has passed. Without a
    kernel, warns once and returns False.
    """
    try:
        library = library_path()
        damage = _open(library)
        if damage is not None:
            with contextlib.suppress(FileNotFoundError):
                library.unlink()
            try:
                _build(library)
            except KernelError as error:
                if damage:
                    raise KernelError(f"{library} {damage} and was removed; {error}", error.advice) from error
                raise
            if (damage := _open(library)) is not None:
                raise KernelError(f"{library} {damage or 'disappeared'}, right after it was built", OTHER_FOLDER)
    except (OSError, KernelError) as error:
        reason = str(error).rstrip(".") or type(error).__name__
        advice = getattr(error, "advice", OTHER_FOLDER)
        warnings.warn(
            f"cpr has no compiled CPU kernel and uses torch's own operations, about twice as slow: {reason}. {advice}. "
            "Pass kernel='eager' to silence this warning.",
            stacklevel=2,
        )
        return False
    return True


def _open(library: Path) -> str | None:
    """Load the library. Return None if that worked, else what is wrong with it: "" if there is none."""
    try:
        content = library.read_bytes()
    except FileNotFoundError:
        return ""
    if not content:
        return "was empty"
    body, seal = content[: -len(_seal(b""))], content[-len(_seal(b"")) :]
    if seal != _seal(body):  # loading a truncated library would end the process with SIGBUS
        return "was damaged"
    try:
        torch.ops.load_library(library)
    except OSError as error:
        return f"could not be loaded ({error.__cause__ or error})"  # newer torch wraps the loader's own error
    return None


def _seal(content: bytes) -> bytes:
    """Return what follows a whole library in its file. The dynamic loader ignores it."""
    return SEAL + hashlib.sha256(content).digest()


def _build(library: Path) -> None:
    """Build the library, unless it failed before with the same compiler."""
    note, compilers = library.with_suffix(".failed"), _compilers()
    if failure := _remembered(note, compilers):
        raise failure
    library.parent.mkdir(parents=True, exist_ok=True)
    _remove_remains(library.parent)
    if shutil.disk_usage(library.parent).free < SPACE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(library.parent))
    with tempfile.TemporaryDirectory(prefix="build-", dir=library.parent, ignore_cleanup_errors=True) as folder:
        flags = json.dumps(compile_flags()), json.dumps(extra_flags())
        result = subprocess.run(
            [sys.executable, "-c", BUILDER, str(SOURCE), folder, *flags],
            capture_output=True,
            text=True,
            errors="replace",
            cwd=folder,
            env=os.environ | {"LC_ALL": "C"},  # compilers translate "error:"
        )
        built = next(Path(folder).glob("cpr_cpu*.so"), None)
        if result.returncode:
            reason = _decisive_line(result.stderr + result.stdout).replace(f"{folder}/", "")
            reason = reason or f"the build ended with code {result.returncode}"
            advice = OTHER_FOLDER if built else MISSING_MODULE if "No module named" in reason else OTHER_COMPILER
            details = {"reason": reason, "advice": advice, "compilers": compilers}
            with contextlib.suppress(OSError):
                note.write_text(json.dumps(details, indent=1) + "\n")
            raise _failed(details, note)
        assert built is not None
        content = built.read_bytes()
        with built.open("ab") as file:
            file.write(_seal(content))
            file.flush()
            os.fsync(file.fileno())
        os.replace(built, library)
    note.unlink(missing_ok=True)


def _remembered(note: Path, compilers: dict[str, Any]) -> KernelError | None:
    """Return the failure in the note if a retry would most likely fail in the same way."""
    try:
        details, age = json.loads(note.read_text()), time.time() - note.stat().st_mtime
        if details["compilers"] == compilers and abs(age) < RETRY_AFTER:
            return _failed(details, note)
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, KeyError):
        pass  # no note, or a damaged one
    return None


def _failed(details: dict[str, Any], note: Path) -> KernelError:
    """Return the error of a failed build, and say when it is tried again."""
    retry = "It is tried again when another compiler is found, or after a day"
    if note.exists():
        retry += f"; to retry at once, delete {note}"
    return KernelError(f"building it failed: {details['reason']}", f"{details['advice']}. {retry}")


def _compilers() -> dict[str, Any]:
    """Return what a build's success depends on beside the library's key, as JSON gives it back."""
    names = [os.environ.get(name) or sysconfig.get_config_var(name) for name in ("CC", "CXX")]
    programs = {words[0] for name in names if name and (words := name.split())} | {"c++"}
    found: dict[str, Any] = {name: os.environ[name] for name in COMPILER_VARIABLES if name in os.environ}
    found["setuptools"] = importlib.util.find_spec("setuptools") is not None
    for program in sorted(programs):
        path = shutil.which(program)
        found[f"program {program}"] = None
        if path is not None:
            status = os.stat(path)
            found[f"program {program}"] = [os.path.realpath(path), status.st_size, status.st_mtime_ns]
    return found


def _decisive_line(output: str) -> str:
    """Return the compiler's first error, or else the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next((line for line in lines if re.search(r"(^|\s)error: ", line)), lines[-1] if lines else "")


def _remove_remains(cache: Path) -> None:
    """Remove the folders of builds that were killed."""
    for folder in cache.glob("build-*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > RETRY_AFTER:
                shutil.rmtree(folder, ignore_errors=True)
