"""Build, cache and load the compiled kernel, with real processes and files.

A build takes 15 seconds, so most tests replace the compiler by a script that copies a finished
library. One test runs two real compilers at once. Each build runs in its own process. Loading does
too, unless the build must fail.
"""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from cpr.kernels import build

pytestmark = pytest.mark.weekly
ROOT = Path(__file__).resolve().parents[2]
# This imports build.py alone, since the package's import takes longer than torch's.
LOAD = f"""
import importlib.util
specification = importlib.util.spec_from_file_location("build", {build.__file__!r})
build = importlib.util.module_from_spec(specification)
specification.loader.exec_module(build)
assert build.load() == (not caught), caught
"""
STEP = """
import torch
from cpr import AdamCPR
for _ in range(2):
    parameter = torch.nn.Parameter(torch.ones(4, 4))
    optimizer = AdamCPR([{"params": [parameter], "regularize": True}])
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert (parameter < 1).all()
"""
CATCH = """
import json, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    exec({code!r})
print(json.dumps([str(w.message) for w in caught if "CPU kernel" in str(w.message)]))
"""


def start(code: str, cache: Path, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a process that prints the kernel's warnings."""
    command = [sys.executable, "-c", CATCH.format(code=code)]
    everything = os.environ | {"CPR_CACHE": str(cache)} | (environment or {})
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=everything)


def warnings_of(process: subprocess.Popen[str]) -> list[str]:
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0
    return json.loads(output)


class Compiler:
    """A script in place of the compiler. `commands` are the compilations and links that it received."""

    def __init__(self, folder: Path, body: str) -> None:
        self.script, self.log = folder / "compiler", folder / "commands"
        self.body = f'case "$*" in *" -o "*) echo "$*" >> {self.log};; *) exit 0;; esac\n{body}\n'
        self.environment = dict.fromkeys(("CC", "CXX", "LDSHARED", "LDCXXSHARED"), str(self.script))

    def install(self, then: str = "") -> "Compiler":
        self.script.write_text(f"#!/bin/sh\n{self.body}{then}\n")
        self.script.chmod(0o755)
        return self

    @property
    def commands(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


def copying(source: Path) -> str:
    """Return a script's body that writes a copy of `source` as its output."""
    return f'while [ "$1" != -o ]; do shift; done; cp {source} "$2"'


@pytest.fixture(scope="module")
def library() -> Path:
    """Return a library from the real compiler."""
    assert build.load()
    return build.library_path()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("CPR_CACHE", str(folder))
    return folder


@pytest.fixture
def compiler(library: Path, tmp_path: Path) -> Compiler:
    return Compiler(tmp_path, copying(library))


def failed(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str] | None = None) -> str:
    """Try to load the kernel in this process and return its one warning."""
    for name, value in (environment or {}).items():
        monkeypatch.setenv(name, value)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert not build.load.__wrapped__()
    (message,) = [str(warning.message) for warning in caught]
    assert message.startswith("cpr has no compiled CPU kernel and uses torch's own operations, about twice as slow: ")
    return message


