"""The texts of GPT-2's data: documents, validation split, and the data sets Shakespeare and OpenWebText."""

import io
import shutil
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_texts import MADE, texts_of

from scripts import prepare_data
from tasks.data.downloads import import_datasets
from tasks.data.text import corpora, prepare, shards, tokenizer
from tasks.data.text.document_groups import is_validation
from tasks.engine.errors import UserError

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


# The two data sets


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("Shakespeare", {"train": 1_473_218, "validation": 92_801}),
        ("Shakespeare2k", {"train": 2_042_138, "validation": 128_818}),
    ],
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
    column_names = ["text"]

    def __len__(self):
        return 60

    def __getitem__(self, span):
        return {"text": [f"document {i}" for i in range(60)[span]]}

class config:
    HF_DATASETS_CACHE = "{cache}"

def load_dataset(name, part=None, *, split, data_files=None):
    assert split == "train"
    if name == "Skylion007/openwebtext":
        raise RuntimeError("Dataset scripts are no longer supported, but found openwebtext.py")
    assert (name, part, data_files) == (
        "parquet", None, "hf://datasets/Skylion007/openwebtext@~parquet/plain_text/train/*.parquet"
    )
    return Table()
"""


@pytest.fixture
def fake_datasets(tmp_path, monkeypatch):
    """Install a fake package `datasets` for this process and its workers. Its OpenWebText has 60 documents."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "datasets.py").write_text(FAKE.replace("{cache}", str(tmp_path / "cache")))
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.delitem(sys.modules, "datasets", raising=False)
    package = import_datasets("a test")
    del sys.modules["datasets"]
    monkeypatch.setitem(sys.modules, "datasets", package)  # so that it is removed again
    return package


def test_openwebtext_comes_from_the_hub_s_parquet_copy_where_its_script_no_longer_runs(
    root, bpe, fake_datasets, monkeypatch
):
    monkeypatch.setattr(prepare, "GB", 10**3)
    with pytest.raises(
        UserError, match=r"the hub's copy has 60 documents, not the 8,013,769 .*: hf download .* source=FOLDER"
    ):
        prepare.prepare("OpenWebText", root, print)
    monkeypatch.setattr(corpora, "DOCUMENTS", 60)
    prepare.prepare("OpenWebText", root, print)
    documents = [f"document {i}" for i in range(60)]
    assert texts_of(root, "OpenWebText", "train", bpe) == [
        text for text in documents if not is_validation(text, 0.0005)
    ]


def test_openwebtext_is_refused_in_one_line_if_it_cannot_be_had(root, fake_datasets, monkeypatch):
    usage = shutil.disk_usage(root)._replace(free=20 * 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(UserError, match=r"OpenWebText needs 72\.00 GB on the disk of .*, where 20\.00 GB are free"):
        prepare.prepare("OpenWebText", root, print)
    Path(fake_datasets.config.HF_DATASETS_CACHE, "Skylion007___openwebtext").mkdir(
        parents=True
    )  # then only the shards are missing

    def unreachable(*_, split):
        raise ConnectionError("no\nroute")

    monkeypatch.setattr(fake_datasets, "load_dataset", unreachable)
    with pytest.raises(UserError, match=r"OpenWebText cannot be loaded \(no route\);.* of a local copy: source=FOLDER"):
        prepare.prepare("OpenWebText", root, print)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"install it with: pip install '\.\[language\]'"):
        prepare.prepare("OpenWebText", root, print)


