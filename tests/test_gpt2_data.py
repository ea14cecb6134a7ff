"""GPT-2's data: the tokenizer, cutting texts into documents, shards made by several processes, and reading them."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT, wait_until
from hypothesis import given
from hypothesis import strategies as st

from tasks.engine.errors import UserError
from tasks.gpt2 import corpora, prepare, shards, tokenizer
from tasks.gpt2.groups import Recipe, is_validation
from tasks.gpt2.pool import write_all

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
END_OF_TEXT = tokenizer.VOCABULARY_SIZE - 1
RECIPE = Recipe("Made", "made", validation_share=0.2, documents_per_group=10)
SIZE = 400  # documents of MADE, as many as fill 40 groups

_words = random.Random(0)
MADE = HARD + [" ".join("".join(_words.choices("etaoin 漢é\n", k=7)) for _ in range(50)) for _ in range(SIZE - len(HARD))]

# Prepares MADE into the folder argv[1], 20 groups a second.
SLOWLY = """
import sys, time
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
from tasks.gpt2.pool import write_all
from test_gpt2_data import MADE, RECIPE

class Slow(list):
    def __getitem__(self, span):
        time.sleep(0.1)
        return super().__getitem__(span)

if __name__ == "__main__":
    write_all(Path(sys.argv[1]), Slow(MADE), RECIPE, 2)
"""


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


@pytest.fixture(scope="module")
def made(vocabulary, tmp_path_factory):
    """MADE as shards, by one process."""
    root = tmp_path_factory.mktemp("made")
    shutil.copytree(vocabulary / "gpt2_bpe", root / "gpt2_bpe")
    write_all(root, MADE, RECIPE, processes=1)
    return root


def contents(root):
    """file -> its bytes, of all that belongs to the data set Made."""
    return {path.name: path.read_bytes() for path in (root / "gpt2" / "Made").iterdir() if path.name != ".lock"}


def texts_of(root, name, split, bpe):
    """The documents of a split, decoded."""
    tokens = shards.open_split(root, name, split)
    ids = tokens.read(0, len(tokens)).astype(int)
    ends = np.flatnonzero(ids == bpe.end_of_text)
    assert len(ids) == 0 or ends[-1] == len(ids) - 1
    return [bpe.decode(document[:-1].tolist()) for document in np.split(ids, ends + 1)[:-1]]


# The tokenizer


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
        with pytest.raises(UserError, match=r"missing or damaged; bring them with: python scripts/prepare_data\.py gpt2 data_dir="):
            tokenizer.load(place)


# Documents


@given(text=st.text(st.sampled_from("ab \n\r\té"), max_size=200).map(lambda text: text * 90))
def test_documents_joined_are_the_text(text):
    documents = corpora.cut(text)
    assert "".join(documents) == text
    assert all(corpora.LEAST <= len(document) <= corpora.MOST for document in documents[:-1])
    assert all(0 < len(document) <= corpora.MOST for document in documents[-1:])


def test_documents_end_with_blank_lines_or_else_with_a_line():
    paragraph = "x" * 700 + "\n \n"
    assert corpora.cut(paragraph * 7) == [paragraph * 3, paragraph * 3, paragraph]
    line = "x" * 700 + "\n"
    assert corpora.cut(line * 7) == [line * 5, line * 2]


def test_validation_documents_are_chosen_by_their_hash():
    chosen = {text for text in MADE if is_validation(text, 0.2)}
    assert 0.14 < len(chosen) / len(MADE) < 0.26
    assert {text for text in reversed(MADE) if is_validation(text, 0.1)} < chosen
    assert is_validation("Hello world", 0.4) and not is_validation("Hello world", 0.3)  # the fraction is 0.393


# Shards


def test_shards_decoded_are_the_documents(made, bpe):
    for split in shards.SPLITS:
        expected = [text for text in MADE if is_validation(text, 0.2) == (split == "validation")]
        assert texts_of(made, "Made", split, bpe) == expected
    known = shards.manifest(made, "Made")
    assert sum(total["documents"] for total in known["totals"].values()) == len(MADE)
    assert [shard["file"] for shard in known["shards"]["train"]] == [f"train-{group:05d}.bin" for group in range(40)]
    shards.verify(made, "Made")


def test_two_processes_write_the_same_bytes_as_one(made, root):
    write_all(root, MADE, RECIPE, processes=2)
    assert contents(root) == contents(made)


def test_a_killed_preparation_keeps_whole_groups_and_ends_with_the_same_bytes(made, root, tmp_path):
    script = tmp_path / "slowly.py"
    script.write_text(SLOWLY.format(root=str(ROOT), tests=str(ROOT / "tests")))
    folder = root / "gpt2" / "Made"
    process = subprocess.Popen([sys.executable, str(script), str(root)], stderr=subprocess.DEVNULL)
    wait_until(lambda: len(list(folder.glob("group-*.json"))) >= 3)
    children = [int(child) for task in Path(f"/proc/{process.pid}/task").iterdir() for child in (task / "children").read_text().split()]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(children) >= 2
    wait_until(lambda: not any(at_work(child) for child in children), seconds=20)
    assert not (folder / "manifest.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("group-*.json")}
    assert 3 <= len(kept) < 40
    write_all(root, MADE, RECIPE, processes=2)
    assert contents(root) == contents(made)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def at_work(process):
    """Whether the process lives; what nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_reading_crosses_the_borders_of_shards(made):
    files = sorted((made / "gpt2" / "Made").glob("train-*.bin"))
    whole = np.concatenate([np.fromfile(path, "<u2") for path in files])
    tokens = shards.open_split(made, "Made", "train")
    assert len(tokens) == len(whole) == shards.manifest(made, "Made")["totals"]["train"]["tokens"]
    border = files[0].stat().st_size // 2
    choices = random.Random(1)
    starts = [0, border - 1, border, len(whole)] + [choices.randrange(len(whole)) for _ in range(200)]
    for start in starts:
        count = choices.randrange(len(whole) - start + 1)
        read = tokens.read(start, count)
        assert read.dtype == np.uint16
        np.testing.assert_array_equal(read, whole[start : start + count])
    np.testing.assert_array_equal(tokens.read(border - 1, 2), whole[border - 1 : border + 1])
    for start, count in ((-1, 1), (0, len(whole) + 1), (len(whole), 1), (0, -1)):
        with pytest.raises(IndexError):
            tokens.read(start, count)