DAMAGES = {
    "empty": lambda whole: b"",
    "text": lambda whole: b"no library\n",
    "truncated": lambda whole: whole[: len(whole) // 3],
    "without its end": lambda whole: whole[:-1],
    "one bit flipped": lambda whole: whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:],
    "whole, but not loadable": lambda whole: b"no library\n" + build._seal(b"no library\n"),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_library_is_noticed(how, library, tmp_path):
    file = tmp_path / "damaged.so"
    file.write_bytes(DAMAGES[how](library.read_bytes()))
    assert build._open(file)


@pytest.mark.parametrize("how", ["truncated", "whole, but not loadable"])
def test_a_damaged_library_is_built_again_once(how, library, compiler, cache):
    cache.mkdir()
    cached = cache / library.name
    cached.write_bytes(DAMAGES[how](library.read_bytes()))
    assert warnings_of(start(LOAD, cache, compiler.install().environment)) == []
    assert len(compiler.commands) == 2  # one file is compiled, then linked
    assert list(cache.iterdir()) == [cached]
    assert cached.read_bytes().startswith(library.read_bytes())


def test_a_damaged_library_without_a_compiler_is_removed_and_reported(library, compiler, cache, monkeypatch):
    cache.mkdir()
    cached = cache / library.name
    cached.write_bytes(DAMAGES["truncated"](library.read_bytes()))
    message = failed(monkeypatch, compiler.environment)
    assert f"twice as slow: {cached} was damaged and was removed; building it failed: " in message
    assert "No such file or directory" in message
    assert not cached.exists()


def test_a_build_that_does_not_load_is_reported_with_its_reason(tmp_path, cache, monkeypatch):
    (tmp_path / "text").write_text(100 * "no library\n")
    compiler = Compiler(tmp_path, copying(tmp_path / "text")).install()
    for _ in range(2):
        message = failed(monkeypatch, compiler.environment)
        assert "building it failed: OSError: cpr_cpu" in message
        assert "invalid ELF header. Set CPR_CACHE" in message
        assert len(compiler.commands) == 2
    assert [path.suffix for path in cache.iterdir()] == [".failed"]


def test_without_a_compiler_there_is_one_warning_and_the_step_is_done(tmp_path):
    nothing = {"CC": "/nowhere/cc", "CXX": "/nowhere/c++", "PATH": "/nowhere"}
    (message,) = warnings_of(start(STEP, tmp_path, nothing))
    (note,) = tmp_path.iterdir()
    assert "No such file or directory" in message
    assert "g++ 11" in message
    assert f"delete {note}" in message


def test_a_compiler_that_appears_later_is_used(library, compiler, cache, monkeypatch):
    message = failed(monkeypatch, compiler.environment)
    (note,) = cache.iterdir()
    before = note.stat().st_mtime_ns
    assert failed(monkeypatch) == message
    assert note.stat().st_mtime_ns == before
    compiler.install()
    for _ in range(2):
        assert warnings_of(start(LOAD, cache)) == []
        assert len(compiler.commands) == 2  # the second process finds the library
    assert [path.name for path in cache.iterdir()] == [library.name]


def test_a_compile_error_is_remembered_for_a_day(tmp_path, cache, monkeypatch):
    errors = "cpu.cpp: In function 'f':\ncpu.cpp:7:1: error: the first\ncpu.cpp:9:1: error: the second\n1 error"
    compiler = Compiler(tmp_path, f"cat >&2 <<'END'\n{errors}\nEND\nexit 1").install()
    for attempts, age in ((1, 0), (1, 80_000), (2, 86_500)):  # seconds
        for note in cache.glob("*.failed"):
            os.utime(note, (time.time() - age,) * 2)
        message = failed(monkeypatch, compiler.environment)
        assert "building it failed: cpu.cpp:7:1: error: the first. " in message
        assert len(compiler.commands) == attempts
    assert [path.suffix for path in cache.iterdir()] == [".failed"]


@pytest.mark.parametrize("content", ["", "[]", '{"reason": "x"}', "\0"])
def test_a_damaged_note_does_not_prevent_a_build(content, tmp_path):
    note = tmp_path / "cpu.failed"
    note.write_text(content)
    assert build._remembered(note, {}) is None


def test_a_later_build_removes_the_remains_of_a_killed_one(library, compiler, cache):
    process = start(LOAD, cache, compiler.install(then="sleep 60").environment)
    for _ in range(600):
        if compiler.commands:
            break
        time.sleep(0.1)
    builder = child_of(process.pid)
    script = child_of(builder)
    for pid in (process.pid, builder, script):
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    (remains,) = cache.iterdir()
    assert remains.is_dir()
    os.utime(remains, (time.time() - 86_500,) * 2)
    assert warnings_of(start(LOAD, cache, compiler.install().environment)) == []
    assert [path.name for path in cache.iterdir()] == [library.name]


def child_of(pid: int) -> int:
    """Return the process's only child."""
    output = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=True)
    (child,) = output.stdout.split()
    return int(child)


def test_two_processes_that_build_at_once_leave_one_whole_library(tmp_path):
    processes = [start(STEP, tmp_path) for _ in range(2)]
    assert [warnings_of(process) for process in processes] == [[], []]
    assert [path.suffix for path in tmp_path.iterdir()] == [".so"]


def test_a_cache_folder_that_is_a_file_is_named(cache, monkeypatch):
    cache.write_text("")
    message = failed(monkeypatch)
    assert str(cache) in message
    assert "Set CPR_CACHE" in message


def test_without_a_home_the_cache_is_the_folder_in_cpr_cache(tmp_path, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")  # no HOME, and no entry in the password file

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("CPR_CACHE", str(tmp_path))
    assert build.cache_folder() == tmp_path
    monkeypatch.delenv("CPR_CACHE")
    assert "Could not determine home directory. Set CPR_CACHE" in failed(monkeypatch)


def test_a_relative_cache_folder_is_below_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CPR_CACHE", "kernels")
    assert build.cache_folder() == tmp_path / "kernels"


def test_a_full_disk_is_reported_before_anything_is_compiled(cache, monkeypatch):
    monkeypatch.setattr(build, "SPACE", 1 << 60)
    message = failed(monkeypatch)
    assert "No space left on device" in message
    assert "Set CPR_CACHE" in message
    assert not list(cache.iterdir())


def test_extra_flags_reach_compiler_and_linker_and_make_another_library(library, tmp_path, cache, monkeypatch):
    (tmp_path / "text").write_text(100 * "no library\n")
    compiler = Compiler(tmp_path, copying(tmp_path / "text")).install()
    failed(monkeypatch, compiler.environment | {"CPR_KERNEL_FLAGS": "-O1 -DNAME='two words'"})
    assert build.library_path().name != library.name
    compiling, linking = compiler.commands
    assert compiling.rindex("-O3") < compiling.rindex("-O1 -DNAME=two words")
    assert "-O1 -DNAME=two words" in linking
