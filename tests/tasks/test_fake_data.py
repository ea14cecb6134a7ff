"""Fake data sets have their owners' formats: the owners' libraries read them, and so does the suite."""

import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torchvision.datasets
from PIL import Image

from tasks.cifar100c import fake as cifar100c
from tasks.cifar100c import prepare as prepare_cifar100c
from tasks.clip import fake as clip
from tasks.clip import pretrained
from tasks.data.downloads import from_folder, hub_copy
from tasks.data.images import fake as images
from tasks.data.images import labelled, torchvision_sets
from tasks.data.images import prepare as prepare_images
from tasks.data.text import fake as text
from tasks.data.text import prepare as prepare_text
from tasks.data.text import shards, tokenizer
from tasks.data.text.corpora import OPENWEBTEXT
from tasks.engine.errors import UserError


def silent(_: str) -> None:
    pass


# CIFAR-100 and CIFAR-100-C


def test_torchvision_reads_cifar100_and_checks_the_fake_s_own_sums(tmp_path, monkeypatch):
    images.cifar100(tmp_path)
    torchvision_sets.prepare("CIFAR100", tmp_path, silent)
    ours = torchvision_sets.reader_of("CIFAR100", tmp_path)(tmp_path, train=False)
    with pytest.raises(RuntimeError, match="not found or corrupted"):
        torchvision.datasets.CIFAR100(tmp_path)
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: True)
    theirs = torchvision.datasets.CIFAR100(tmp_path, train=False)
    assert theirs.data.shape == (100, 32, 32, 3) and len(theirs.classes) == 100
    assert np.array_equal(ours.data, theirs.data) and ours.targets == theirs.targets


def test_a_damaged_fake_is_refused_like_a_damaged_original(tmp_path):
    images.cifar100(tmp_path)
    file = tmp_path / images.CIFAR_FOLDER / "test"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(RuntimeError, match="not found or corrupted"):
        torchvision_sets.reader_of("CIFAR100", tmp_path)(tmp_path)


def test_cifar100c_is_complete_and_has_the_test_labels_five_times(tmp_path):
    cifar100c.corrupted(tmp_path)
    prepare_cifar100c.prepare("CIFAR100", tmp_path, silent)
    labels = np.load(tmp_path / "CIFAR-100-C" / "labels.npy")
    clean = torchvision_sets.reader_of("CIFAR100", tmp_path)(tmp_path, train=False).targets
    assert np.array_equal(labels, np.tile(clean, 5)) and len(list((tmp_path / "CIFAR-100-C").glob("*.npy"))) == 20


# ImageNet


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    root = tmp_path_factory.mktemp("imagenet")
    images.imagenet(root)
    images.imagenet_webdataset(root)
    return root


def test_torchvision_reads_imagenet_s_folders_with_their_oddities(imagenet):
    prepare_images.prepare("ImageNet", imagenet, silent)
    found = torchvision.datasets.ImageFolder(imagenet / "imagenet" / "val")
    assert (len(found), len(found.classes)) == (1000, 1000)
    kinds = Counter((image.format, image.mode) for image in (Image.open(path) for path, _ in found.samples[:100]))
    assert kinds == {("PNG", "RGB"): 1, ("JPEG", "L"): 2, ("JPEG", "CMYK"): 2, ("JPEG", "RGB"): 95}


def test_without_the_marker_fake_imagenet_is_refused(imagenet):
    marker = (imagenet / "FAKE").read_bytes()
    (imagenet / "FAKE").unlink()
    try:
        with pytest.raises(UserError, match="has 1,000 images of 1,000 classes, not 1,281,167 of 1,000"):
            prepare_images.prepare("ImageNet", imagenet, silent)
    finally:
        (imagenet / "FAKE").write_bytes(marker)


