"""GPT-2's tokenizer: its tokens, what is decoded, and smaller vocabularies."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_texts import HARD, MADE

from tasks.data.text import tokenizer
from tasks.engine.errors import UserError

END_OF_TEXT = tokenizer.VOCABULARY_SIZE - 1


def test_the_tokenizer_is_gpt2s(vocabulary, bpe):
    from transformers import GPT2Tokenizer

    files = vocabulary / "gpt2_bpe"
    other = GPT2Tokenizer(vocab=str(files / "encoder.json"), merges=str(files / "vocab.bpe"))
    assert bpe.encode_batch(["Hello world"]) == [[15496, 995]]
    plain = [text.replace("<|endoftext|>", "<|endoftext") for text in HARD + MADE]
    assert bpe.encode_batch(plain) == [other.encode(text) for text in plain]
    assert other.convert_tokens_to_ids("<|endoftext|>") == END_OF_TEXT


def test_special_tokens_in_a_text_are_ordinary_text(bpe):
    (ids,) = bpe.encode_batch(["<|endoftext|>"])
    assert ids == [27, 91, 437, 1659, 5239, 91, 29]
    assert bpe.decode([*ids, END_OF_TEXT]) == "<|endoftext|>" * 2


@pytest.mark.parametrize("entries", [257, 2048, tokenizer.VOCABULARY_SIZE])
@settings(max_examples=25, deadline=None)  # each reads the vocabulary
@given(text=st.text())
def test_decoding_gives_back_every_text(vocabulary, entries, text):
    bpe = tokenizer.load(vocabulary, entries)
    (ids,) = bpe.encode_batch([text])
    assert bpe.decode(ids) == text
    assert all(0 <= token < bpe.end_of_text == entries - 1 for token in ids)


def test_a_smaller_vocabulary_is_the_first_entries_of_gpt2s(vocabulary, bpe):
    small = tokenizer.load(vocabulary, 2048)
    assert [small.decode([token]) for token in range(2047)] == [bpe.decode([token]) for token in range(2047)]
    assert small.decode([2047]) == "<|endoftext|>"
    # A word of one early merge is one token in both; a word of later merges only is cut into earlier ones.
    assert small.encode_batch([" the"]) == bpe.encode_batch([" the"]) == [[262]]
    assert [small.decode([token]) for token in small.encode_batch(["Hello"])[0]] == ["H", "ell", "o"]


def test_a_missing_or_damaged_vocabulary_is_said_with_the_command(root):
    (root / "gpt2_bpe" / "vocab.bpe").write_text("#version: 0.2\n")
    for place in (root, root / "nowhere"):
        with pytest.raises(
            UserError, match=r"missing or damaged; prepare them with: python scripts/prepare_data\.py gpt2 data_dir="
        ):
            tokenizer.load(place)
