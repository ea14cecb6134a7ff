"""Provide a data folder of the task lora once for all its tests."""

import shutil

import pytest
from commands import ROOT
from made_lora import WORDS, made_questions

from tasks.engine.errors import UserError
from tasks.gpt2 import tokenizer
from tasks.gpt2.groups import Recipe as TextRecipe
from tasks.gpt2.pool import write_all
from tasks.lora import questions


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Return a data folder with GPT-2's vocabulary, a small text and questions about it."""
    root = tmp_path_factory.mktemp("lora")
    own = ROOT / "data" / "gpt2_bpe"
    if own.exists():
        shutil.copytree(own, root / "gpt2_bpe")
    try:
        tokenizer.prepare(root, print)
    except UserError as error:
        pytest.skip(str(error))
    documents = [" ".join(WORDS[(i * k + k) % len(WORDS)] for k in range(60)) for i in range(40)]
    write_all(root, documents, TextRecipe("Made", "made", 0.2, 40, vocabulary=512), processes=1)
    questions.write(root, "Made", {}, {"train": made_questions(40, 0), "test": made_questions(20, 1)})
    return root


@pytest.fixture
def root(made, tmp_path):
    """Return a data folder without the small model."""
    shutil.copytree(made, tmp_path / "data", ignore=shutil.ignore_patterns("small"))
    return tmp_path / "data"