def test_a_split_without_a_token_has_length_0(root):
    write_all(root, ["a", "b"], Recipe("Made", "made", validation_share=0.0, documents_per_group=1), processes=2)
    assert len(shards.open_split(root, "Made", "train")) == 4
    assert len(shards.open_split(root, "Made", "validation")) == 0


def test_missing_and_damaged_shards_are_said_and_made_again(made, root):
    command = r"python scripts/prepare_data\.py gpt2 Made data_dir="
    with pytest.raises(UserError, match=f"Made is not in .*; bring it with: {command}"):
        shards.open_split(root, "Made", "train")
    shutil.copytree(made / "gpt2", root / "gpt2")
    folder = root / "gpt2" / "Made"
    assert prepare.finished(root, RECIPE)
    assert not prepare.finished(root, Recipe("Made", "made", 0.3, 10))

    changed = bytearray((folder / "train-00007.bin").read_bytes())
    changed[100] ^= 1
    (folder / "train-00007.bin").write_bytes(changed)
    with pytest.raises(UserError, match=r"train-00007\.bin in .* damaged; delete .* " + command):
        shards.verify(root, "Made")
    (folder / "train-00007.bin").unlink()
    os.truncate(folder / "validation-00003.bin", 2)
    with pytest.raises(UserError, match=r"train-00007\.bin in .* is missing or not as long as it was; .*" + command):
        shards.open_split(root, "Made", "train")
    assert not prepare.finished(root, RECIPE)
    write_all(root, MADE, RECIPE, processes=2)
    assert contents(root) == contents(made)

    (folder / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json is damaged; delete it"):
        shards.open_split(root, "Made", "train")


def test_a_full_disk_is_said_and_leaves_nothing_half_written(vocabulary):
    with tempfile.TemporaryDirectory() as disk:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk], capture_output=True).returncode:
            pytest.skip("mounting a file system needs root")
        try:
            shutil.copytree(vocabulary / "gpt2_bpe", Path(disk, "gpt2_bpe"))
            with pytest.raises(UserError, match=r"no space left .* start the same command again"):
                write_all(Path(disk), MADE, RECIPE, processes=2)
            folder = Path(disk, "gpt2", "Made")
            assert not (folder / "manifest.json").exists()
            assert not list(folder.glob(".*.tmp"))
            for record in map(json.loads, (path.read_bytes() for path in folder.glob("group-*.json"))):
                assert not shards.wrong_in_length(folder, record["shards"])
        finally:
            subprocess.run(["umount", disk], check=True)


