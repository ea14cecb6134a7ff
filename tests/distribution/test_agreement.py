"""`make test-versions` and the public workflow test the versions that pyproject.toml promises."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def make_variable(name: str) -> str:
    (value,) = re.findall(rf"^{name} \?= (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return value


def test_the_oldest_torch_is_the_one_tested():
    (requirement,) = PROJECT["dependencies"]
    assert make_variable("TORCH_OLDEST").startswith(requirement.removeprefix("torch>="))


def test_the_newest_torch_is_the_locked_one():
    assert f"torch=={make_variable('TORCH_NEWEST')}" in (ROOT / "requirements.lock").read_text().splitlines()


def test_the_oldest_and_the_newest_python_are_tested_here_and_in_the_public_workflow():
    classifiers = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert make_variable("PYTHONS").split() == [classifiers[0], classifiers[-1]]
    assert PROJECT["requires-python"] == f">={classifiers[0]}"
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    assert jobs["versions"]["strategy"]["matrix"]["python"] == [classifiers[0], classifiers[-1]]
    assert jobs["suite"]["strategy"]["matrix"]["python"] == classifiers
