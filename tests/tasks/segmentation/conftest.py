"""Provide a data folder of the task segmentation once for all its tests, and no process group."""

import pytest
import torch

from tasks.segmentation import raw


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Return a data folder with four small cases. The first test that needs them preprocesses them."""
    from made_segmentation import (
        MADE,
        made_case,
    )  # imported here, since it skips without nnU-Net, and a conftest must not skip

    root = tmp_path_factory.mktemp("segmentation")
    raw.write(root, MADE, (made_case(number) for number in range(4)))
    return root


@pytest.fixture(autouse=True)
def no_process_group(monkeypatch):
    """Remove the process group of other tests. nnU-Net would treat it as a run on several GPUs."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