def test_shards_hold_the_images_of_the_folders(imagenet):
    prepare_images.prepare("ImageNetWebDataset", imagenet, silent)
    shard = next((imagenet / "imagenet-wds").glob("imagenet1k-train-*.tar"))
    with tarfile.open(shard) as file:
        endings = Counter(member.name.partition(".")[2] for member in file)
    assert endings == dict.fromkeys(("cls", "jpg", "json"), images.SHARD)
    of_shards, of_folders = (labelled.read(name, imagenet, "val") for name in ("ImageNetWebDataset", "ImageNet"))
    by_label = {label: image for image, label in (of_shards[index] for index in range(10))}
    for label, image in by_label.items():
        assert np.array_equal(np.asarray(image), np.asarray(of_folders[label][0]))


def test_datasets_reads_the_parquet_shards_and_gives_the_folders_images(imagenet):
    datasets = pytest.importorskip("datasets")
    images.imagenet_parquet(imagenet)
    prepare_images.prepare("ImageNetParquet", imagenet, silent)
    folder = imagenet / "imagenet-parquet"
    theirs = datasets.load_dataset(str(folder), split="validation", cache_dir=str(folder / "cache"))
    assert isinstance(theirs.features["image"], datasets.Image) and theirs.features["label"].num_classes == 1000
    ours = labelled.read("ImageNetParquet", imagenet, "val")
    of_folders = labelled.read("ImageNet", imagenet, "val")
    for index in (0, 1, 2, 999):
        found = [theirs[index]["image"], ours[index][0], of_folders[theirs[index]["label"]][0]]
        assert all(np.array_equal(np.asarray(image), np.asarray(found[0])) for image in found)


# OpenWebText


@pytest.mark.parametrize("form", ["parquet", "arrow", "jsonl"])
def test_datasets_reads_openwebtext_in_every_form(tmp_path, form):
    pytest.importorskip("datasets")
    text.write_table(hub_copy(tmp_path, OPENWEBTEXT) / "plain_text", "train", {"text": text.documents()}, form)
    assert from_folder("OpenWebText", hub_copy(tmp_path, OPENWEBTEXT))["text"] == text.documents()


def test_openwebtext_is_tokenized_by_the_suite_and_its_manifest_says_fake(tmp_path):
    pytest.importorskip("datasets")
    text.openwebtext(tmp_path)
    for _ in range(2):
        prepare_text.prepare("OpenWebText", tmp_path, silent)
    manifest = shards.manifest(tmp_path, "OpenWebText")
    assert manifest["source"] == "FAKE OpenWebText" and manifest["totals"]["validation"]["documents"] > 10
    assert [len(manifest["shards"][split]) for split in shards.SPLITS] == [2, 2]
    bpe = tokenizer.load(tmp_path)
    tokens = shards.open_split(tmp_path, "OpenWebText", "train").read(0, 2000).tolist()
    first = bpe.decode(tokens[: tokens.index(bpe.end_of_text)])
    assert first in text.documents()


def test_the_fake_vocabulary_has_gpt2_s_size_and_loses_no_text(tmp_path):
    text.vocabulary(tmp_path)
    bpe = tokenizer.load(tmp_path)
    assert bpe.end_of_text == 50256 and len(json.loads((tmp_path / "gpt2_bpe/encoder.json").read_text())) == 50257
    (ids,) = bpe.encode_batch([sample := "Grüße, 世界!\n" * 3])
    assert bpe.decode(ids) == sample and max(ids) < 50256
    (tmp_path / "FAKE").unlink()
    with pytest.raises(UserError, match=r"GPT-2's vocabulary: its files .* are missing or damaged"):
        tokenizer.load(tmp_path)


# CLIP


