"""The measurement of the image loader beside timm's loader and the model's step, at a small size."""

import json

import open_clip

from scripts.bench import loading


def test_the_loader_is_measured_beside_timm_s_and_the_model_s_step(capsys):
    small = (
        "+task.model.arguments.img_size=32",
        "+task.model.arguments.depth=1",
        "task.data.image_size=32",
        "task.batch_size=4",
    )
    loading.main(["rounds=2", "photos=4", *small])
    about, _, *rows, needed = capsys.readouterr().out.splitlines()
    assert about == "deit_small_patch16_224, 32 pixels, batches of 4, on cpu; 2 rounds"
    assert [row[:26].strip() for row in rows] == [loading.OURS, loading.TIMM, loading.MODEL]
    assert all(float(row[26:37].replace(",", "")) > 0 for row in rows) and needed.startswith("loader_workers=")


def test_clip_s_loader_is_measured_with_a_model_of_drawn_weights(capsys, tmp_path):
    shape = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
    }
    shape["text_cfg"] = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    (tmp_path / "measured-clip.json").write_text(json.dumps(shape))
    open_clip.add_model_config(tmp_path / "measured-clip.json")
    small = ("task.architecture=measured-clip", "task.data.image_size=32", "task.batch_size=4")
    loading.main(["task=clip", "rounds=2", "photos=4", *small])
    about, _, *rows, needed = capsys.readouterr().out.splitlines()
    assert about == "measured-clip, 32 pixels, batches of 4, on cpu; 2 rounds"
    assert all(float(row[26:37].replace(",", "")) > 0 for row in rows) and needed.startswith("loader_workers=")