# The two data sets


@pytest.mark.parametrize(
    ("name", "tokens"),
    [("Shakespeare", {"train": 1_473_218, "validation": 92_801}), ("Shakespeare2k", {"train": 2_042_138, "validation": 128_818})],
)
def test_shakespeare_is_prepared_once_and_decodes_to_the_text(vocabulary, tmp_path, capsys, name, tokens):
    root = vocabulary
    if not (root / "gpt2" / name / "manifest.json").exists():
        root = tmp_path
        try:
            prepare.prepare(name, root, print)
        except UserError as error:
            pytest.skip(str(error))
        assert "15 MB on disk" in capsys.readouterr().out
    files = sorted((root / "gpt2" / "texts").glob("*.txt"))
    whole = "".join(path.read_bytes().decode() for path in files)
    assert len(files) == 42 and len(whole) == 5_057_198

    bpe = tokenizer.load(root, prepare.RECIPES[name].vocabulary)
    validation, train = (iter(texts_of(root, name, split, bpe)) for split in ("validation", "train"))
    documents = [document for path in files for document in corpora.cut(path.read_bytes().decode())]
    assert "".join(next(validation if is_validation(document, 0.05) else train) for document in documents) == whole
    assert next(train, None) is None and next(validation, None) is None
    totals = shards.manifest(root, name)["totals"]
    assert {split: total["tokens"] for split, total in totals.items()} == tokens
    assert {split: total["documents"] for split, total in totals.items()} == {"train": 2182, "validation": 138}
    shards.verify(root, name)

    prepare.prepare(name, root, print)
    assert capsys.readouterr().out == ""  # nothing to do


FAKE = """
class Table:
    def __len__(self):
        return 60

    def __getitem__(self, span):
        return {"text": [f"document {i}" for i in range(60)[span]]}

class config:
    HF_DATASETS_CACHE = "{cache}"

def load_dataset(name, split):
    assert (name, split) == ("Skylion007/openwebtext", "train")
    return Table()
"""


@pytest.fixture
def fake_datasets(tmp_path, monkeypatch):
    """A package `datasets`, for this process and its workers, whose OpenWebText has 60 documents."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "datasets.py").write_text(FAKE.replace("{cache}", str(tmp_path / "cache")))
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.delitem(sys.modules, "datasets", raising=False)
    package = corpora.import_datasets()
    del sys.modules["datasets"]
    monkeypatch.setitem(sys.modules, "datasets", package)  # so that it is taken out again
    return package


def test_openwebtext_comes_through_datasets(root, bpe, fake_datasets, monkeypatch):
    monkeypatch.setattr(prepare, "GB", 10**3)
    prepare.prepare("OpenWebText", root, print)
    documents = [f"document {i}" for i in range(60)]
    assert texts_of(root, "OpenWebText", "train", bpe) == [text for text in documents if not is_validation(text, 0.0005)]


def test_openwebtext_is_refused_in_one_line_if_it_cannot_be_had(root, fake_datasets, monkeypatch):
    usage = shutil.disk_usage(root)._replace(free=20 * 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(UserError, match=r"OpenWebText needs 72\.00 GB on the disk of .*, where 20\.00 GB are free"):
        prepare.prepare("OpenWebText", root, print)
    Path(fake_datasets.config.HF_DATASETS_CACHE, "Skylion007___openwebtext").mkdir(parents=True)  # then the shards alone are to come

    def unreachable(name, split):
        raise ConnectionError("no\nroute")

    monkeypatch.setattr(fake_datasets, "load_dataset", unreachable)
    with pytest.raises(UserError, match=r"OpenWebText cannot be loaded \(no route\)"):
        prepare.prepare("OpenWebText", root, print)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"install it with: pip install '\.\[language\]'"):
        prepare.prepare("OpenWebText", root, print)
