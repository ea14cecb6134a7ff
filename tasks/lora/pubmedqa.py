"""PubMedQA: yes/no/maybe questions with the abstracts that they are about.

211,269 questions made from titles are for training. 1,000 answered by experts are the test.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.data.downloads import from_folder, from_hub
from tasks.engine.errors import UserError
from tasks.lora.questions import Question

REPOSITORY = "qiaojin/PubMedQA"
PARTS = {"train": "pqa_artificial", "test": "pqa_labeled"}
RECIPE = {"source": f"datasets: {REPOSITORY}", "parts": PARTS, "prompt": "Abstract, Question, Answer", "version": 1}


def questions(source: Path | None) -> dict[str, list[Question]]:
    """Return split -> its questions, from a local copy or downloaded into the cache of `datasets` if missing.

    A local copy has a folder for each of PARTS, as the hub's repository has.

    Raises:
        UserError: the package is missing, or the data set can't be downloaded or has another layout.
    """
    try:
        tables = {
            split: from_hub("PubMedQA", REPOSITORY, part) if source is None else from_folder("PubMedQA", source / part)
            for split, part in PARTS.items()
        }
        return {split: [question(row) for row in table] for split, table in tables.items()}
    except (KeyError, TypeError) as error:
        raise UserError(f"PubMedQA: its rows are not laid out as in {REPOSITORY}: {error} is missing") from error


def question(row: Mapping[str, Any]) -> Question:
    """Return a question with lm-evaluation-harness's prompt, which also scores the paper's other benchmarks."""
    abstract = "\n".join(row["context"]["contexts"])
    return Question(f"Abstract: {abstract}\nQuestion: {row['question']}\nAnswer:", f" {row['final_decision']}")
