"""The task clip: checkpoints, heads, WiSE-FT, which parameters are regularized, the small CLIP, batches, mistakes, and a run."""

import json
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
from commands import call, records, write_fashion_mnist
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file

from cpr import regularized_names
from scripts.common import compose_config
from tasks.clip import data as clip_data
from tasks.clip import prepare, pretrained, small, task, wise_ft, zero_shot
from tasks.clip.model import Classifier, Head, build_clip, flops_per_image, shape_of
from tasks.engine import checkpoint
from tasks.engine.batching import pieces
from tasks.engine.errors import UserError
from tasks.engine.launch import Launch
from tasks.engine.run import build_workload
from tasks.engine.seeding import random_state
from tasks.imagenet import loader
from tasks.imagenet.data import load
from tasks.imagenet.recipe import eval_transform

CPU = torch.device("cpu")
SHAPE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 28, "patch_size": 7, "width": 32, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
TINY = [
    *("task=clip", "scale=mini", "quiet=true", "num_steps=6", "task.batch_size=16", "task.eval_batch_size=20", "task.wise_ft=[0,0.5,1]"),
    *("task.data.train_size=60", "task.data.val_size=50", "task.small.images=200", "task.small.batch_size=16", "task.small.steps=3"),
    *("task.small.shape.embed_dim=16", "task.small.shape.vision_cfg.width=32", "task.small.shape.vision_cfg.layers=2"),
    *("task.small.shape.vision_cfg.head_width=16", "task.small.shape.text_cfg.width=16", "task.small.shape.text_cfg.layers=1"),
]
EXEMPT = ("bias", "ln_pre", "ln_post", "ln_1", "ln_2", "class_embedding", "positional_embedding", "logit_scale")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_fashion_mnist(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """A shape that open_clip knows by name, and a checkpoint of it."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "tiny-clip.json").write_text(json.dumps(SHAPE))
    open_clip.add_model_config(folder / "tiny-clip.json")
    torch.manual_seed(3)
    model = open_clip.CLIP(**SHAPE)
    torch.save({"state_dict": model.state_dict()}, folder / "tiny.pt")
    return folder / "tiny.pt", model.eval()


def bare(module: torch.nn.Module) -> torch.nn.Module:
    """Its parameters under the same names, and nothing that computes."""
    made = torch.nn.Module()
    for name, child in module.named_children():
        made.add_module(name, bare(child))
    for name, parameter in module.named_parameters(recurse=False):
        made.register_parameter(name, parameter)
    return made


def config(root: Path, *more: str):
    return compose_config([*TINY, "regularizer=adamcpr_ip", f"data_dir={root}", *more])


def recipe(root: Path) -> small.Recipe:
    return small.recipe_of(config(root).task.small)


def sha(model) -> str:
    return checkpoint.digest(model.state_dict())


def images(count: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 28, 28, generator=torch.Generator().manual_seed(seed))


# Checkpoints and architectures


def test_a_checkpoint_loaded_by_its_path_gives_open_clip_s_logits(named, tmp_path):
    path, model = named
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, tmp_path / "tiny.safetensors")
    archive = bare(model)  # as in OpenAI's own files: TorchScript, with numbers beside the weights
    for name in pretrained.NOT_WEIGHTS:
        archive.register_buffer(name, torch.tensor(28))
    torch.jit.save(torch.jit.script(archive), tmp_path / "archive.pt")
    texts = open_clip.tokenize(["a bag", "an ankle boot"], 12)
    theirs = open_clip.create_model("tiny-clip", pretrained=str(path)).eval()
    for file in (path, tmp_path / "tiny.safetensors", tmp_path / "archive.pt"):
        ours = pretrained.load("tiny-clip", file).eval()
        with torch.no_grad():
            assert all(torch.equal(a, b) for a, b in zip(ours.get_logits(images(), texts), theirs.get_logits(images(), texts), strict=True))


def test_what_is_no_checkpoint_of_the_architecture_is_one_line(named, tmp_path):
    path, model = named
    (tmp_path / "text.pt").write_text("no weights")
    torch.save({name: value for name, value in model.state_dict().items() if name != "logit_scale"}, tmp_path / "less.pt")
    wrong = {
        ("ViT-B-32-quickgelu", path): r"is no checkpoint of task\.architecture=ViT-B-32-quickgelu: it.* \(\d+ more such\)$",
        ("tiny-clip", tmp_path / "less.pt"): r"it has no logit_scale$",
        ("tiny-clip", tmp_path / "text.pt"): "holds no weights",
        ("tiny-clip", tmp_path / "gone.pt"): "there is no such file",
        ("ViT-Q-99", path): "'ViT-Q-99' is unknown to open_clip",
        ("RN50", path): "not open_clip's own transformers",
        ("ViT-B-16-SigLIP", path): "not open_clip's own transformers",
    }
    for (architecture, file), message in wrong.items():
        with torch.device("meta" if architecture == "ViT-B-32-quickgelu" else "cpu"), pytest.raises(UserError, match=message) as error:
            pretrained.load(architecture, file)
        assert "\n" not in str(error.value)


def test_missing_weights_are_one_line_with_the_command(tmp_path):
    with pytest.raises(UserError, match=r"^OpenAI's weights .* are not in .*: python scripts/prepare_data\.py clip ImageNet data_dir=.*$"):
        task.build(compose_config(["task=clip", "scale=paper", f"data_dir={tmp_path}"]), CPU)
    with pytest.raises(UserError, match=r"OpenAI's weights are of ViT-B-32-quickgelu; name a file with task\.checkpoint=PATH"):
        pretrained.kept_at(tmp_path, "ViT-B-16")
    with pytest.raises(UserError, match=r"FashionMNIST \(train\) is not in .*prepare_data\.py"):
        task.build(config(tmp_path), CPU)


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
    assert len(said) == 4  # twice what is downloaded, and that the hub does not give it
    assert len(list(pretrained.folder(tmp_path).iterdir())) == 1


def test_the_small_clip_that_is_prepared_is_that_of_a_run():
    prepared, of_run = OmegaConf.load(prepare.MINI), compose_config(["task=clip", "scale=mini"])
    assert small.recipe_of(prepared.task.small) == small.recipe_of(of_run.task.small)


def test_vit_b_32_has_the_published_size_and_its_matrices_are_regularized():
    with torch.device("meta"):
        clip = build_clip(shape_of(pretrained.ARCHITECTURE))
        classifier = Classifier(clip.visual, Head(clip.visual.output_dim, 1000, normalize=False))
    assert sum(p.numel() for p in clip.parameters()) == 151_277_313
    assert sum(p.numel() for p in classifier.parameters()) == 87_849_216 + 513_000
    names = regularized_names(classifier)
    blocks = [f"tower.transformer.resblocks.{i}." for i in range(12)]
    matrices = ("attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    assert set(names) == {"tower.conv1.weight", "tower.proj", "head.weight"} | {block + name for block in blocks for name in matrices}
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


def test_heads_are_as_configured_and_a_run_s_random_head_is_its_seed_s(root):
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(build_workload(config(root), CPU).model.state_dict())
    assert torch.equal(states[0]["head.weight"], states[1]["head.weight"])
    assert not torch.equal(states[0]["head.weight"], states[2]["head.weight"])
    assert all(torch.equal(states[0][name], states[2][name]) for name in states[0] if name.startswith("tower."))
    assert states[0]["head.bias"].abs().max() > 0
    workload = build_workload(config(root, "task.head=zero_shot"), CPU)
    assert workload.model.head.normalize and workload.model.head.bias.abs().max() == 0
    assert all(p.requires_grad for p in workload.model.parameters())
    before = workload.evaluate(workload.model)["top1_accuracy"]
    assert workload.at_end(workload.model) == dict.fromkeys(("zero_shot_accuracy", "wise_ft_0.0", "wise_ft_0.5", "wise_ft_1.0"), before)


def classifiers(normalized: bool) -> tuple[Classifier, Classifier]:
    torch.manual_seed(0)
    start, end = (Classifier(open_clip.CLIP(**SHAPE).visual, Head(16, 10, normalize)).eval() for normalize in (True, normalized))
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


# The small CLIP and the data


def test_the_small_clip_is_kept_by_recipe_and_images(root, tmp_path):
    own = recipe(root)
    first = small.trained(root, own, print, quiet=True)
    path = small.kept_at(root, own)
    changed = path.stat().st_mtime_ns
    assert sha(small.trained(root, own, print, quiet=True)) == sha(first)
    assert path.stat().st_mtime_ns == changed
    path.write_bytes(path.read_bytes()[:-100])
    assert sha(small.trained(root, own, print, quiet=True)) == sha(first)  # a damaged one is made again, with the same bits
    assert small.kept_at(root, replace(own, lr=1e-4)) != path
    assert small.kept_at(write_fashion_mnist(tmp_path, train=300), own).name != path.name


def test_a_run_s_random_numbers_do_not_depend_on_whether_it_trained_the_small_clip(root):
    other = ("task.small.seed=9",)
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(sha(build_workload(config(root, *other), CPU).model) + str(random_state()["torch"].sum()))
    assert states[0] == states[1]


def test_the_small_clip_sees_no_image_of_the_fine_tuning_and_none_of_an_unnamed_class(root):
    own = recipe(root)
    tuned = load(config(root).task.data, root, "train").indices
    assert not set(tuned) & set(small.subset(400, own).tolist()) and len(tuned) + own.images < 400
    unnamed = {own.classes.index(name) for name in own.unnamed}
    pixels, classes = small.pairs(root, own)
    assert set(classes.tolist()) == set(range(10)) - unnamed and 100 < len(pixels) == len(classes) < 200
    with pytest.raises(UserError, match=r"task\.small\.images=200 and task\.data\.train_size=201 must be different ones of 400 images"):
        task.build(config(root, "task.data.train_size=201"), CPU)


def test_images_are_transformed_as_open_clip_does():
    cfg = compose_config(["task=clip", "scale=paper"]).task
    pixels = torch.randint(0, 256, (40, 50, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    picture = Image.fromarray(pixels.numpy()).resize((300, 250))
    train, plain = (open_clip.image_transform(224, is_train=training) for training in (True, False))
    assert torch.equal(eval_transform(cfg.data)(picture), plain(picture))
    torch.manual_seed(1)
    expected = train(picture)
    torch.manual_seed(1)
    assert torch.equal(clip_data.train_transform(cfg.data, cfg.augment)(picture), expected)


@pytest.mark.parametrize("world", [1, 3])
def test_a_batch_depends_on_seed_and_step_alone_and_each_process_reads_its_part(root, world, monkeypatch):
    def batch(rank: int, seed: int = 1):
        monkeypatch.setattr(loader, "launched", lambda: Launch(rank, world, rank))
        cfg = config(root, f"seed={seed}")
        return clip_data.batches(load(cfg.task.data, root, "train"), cfg, CPU)(4)

    parts = [part for rank in range(world) for part, _ in pieces(batch(rank), rank, world)]
    pixels, classes = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    assert pixels.shape == (16, 3, 28, 28) and classes.shape == (16,) and classes.dtype == torch.int64
    monkeypatch.undo()
    cfg = config(root)
    whole = clip_data.batches(load(cfg.task.data, root, "train"), cfg, CPU)(4)[0:16]
    assert torch.equal(pixels, whole[0]) and torch.equal(classes, whole[1])
    if world == 1:
        assert not torch.equal(batch(0, seed=2)[0:16][0], pixels)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.head=linear", r"task\.head='linear' is unknown; choose one of random, zero_shot"),
        ("task.wise_ft=[0,1.5]", r"task\.wise_ft=\[0, 1\.5\] must be numbers in \[0, 1\]"),
        ("task.data.image_size=32", r"task\.data\.image_size=32 is not the model's 28"),
        ("task.zero_shot.classes=[]", r"task\.zero_shot\.classes=\[\] must be a list of names, or imagenet"),
        ("task.zero_shot.templates=[a photo]", r"must be a list of sentences with \{\} for the name, or openai"),
        ("task.zero_shot.classes=[bag,coat]", r"FashionMNIST .* has 10 classes, and task\.zero_shot\.classes names 2"),
        ("task.batch_size=64", r"60 training images, fewer than task\.batch_size=64"),
        ("+task.small.colour=red", r"task\.small: .*unexpected keyword argument 'colour'"),
        ("+task.small.shape.colour=red", r"task\.small\.shape: open_clip cannot make a CLIP of it"),
        ("task.small.unnamed=[hat]", r"task\.small\.unnamed: 'hat' is none of task\.small\.classes"),
        ("task.small.images=401", r"task\.small\.images=401 and task\.data\.train_size=60 must be different ones"),
    ],
)
def test_a_mistake_is_one_line(root, override, message):
    with pytest.raises(UserError, match=message) as error:
        task.build(config(root, override), CPU)
    assert "\n" not in str(error.value)


def test_sharded_weights_are_refused(root):
    with pytest.raises(UserError, match="compares whole weights, which parallel=fsdp divides; use parallel=ddp"):
        task.build(config(root, "parallel=fsdp", "gpus=2"), CPU)


# A run


def test_a_run_has_zero_shot_and_wise_ft_scores_in_its_last_evaluation(root, tmp_path):
    own = ("regularizer=adamcpr_ws", "regularizer.warm_start=2", "task.eval_every_steps=3", "quiet=false")
    done = call("train.py", *TINY, *own, f"data_dir={root}", f"runs_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "regularized: 11 of 34 tensors" in done.stdout + done.stderr
    (record,) = records(tmp_path).values()
    metrics = record["metrics"]
    assert set(metrics) == {
        "top1_accuracy",
        "top1_accuracy_selection",
        "top1_accuracy_report",
        "validation_loss",
        "zero_shot_accuracy",
        "wise_ft_0.0",
        "wise_ft_0.5",
        "wise_ft_1.0",
    }
    assert metrics["wise_ft_0.0"] == metrics["zero_shot_accuracy"] and metrics["wise_ft_1.0"] == metrics["top1_accuracy"]
    assert record["metric"] == {"name": "top1_accuracy", "unit": "%", "better": "higher"}
    (log,) = tmp_path.glob("clip/*/metrics.jsonl")
    evaluations = [row for row in map(json.loads, log.read_text().splitlines()) if "top1_accuracy" in row]
    assert [(row["step"], "wise_ft_1.0" in row) for row in evaluations] == [(3, False), (6, True)]
