"""Documents for the tests of GPT-2's data, and what a preparation made of them.

Some documents are hard to cut into tokens."""

import random

import numpy as np

from tasks.gpt2 import shards
from tasks.gpt2.groups import Recipe

HARD = [
    "Hello world",
    "",
    " ",
    "\n\n\n  \t  \n",
    "a" + " " * 50 + "b   c\r\n\r\nd",
    "it's we'll I'VE <|endoftext|> x<|endoftext|>",
    "naïve Ünïcödé Ωμέγα 漢字かな한국어 العربية ₂³½ \u200b\u00a0\u3000",
    "🙂👩‍👩‍👧‍👦🇩🇪 e\u0301 \U0010ffff \x00\x7f",
    "3.14159 1234567890 x=-1;{}[]()",
]
RECIPE = Recipe("Made", "made", validation_share=0.2, documents_per_group=10)
SIZE = 400  # documents in MADE, enough to fill 40 groups

_words = random.Random(0)
MADE = HARD + [
    " ".join("".join(_words.choices("etaoin 漢é\n", k=7)) for _ in range(50)) for _ in range(SIZE - len(HARD))
]


def texts_of(root, name, split, bpe):
    """Return the decoded documents of a split."""
    tokens = shards.open_split(root, name, split)
    ids = tokens.read(0, len(tokens)).astype(int)
    ends = np.flatnonzero(ids == bpe.end_of_text)
    assert len(ids) == 0 or ends[-1] == len(ids) - 1
    return [bpe.decode(document[:-1].tolist()) for document in np.split(ids, ends + 1)[:-1]]