# Local copies, read by the package `datasets` itself


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    """Return the package `datasets`, with a cache of its own."""
    package = pytest.importorskip("datasets")
    monkeypatch.setattr(package.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return package


def save_copy(datasets, folder: Path, form: str, texts: list[str]) -> Path:
    """Write two shards of a copy of OpenWebText as people have it."""
    folder.mkdir()
    half = len(texts) // 2
    for number, part in enumerate((texts[:half], texts[half:])):
        if form == "tar":
            save_archive(folder / f"urlsf_subset0{number}.tar", part)
            continue
        table, name = datasets.Dataset.from_dict({"text": part}), folder / f"train-0000{number}-of-00002.{form}"
        if form == "parquet":
            table.to_parquet(name)
        elif form == "jsonl":
            table.to_json(name)
        elif form == "arrow":
            table.save_to_disk(folder / "saved")
            (folder / "saved" / "data-00000-of-00001.arrow").rename(name)
            shutil.rmtree(folder / "saved")
    if form == "save_to_disk":
        table = datasets.Dataset.from_dict({"text": texts})
        datasets.DatasetDict({"train": table}).save_to_disk(folder, num_shards={"train": 2})
    return folder


def save_archive(path: Path, texts: list[str]) -> None:
    """Write an archive of OpenWebText's owners: a tar of xz files, each a tar of texts."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:xz") as part:
        for number, text in enumerate(texts):
            add(part, f"{number:07}.txt", f"\n{text}\n\n\n".encode())
    with tarfile.open(path, "w") as subset:
        add(subset, f"openwebtext/{path.stem}-1_data.xz", inner.getvalue())


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("form", ["parquet", "arrow", "jsonl", "save_to_disk", "tar"])
def test_a_local_copy_gives_the_same_tokens_in_every_form(root, bpe, datasets, tmp_path, form):
    texts = [f"document {i}" for i in range(60)]
    copy = save_copy(datasets, tmp_path / "copy", form, texts)
    prepare_data.prepare_task("gpt2", ["OpenWebText"], root, {"source": str(copy)})
    kept = texts_of(root, "OpenWebText", "train", bpe)
    assert kept == [text for text in texts if not is_validation(text, 0.0005)]
    # It is complete for later commands, which don't know where the copy lies.
    said: list[str] = []
    prepare.prepare("OpenWebText", root, said.append)
    prepare.prepare("OpenWebText", root, said.append, str(copy.rename(tmp_path / "moved")))
    assert said == []
    other = save_copy(datasets, tmp_path / "other", form, texts[:30])
    prepare.prepare("OpenWebText", root, said.append, str(other))
    assert "has 30 documents, not the 8,013,769 that were published" in said[-1]
    assert texts_of(root, "OpenWebText", "train", bpe) == kept[: len(kept) - 30]


@pytest.mark.parametrize("task", ["gpt2", "lora"])
def test_what_is_no_local_copy_is_one_line(root, datasets, tmp_path, task):
    name = {"gpt2": "OpenWebText", "lora": "PubMedQA"}[task]
    part = tmp_path / "copy" / ("pqa_artificial" if task == "lora" else "")

    def refusal() -> str:
        with pytest.raises(UserError) as refused:
            prepare_data.main([task, name, f"data_dir={root}", f"source={tmp_path / 'copy'}"])
        assert "\n" not in str(refused.value)
        return str(refused.value)

    assert f"{name}: source={part} is no folder" in refusal()
    part.mkdir(parents=True)
    assert "is a folder without files *.parquet, *.arrow or *.jsonl" in refusal()
    (part / "a.parquet").write_bytes(b"PAR1 cut")
    assert f"{name} cannot be loaded (" in refusal()
    datasets.Dataset.from_dict({"other": ["a"]}).to_parquet(part / "a.parquet")
    if task == "lora":
        datasets.Dataset.from_dict({"other": ["a"]}).to_parquet(part.parent / "pqa_labeled" / "a.parquet")
    assert ("no column text" if task == "gpt2" else "'context' is missing") in refusal()


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ([1, 2], "holds values of the kind int64, not texts"),
        ([b"a"], "holds values of the kind binary, not texts"),
        (["a", None], r"1 documents of its copy have no text \(null\)"),
    ],
)
def test_rows_of_a_local_copy_without_a_text_are_one_line(datasets, tmp_path, texts, words):
    datasets.Dataset.from_dict({"text": texts}).to_parquet(tmp_path / "copy" / "a.parquet")
    with pytest.raises(UserError, match=words):
        corpora.openwebtext(tmp_path / "copy", print)


def test_a_saved_copy_without_the_training_split_is_one_line(datasets, tmp_path):
    datasets.DatasetDict({"test": datasets.Dataset.from_dict({"text": ["a"]})}).save_to_disk(tmp_path / "copy")
    with pytest.raises(UserError, match=r"has the splits test, and no train$"):
        corpora.openwebtext(tmp_path / "copy", print)


def test_keys_that_a_data_set_does_not_read_are_one_line(root):
    for task, key in (("cifar100", "source"), ("gpt2", "tolerance")):
        with pytest.raises(UserError, match=f"^{key}= is not read by the task {task}; leave it out$"):
            prepare_data.main([task, f"{key}=1", f"data_dir={root}"])
    for task, name in (("gpt2", "Shakespeare"), ("lora", "Plays")):
        with pytest.raises(UserError, match=rf"source=x is for \w+ alone; leave it out for {name}$"):
            prepare_data.main([task, name, "source=x", f"data_dir={root}"])