def test_open_clip_and_torchscript_read_the_fake_weights(tmp_path):
    clip.weights(tmp_path)
    path = pretrained.kept_at(tmp_path, clip.ARCHITECTURE)
    assert path.name == "ViT-B-32.pt"
    archive = torch.jit.load(io.BytesIO(path.read_bytes()))
    assert archive.state_dict()["visual.conv1.weight"].dtype == torch.float16
    assert set(pretrained.NOT_WEIGHTS) < set(archive.state_dict())
    ours = pretrained.load(clip.ARCHITECTURE, path).eval()
    theirs = open_clip.create_model(clip.ARCHITECTURE).eval()
    theirs.load_state_dict(pretrained.read(path))
    pixels, words = torch.ones(1, 3, 224, 224), open_clip.tokenize(["a photo"])
    with torch.no_grad():
        found, expected = (model.get_logits(pixels, words) for model in (ours, theirs))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_an_architecture_without_a_configuration_beside_the_weights_is_one_line(tmp_path):
    clip.weights(tmp_path)
    (pretrained.folder(tmp_path) / f"{clip.ARCHITECTURE}.json").unlink()
    with pytest.raises(UserError, match="OpenAI's weights are of ViT-B-32-quickgelu"):
        pretrained.kept_at(tmp_path, clip.ARCHITECTURE)


# LoRA


def test_transformers_reads_the_sharded_mistral_and_its_tokenizer(tmp_path):
    transformers = pytest.importorskip("transformers")
    from tasks.lora import fake, mistral

    fake.model(tmp_path)
    folder = mistral.weights_folder(tmp_path)
    assert mistral.is_complete(tmp_path) and len(list(folder.glob("model-*.safetensors"))) > 1
    model, bpe = mistral.load(tmp_path, "bf16")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), theirs.parameters(), strict=True))
    assert model.config.vocab_size == 32000
    ids = bpe("Answer: yes")["input_ids"]
    assert ids[0] == bpe.bos_token_id == 1 and bpe.decode(ids, skip_special_tokens=True).strip() == "Answer: yes"
    assert bpe.unk_token_id not in bpe("字 of none")["input_ids"]  # but its bytes


def test_datasets_reads_pubmedqa_and_the_suite_prepares_it(tmp_path):
    datasets = pytest.importorskip("datasets")
    from tasks.lora import fake, prepare, pubmedqa, questions

    fake.questions(tmp_path)
    copy = hub_copy(tmp_path, pubmedqa.REPOSITORY)
    table = datasets.load_dataset(str(copy), "pqa_labeled", split="train", cache_dir=str(tmp_path / "cache"))
    assert set(table["final_decision"]) == {"yes", "no", "maybe"}
    assert set(table[0]["context"]) == {"contexts", "labels", "meshes"}
    prepare.prepare("PubMedQA", tmp_path, silent)
    found = {split: questions.read(tmp_path, "PubMedQA", split) for split in questions.SPLITS}
    assert {split: len(rows) for split, rows in found.items()} == fake.QUESTIONS
    assert {row.answer for row in found["train"]} == {" yes", " no"}


# Segmentation


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    pytest.importorskip("nnunetv2")
    from tasks.segmentation import fake

    root = tmp_path_factory.mktemp("volumes")
    for make in fake.FAKES.values():
        make(root)
    return root


@pytest.mark.parametrize("name", ["Heart", "BTCV", "BraTS", "AMOS22"])
def test_the_suite_prepares_the_owners_layouts(volumes, name):
    from tasks.segmentation import fake, prepare, raw

    said: list[str] = []
    prepare.prepare(name, volumes, said.append)
    cases = raw.manifest(volumes, name)["cases"]
    assert len(cases) == fake.CASES[name]
    assert any("not oriented alike" in line for line in said) == (name == "AMOS22")
    folder = raw.folder_of(volumes, name)
    expected = len(json.loads((folder / "dataset.json").read_text())["labels"])
    import nibabel

    for path in (folder / "labelsTr").iterdir():
        assert len(np.unique(np.asarray(nibabel.load(path).dataobj))) == expected


def test_the_owners_oddities_are_there(volumes):
    source = Path(volumes, "segmentation", "source")
    with tarfile.open(source / "Task02_Heart.tar") as archive:
        assert any(Path(name).name.startswith("._la_") for name in archive.getnames())
    assert list(source.glob("MICCAI_BraTS2020_TrainingData/BraTS20_Training_355/*Segm.nii"))
    assert (source / "amos22/imagesTr/amos_0507.nii.gz").exists()  # MRI
