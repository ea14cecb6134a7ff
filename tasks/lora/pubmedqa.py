"""PubMedQA: 211,269 questions made from titles (trained on), 1,000 answered by experts (the test), with abstracts that they are about."""

import logging
from collections.abc import Mapping
from typing import Any

from tasks.engine.errors import UserError
from tasks.lora.questions import Question

REPOSITORY = "qiaojin/PubMedQA"
PARTS = {"train": "pqa_artificial", "test": "pqa_labeled"}
RECIPE = {"source": f"datasets: {REPOSITORY}", "parts": PARTS, "prompt": "Abstract, Question, Answer", "version": 1}


def questions() -> dict[str, list[Question]]:
    """split -> its questions; downloaded into the cache of `datasets` unless they are there.

    Raises UserError if the package is missing or the data set cannot be had.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError("PubMedQA needs the package datasets; install it with: pip install '.[language]'") from error
    logging.getLogger("huggingface_hub").setLevel(
        logging.ERROR
    )  # it tells of each retry; what came of them is said below
    try:
        tables = {split: datasets.load_dataset(REPOSITORY, part, split="train") for split, part in PARTS.items()}
    except Exception as error:  # what `datasets` and the libraries below it raise has no class in common
        reason = " ".join(str(error.__cause__ or error).split())
        raise UserError(
            f"PubMedQA cannot be loaded ({reason}); start the same command again when that is mended"
        ) from error
    return {split: [question(row) for row in table] for split, table in tables.items()}


def question(row: Mapping[str, Any]) -> Question:
    """The prompt is the one of lm-evaluation-harness, with which the paper's other benchmarks are scored."""
    abstract = "\n".join(row["context"]["contexts"])
    return Question(f"Abstract: {abstract}\nQuestion: {row['question']}\nAnswer:", f" {row['final_decision']}")
