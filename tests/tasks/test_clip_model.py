"""The task clip's model: checkpoints, architectures, regularized parameters, heads, WiSE-FT."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from cpr import regularized_names
from scripts.cli.common import compose_config
from tasks.clip import prepare, pretrained, wise_ft, zero_shot
from tasks.clip.model import Classifier, Head, build_clip, flops_per_image, shape_of
from tasks.engine.errors import UserError

CPU = torch.device("cpu")
SHAPE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 28, "patch_size": 7, "width": 32, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
EXEMPT = ("bias", "ln_pre", "ln_post", "ln_1", "ln_2", "class_embedding", "positional_embedding", "logit_scale")


def known(folder: Path, name: str, shape: dict) -> tuple[Path, open_clip.CLIP]:
    """Register a small architecture with open_clip. Return a checkpoint of it and its model."""
    (folder / f"{name}.json").write_text(json.dumps(shape))
    open_clip.add_model_config(folder / f"{name}.json")
    torch.manual_seed(3)
    model = open_clip.CLIP(**shape)
    torch.save({"state_dict": model.state_dict()}, folder / f"{name}.pt")
    return folder / f"{name}.pt", model.eval()


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    return known(tmp_path_factory.mktemp("models"), "tiny-clip", SHAPE)


def bare(module: torch.nn.Module) -> torch.nn.Module:
    """Return a module with the same parameters and no computation."""
    made = torch.nn.Module()
    for name, child in module.named_children():
        made.add_module(name, bare(child))
    for name, parameter in module.named_parameters(recurse=False):
        made.register_parameter(name, parameter)
    return made


def images(count: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 28, 28, generator=torch.Generator().manual_seed(seed))


# Checkpoints and architectures


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_a_checkpoint_loaded_by_its_path_gives_open_clip_s_logits(quick_gelu, tmp_path):
    """OpenAI's weights need quick_gelu. The architecture says so, the checkpoint does not."""
    path, model = known(tmp_path, "of-either-gelu", SHAPE | {"quick_gelu": quick_gelu})
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, tmp_path / "tiny.safetensors")
    archive = bare(model)  # as in OpenAI's own files: TorchScript, with numbers beside the weights
    for name in pretrained.NOT_WEIGHTS:
        archive.register_buffer(name, torch.tensor(28))
    torch.jit.save(torch.jit.script(archive), tmp_path / "archive.pt")
    texts = open_clip.tokenize(["a bag", "an ankle boot"], 12)
    theirs = open_clip.create_model("of-either-gelu", pretrained=str(path)).eval()
    other = open_clip.CLIP(**SHAPE | {"quick_gelu": not quick_gelu}).eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected, of_other = (one.get_logits(images(), texts) for one in (theirs, other))
        for file in (path, tmp_path / "tiny.safetensors", tmp_path / "archive.pt"):
            found = pretrained.load("of-either-gelu", file).eval().get_logits(images(), texts)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
            assert not torch.allclose(found[0], of_other[0], rtol=1e-3)


def test_what_is_no_checkpoint_of_the_architecture_is_one_line(named, tmp_path):
    path, model = named
    (tmp_path / "text.pt").write_text("no weights")
    torch.save(
        {name: value for name, value in model.state_dict().items() if name != "logit_scale"}, tmp_path / "less.pt"
    )
    wrong = {
        (
            "ViT-B-32-quickgelu",
            path,
        ): r"is no checkpoint of task\.architecture=ViT-B-32-quickgelu: it.* \(\d+ more such\)$",
        ("tiny-clip", tmp_path / "less.pt"): r"it has no logit_scale$",
        ("tiny-clip", tmp_path / "text.pt"): "holds no weights",
        ("tiny-clip", tmp_path / "gone.pt"): "there is no such file",
        ("ViT-Q-99", path): "'ViT-Q-99' is unknown to open_clip",
        ("RN50", path): "not open_clip's own transformers",
        ("ViT-B-16-SigLIP", path): "not open_clip's own transformers",
    }
    for (architecture, file), message in wrong.items():
        with (
            torch.device("meta" if architecture == "ViT-B-32-quickgelu" else "cpu"),
            pytest.raises(UserError, match=message) as error,
        ):
            pretrained.load(architecture, file)
        assert "\n" not in str(error.value)


