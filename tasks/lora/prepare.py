"""Get questions and the base model of LoRA.

These are PubMedQA and Mistral-7B, or questions about plays and a small model. Benchmarks of lm-evaluation-harness
are a data set too.
"""

from collections.abc import Callable
from pathlib import Path

from tasks.data.downloads import hub_copy
from tasks.data.text import prepare as text
from tasks.data.text.corpora import shakespeare
from tasks.data.text.shards import data_set_folder
from tasks.engine import fake
from tasks.engine.errors import UserError
from tasks.engine.section import read_part
from tasks.lora import harness, mistral, plays, pubmedqa, questions, small
from tasks.lora.config import SmallMistral

DATA_SETS = ("Plays", "PubMedQA", harness.DATA_SET)
KEYS = ("source",)
MINI = Path(__file__).parents[2] / "configs" / "scale" / "mini" / "lora.yaml"


def prepare(name: str, root: Path, say: Callable[[str], None], source: str | None = None) -> None:
    """Put the data set `name` of DATA_SETS and its model into `root`. Do nothing if they are there.

    `source` is the folder of a local copy of PubMedQA, which is read again if it is given.

    Raises:
        UserError: no source can be reached or a package is missing.
    """
    if name == "PubMedQA":
        if source is not None or not questions.finished(root, name, pubmedqa.RECIPE):
            say("PubMedQA: 400 MB of questions, and as much in the cache of datasets")
            copy = None if source is None else Path(source)
            if fake.facts(root, name) is not None:
                copy = hub_copy(root, pubmedqa.REPOSITORY)
            questions.write(root, name, pubmedqa.RECIPE, pubmedqa.questions(copy))
        mistral.fetch(root, say)
        return
    if source is not None:
        raise UserError(f"source={source} is for PubMedQA alone; leave it out for {name}")
    if name == harness.DATA_SET:
        harness.fetch(root, say)
        return
    model = mini_model()
    text.prepare(model.text, root, say)
    if not questions.finished(root, name, plays.RECIPE):
        texts = data_set_folder(root, "texts")
        shakespeare(texts, say)
        questions.write(root, name, plays.RECIPE, plays.questions(texts))
    small.trained(root, model)


def mini_model() -> SmallMistral:
    """Return what determines the small model of mini scale."""
    return read_part(SmallMistral, MINI, "task.small")
