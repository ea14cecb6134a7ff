"""Builds and loads cpu.cpp with torch's extension builder, once per source, torch version and processor."""

import functools
import hashlib
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("cpu.cpp")
FLAGS = {
    "AVX512": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-DCPU_CAPABILITY_AVX512", "-DCPU_CAPABILITY=AVX512"],
    "AVX2": ["-mavx2", "-mfma", "-mf16c", "-DCPU_CAPABILITY_AVX2", "-DCPU_CAPABILITY=AVX2"],
}
# In a process of its own: setuptools reads the command line and changes global state. Without ninja, which torch does not require.
BUILDER = """
import sys
from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension
source, folder, *flags = sys.argv[1:]
extension = CppExtension("cpr_cpu", [source], extra_compile_args=flags, extra_link_args=["-fopenmp"])
setup(name="cpr_cpu", ext_modules=[extension], cmdclass={"build_ext": BuildExtension.with_options(use_ninja=False)},
      script_args=["-q", "build_ext", "--build-lib", folder, "--build-temp", folder])
"""


def cache_folder() -> Path:
    """Where built kernels lie: $CPR_CACHE, else the user's cache folder.

    Raises FileNotFoundError if there is neither.
    """
    if named := os.environ.get("CPR_CACHE"):
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cpr"
    except RuntimeError as error:  # no HOME, and no entry in the password file, as in some containers
        raise FileNotFoundError(f"{error} Set CPR_CACHE to a folder for the kernel") from None


@functools.cache
def load() -> bool:
    """Makes torch.ops.cpr callable, building it first (about 15 seconds) if this machine has not yet; True if it is there.

    Without a compiler, or a folder to write to, warns once and returns False.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    flags = ["-O3", "-std=c++20", "-fopenmp", "-fno-math-errno", *FLAGS.get(capability, ["-DCPU_CAPABILITY=DEFAULT"])]
    key = hashlib.sha256(b"\0".join([SOURCE.read_bytes(), torch.__version__.encode(), *map(str.encode, flags)])).hexdigest()[:16]
    try:
        library = cache_folder() / f"cpu-{key}.so"
        if not library.exists():
            _build(library, flags)
        torch.ops.load_library(library)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines() or [type(error).__name__]
        warnings.warn(
            f"cpr has no compiled CPU kernel and uses torch's own operations, about twice as slow: {reason[-1]}. Install a C++20 compiler "
            f"(g++ 11 or newer), or pass kernel='eager' to say that this is wanted.",
            stacklevel=2,
        )
        return False
    return True


def _build(library: Path, flags: list[str]) -> None:
    """Each process builds in a folder of its own and renames the result: two at once do no harm, nor does a kill."""
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        command = [sys.executable, "-c", BUILDER, str(SOURCE), folder, *flags]
        subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
        (built,) = Path(folder).glob("cpr_cpu*.so")
        os.replace(built, library)
