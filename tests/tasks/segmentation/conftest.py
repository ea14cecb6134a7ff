"""A data folder of the task segmentation, made once for all its tests; and no process group around any of them."""

import pytest
import torch

from tasks.segmentation import raw


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A data folder with four small made cases, preprocessed by the first test that needs them."""
    from made_segmentation import MADE, made_case  # not above: without nnU-Net it skips, which a conftest must not

    root = tmp_path_factory.mktemp("segmentation")
    raw.write(root, MADE, (made_case(number) for number in range(4)))
    return root


@pytest.fixture(autouse=True)
def no_process_group(monkeypatch):
    """Other tests leave a group of one process, which nnU-Net would take for a share of a run on several GPUs."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
