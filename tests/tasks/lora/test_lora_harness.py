"""Benchmarks of lm-evaluation-harness: kept in the data folder, checked before training, scored without a network."""

import json
import random
import shutil

import pytest
import torch
from made_lora import CPU, SMALL, config

from scripts import prepare_data
from scripts.cli.common import compose_config
from scripts.prepare_data import data_sets
from tasks.data.text import tokenizer
from tasks.engine.config import read_config
from tasks.engine.errors import UserError
from tasks.engine.records import run_folder
from tasks.engine.run import build_workload, run
from tasks.lora import harness, mistral, small

# Rows as the harness's data sets have them, by a word of their path.
ROWS = {
    "json": ("validation", {"context": "Question: What is 1 plus 1?\nAnswer:", "completion": " 2"}),
    "piqa": ("validation", {"goal": "open", "sol1": "pull", "sol2": "push", "label": 0}),
    "mmlu": ("test", {"question": "Is it?", "choices": ["a", "b", "c", "d"], "answer": 1, "subject": "law"}),
    "truthful": (
        "validation",
        {"question": "Is it?", **{f"mc{n}_targets": {"choices": ["yes", "no"], "labels": [1, 0]} for n in (1, 2)}},
    ),
}


@pytest.fixture
def hub(monkeypatch):
    """Put small data sets in the place of the hub's. Return the calls of the hub."""
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("lm_eval")
    calls: list[str] = []

    def load_dataset(path, name=None, **options):
        calls.append(path)
        split, row = next(found for word, found in ROWS.items() if word in path)
        rows = datasets.Dataset.from_list([row] * 3)
        return datasets.DatasetDict({split: rows, "dev": rows, "train": rows})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


@pytest.fixture
def few(monkeypatch):
    """Leave out most of the benchmarks' tasks, which differ in their data alone."""
    monkeypatch.setitem(harness.BENCHMARKS, "mmlu", ["mmlu_anatomy"])
    monkeypatch.setitem(harness.BENCHMARKS, "arithmetic", ["arithmetic_1dc", "arithmetic_2da"])


def pretrained(root):
    """Write a small Mistral and its tokenizer in the place of Mistral-7B's."""
    from transformers import PreTrainedTokenizerFast

    folder = mistral.weights_folder(root)
    torch.manual_seed(0)
    small.empty(SMALL).save_pretrained(folder)
    end = {"eos_token": "<|endoftext|>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.load(root, 512)._bpe, **end).save_pretrained(folder)


def benchmarked(root, *more):
    settings = ("task=lora", "scale=paper", "device=cpu", "quiet=true", "task.data.name=Made", "task.lora.r=2")
    sizes = ("task.data.train_size=32", "task.batch_size=4", "num_steps=2", "task.schedule.warmup_steps=1")
    harnessed = "task.harness=[arithmetic,mmlu,piqa,truthfulqa]"
    return compose_config([*settings, *sizes, harnessed, f"data_dir={root}", "regularizer=adamw", *more])


def test_benchmarks_are_fetched_once_and_scored_without_a_network(root, tmp_path, hub, few):
    pretrained(root)
    cfg = benchmarked(root, f"runs_dir={tmp_path / 'runs'}")
    assert data_sets(cfg) == ["Made", "Benchmarks"] and data_sets(config(root)) == ["Made"]
    with pytest.raises(UserError, match=r"task\.harness: .* is not in .*prepare_data\.py lora Benchmarks data_dir="):
        run(cfg)
    assert not hub
    prepare_data.prepare_task("lora", ["benchmarks"], root)
    fetched = len(hub)
    assert fetched == 5
    prepare_data.prepare_task("lora", ["benchmarks"], root)
    scores = run(cfg)["metrics"]
    assert len(hub) == fetched
    for name in harness.BENCHMARKS:
        assert 0 <= scores[name] <= 100 and scores[f"{name}_change"] == scores[name] - scores[f"{name}_before"]
    (some,) = (root / "lora" / "benchmarks").glob("baber-piqa*/validation/*.arrow")
    some.write_bytes(some.read_bytes()[:-8])
    with pytest.raises(UserError, match=r"\.arrow is damaged"):
        harness.digest(root)


def test_a_download_that_breaks_off_is_one_line_and_goes_on_later(root, hub, few, monkeypatch):
    import datasets

    whole = datasets.load_dataset

    def breaking(path, name=None, **options):
        if "truthful" in path:
            raise ConnectionError("no\nroute")
        return whole(path, name, **options)

    monkeypatch.setattr(datasets, "load_dataset", breaking)
    with pytest.raises(UserError, match=r"^Benchmarks cannot be downloaded \(no route\)"):
        harness.fetch(root, print)
    with pytest.raises(UserError, match=r"data sets of task\.harness are not in"):
        harness.digest(root)
    monkeypatch.setattr(datasets, "load_dataset", whole)
    before = len(hub)
    harness.fetch(root, print)
    assert len(hub) == before + 1


def test_scoring_leaves_the_random_generators_alone(root, hub, few):
    harness.fetch(root, print)
    pretrained(root)
    model, its_tokenizer = mistral.load(root, "fp32")
    random.seed(1)
    torch.manual_seed(1)
    states = random.getstate(), torch.get_rng_state()
    harness.accuracies(model, its_tokenizer, ["piqa"], 2, root)
    assert states[0] == random.getstate() and torch.equal(states[1], torch.get_rng_state())


def test_scores_before_fine_tuning_are_taken_first_and_once(root, tmp_path):
    cfg = config(root, f"runs_dir={tmp_path / 'runs'}", "regularizer=adamw")
    folder = run_folder(cfg)
    folder.mkdir(parents=True)
    workload = build_workload(read_config(cfg), CPU)
    workload.at_start(workload.model)
    kept = json.loads((folder / "before.json").read_text())
    assert kept["data"] == workload.data and "accuracy" in kept["scores"]
    (folder / "before.json").write_text(json.dumps(kept | {"scores": kept["scores"] | {"accuracy": 7.0}}))
    resumed = build_workload(read_config(cfg), CPU)
    resumed.at_start(resumed.model)
    assert resumed.evaluate(resumed.model)["accuracy_before"] == 7.0
    for damage in (b"", b"[]", b"{", json.dumps(kept | {"data": "other"}).encode()):
        (folder / "before.json").write_bytes(damage)
        again = build_workload(read_config(cfg), CPU)
        again.at_start(again.model)
        assert again.evaluate(again.model)["accuracy_before"] == kept["scores"]["accuracy"]
    shutil.rmtree(folder)
    metrics = run(cfg)["metrics"]
    assert metrics["accuracy_before"] == kept["scores"]["accuracy"]
