"""Tests on a real Slurm: `make test-slurm`.

Every test that uses `cluster` is marked `slurm`, and `make test` skips it. `make test-chaos` runs those
that are marked `chaos`.
"""

from collections.abc import Iterator

import pytest
from local_slurm import NO_SLURM_HERE, Cluster, call_script


@pytest.hookimpl(tryfirst=True)  # before -m selects tests
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()) and not item.get_closest_marker("chaos"):
            item.add_marker(pytest.mark.slurm)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Use a running cluster and leave it running. Otherwise start one, and stop it after the last test."""
    was_running = call_script("status").returncode == 0
    started = call_script("start")  # also starts a node again that a test left dead
    if started.returncode == NO_SLURM_HERE:
        pytest.skip(started.stderr.strip())
    assert started.returncode == 0, started.stdout + started.stderr
    yield Cluster()
    if not was_running:
        assert call_script("stop").returncode == 0
