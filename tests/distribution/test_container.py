"""The container recipes install the lock files' versions, by the steps of one script."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from commands import ROOT

FOLDER = ROOT / "scripts" / "container"
RECIPES = [(FOLDER / name).read_text() for name in ("Dockerfile", "apptainer.def")]
INSTALL = (FOLDER / "install.sh").read_text()


def test_both_recipes_run_the_same_script_in_the_same_image():
    assert all("sh /suite/scripts/container/install.sh /suite" in recipe for recipe in RECIPES)
    images = {re.search(r"^from:? (.*)$", recipe, re.MULTILINE | re.IGNORECASE)[1] for recipe in RECIPES}
    assert len(images) == 1
    known = re.search(r"^PYTHONS_KNOWN := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    assert re.search(r"python:([\d.]+)", images.pop())[1] in known


def test_the_script_installs_every_extra_that_runs_need():
    extras = {path.stem.removeprefix("requirements-") for path in ROOT.glob("requirements-*.lock")} - {"docs"}
    assert set(re.search(r"EXTRAS-([\w ]+)", INSTALL)[1].split()) == extras
    subprocess.run(["sh", "-n", FOLDER / "install.sh"], check=True)


@pytest.mark.weekly
def test_the_script_installs_the_suite_in_a_bare_root(tmp_path):
    if shutil.which("debootstrap") is None or os.geteuid() != 0:
        pytest.skip("a bare root needs debootstrap and root")
    root = tmp_path / "root"
    subprocess.run(["debootstrap", "--variant=minbase", "bookworm", root], check=True, timeout=900)
    shutil.copy("/etc/resolv.conf", root / "etc" / "resolv.conf")
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    for name in filter(None, files):
        (root / "suite" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / "suite" / name)
    slim = {"EXTRAS": "", "TORCH_INDEX": "https://download.pytorch.org/whl/cpu", "PATH": os.environ["PATH"]}
    script = "/suite/scripts/container/install.sh"
    subprocess.run(["chroot", root, "sh", script, "/suite"], env=slim, check=True, timeout=3000)
    train = ["scripts/train.py", "task=grokking", "num_steps=2", "quiet=true"]
    subprocess.run(
        ["chroot", root, "sh", "-c", f"cd /suite && .venv/bin/python {' '.join(train)}"], env=slim, check=True
    )
    assert list(Path(root).glob("suite/runs/grokking/*/record.json"))
