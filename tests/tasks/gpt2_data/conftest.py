"""Provide GPT-2's vocabulary once for all tests of GPT-2's data."""

import shutil

import pytest
from commands import ROOT

from tasks.engine.errors import UserError
from tasks.gpt2 import tokenizer


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory):
    """Return a data folder with GPT-2's vocabulary: the suite's own, or a new one."""
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
    """Return an empty data folder with the vocabulary."""
    shutil.copytree(vocabulary / "gpt2_bpe", tmp_path / "gpt2_bpe")
    return tmp_path
