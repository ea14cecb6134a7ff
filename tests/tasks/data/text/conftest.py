"""GPT-2's vocabulary, brought once for all tests of GPT-2's data."""

import shutil

import pytest
from commands import ROOT

from tasks.data.text import tokenizer
from tasks.engine.errors import UserError


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory):
    """A data folder with GPT-2's vocabulary: the suite's own, or a new one."""
    own = ROOT / "data"
    root = own if (own / "gpt2_bpe").exists() else tmp_path_factory.mktemp("data")
    try:
        tokenizer.prepare(root, print)
    except UserError as error:
        pytest.skip(str(error))
    return root


@pytest.fixture(scope="session")
def bpe(vocabulary):
    return tokenizer.load(vocabulary)


@pytest.fixture
def root(vocabulary, tmp_path):
    """An empty data folder with the vocabulary."""
    shutil.copytree(vocabulary / "gpt2_bpe", tmp_path / "gpt2_bpe")
    return tmp_path