def test_weights_are_fetched_once_from_the_hub_or_else_from_openai(tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no\nroute")

    def from_openai(url, cache_dir):
        file = Path(cache_dir, Path(url).name)
        file.write_text("weights")
        return str(file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    monkeypatch.setattr(open_clip, "download_pretrained_from_url", unreachable)
    said: list[str] = []
    message = r"cannot be downloaded \(no route\); .* put open_clip_model\.safetensors or ViT-B-32\.pt into"
    with pytest.raises(UserError, match=message) as error:
        prepare.prepare("ImageNet", tmp_path, said.append)
    assert "\n" not in str(error.value) and not list(pretrained.folder(tmp_path).iterdir())
    monkeypatch.setattr(open_clip, "download_pretrained_from_url", from_openai)
    for _ in range(2):
        with pytest.raises(UserError, match="ImageNet \\(train\\) is not in"):  # the weights come first
            prepare.prepare("ImageNet", tmp_path, said.append)
        assert pretrained.kept_at(tmp_path, pretrained.ARCHITECTURE) == pretrained.folder(tmp_path) / "ViT-B-32.pt"
    assert len(said) == 4  # two messages about the download, and two that the hub failed
    assert len(list(pretrained.folder(tmp_path).iterdir())) == 1


def test_vit_b_32_has_the_published_size_and_its_matrices_are_regularized():
    with torch.device("meta"):
        clip = build_clip(shape_of(pretrained.ARCHITECTURE))
        classifier = Classifier(clip.visual, Head(clip.visual.output_dim, 1000, normalize=False))
    assert sum(p.numel() for p in clip.parameters()) == 151_277_313
    assert sum(p.numel() for p in classifier.parameters()) == 87_849_216 + 513_000
    names = regularized_names(classifier)
    blocks = [f"tower.transformer.resblocks.{i}." for i in range(12)]
    matrices = ("attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    assert set(names) == {"tower.conv1.weight", "tower.proj", "head.weight"} | {
        block + name for block in blocks for name in matrices
    }
    assert not any(exempt in name for exempt in EXEMPT for name in names)
    assert all(name in names or any(exempt in name for exempt in EXEMPT) for name, _ in classifier.named_parameters())
    products = 12 * (12 * 768**2 * 50 + 2 * 768 * 50**2) + 768 * 3072 * 49  # of 50 tokens, and of 49 patches
    assert flops_per_image(clip.visual, 224) == pytest.approx(3 * 2 * products, rel=0.01)


# Heads and WiSE-FT


def test_the_zero_shot_head_is_open_clip_s_classifier(named):
    _, model = named
    names, templates = ["bag", "ankle boot", "coat"], ["a photo of a {}.", "this is a {}."]
    tokenize = open_clip.get_tokenizer("tiny-clip")
    classifier = open_clip.build_zero_shot_classifier(model, tokenize, names, templates)
    ours = Classifier(model.visual, zero_shot.head(model, names, templates, CPU))
    with torch.no_grad():
        expected = model.logit_scale.exp() * model.encode_image(images(), normalize=True) @ classifier
        torch.testing.assert_close(ours(images()), expected)
    cfg = compose_config(["task=clip", "scale=paper"]).task.zero_shot
    assert (len(zero_shot.class_names(cfg)), len(zero_shot.templates(cfg))) == (1000, 80)


def classifiers(normalized: bool) -> tuple[Classifier, Classifier]:
    torch.manual_seed(0)
    start, end = (
        Classifier(open_clip.CLIP(**SHAPE).visual, Head(16, 10, normalize)).eval() for normalize in (True, normalized)
    )
    start.head.weight.data *= 30  # a logit scale
    return start, end


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("head", ["random", "zero_shot"])
def test_wise_ft_at_0_and_1_is_the_two_models(head, precision):
    start, end = classifiers(normalized=head == "zero_shot")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        for model, alpha in ((start, 0.0), (end, 1.0)):
            batches = [(images(20, seed), model(images(20, seed)).argmax(1)) for seed in (0, 1)]
            found = wise_ft.accuracies(start, end, [0.0, 0.5, 1.0], batches)
            assert found[alpha] == 100.0 > found[1 - alpha]
            # not what autocast keeps of the share before
            assert all(found[share] == wise_ft.accuracies(start, end, [share], batches)[share] for share in found)


def test_with_heads_on_the_same_features_wise_ft_interpolates_all_weights():
    start, end = classifiers(normalized=True)
    whole = Classifier(open_clip.CLIP(**SHAPE).visual, Head(16, 10, True)).eval()
    wise_ft.interpolate(whole, start, end, 0.3)
    with torch.no_grad():
        batch = (images(40), whole(images(40)).argmax(1))
    assert wise_ft.accuracies(start, end, [0.3], [batch]) == {0.3: 100.0}
