"""GPT-2 from tokens on disk to a record: batches, evaluation, samples, speed, processes, full protocol."""

import copy
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ENVIRONMENT, ROOT, call, call_forked, is_one_line, records, write_tokens
from kills import killed_runs_end_the_same
from saved_for_backward import saved_bytes
from torch.nn.functional import cross_entropy

from scripts.cli.common import compose_config
from tasks.data.text.blocks import Blocks, batches, in_order
from tasks.engine import throughput
from tasks.engine.config import read_config
from tasks.engine.errors import UserError
from tasks.engine.memory import checkpoint_activations
from tasks.engine.run import build_workload, run
from tasks.engine.workload import Work
from tasks.gpt2.config import Shape
from tasks.gpt2.model import GPT2
from tasks.gpt2.sampling import generate
from tasks.gpt2.task import build

CPU = torch.device("cpu")
VOCABULARY = 61
TINY = (
    *(
        "task=gpt2",
        "scale=mini",
        "quiet=true",
        "task.data.name=Tiny",
        f"task.data.vocabulary={VOCABULARY}",
        "task.sample_tokens=0",
    ),
    *(
        f"task.model.vocabulary={VOCABULARY}",
        "task.model.width=16",
        "task.model.layers=2",
        "task.model.heads=2",
        "task.model.context=12",
    ),
    *(
        "task.batch_size=8",
        "num_steps=60",
        "task.schedule.warmup_steps=10",
        "task.log_every_steps=10",
        "task.eval_every_steps=20",
    ),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tokens(tmp_path_factory.mktemp("data"), "Tiny", VOCABULARY)


def tiny(data: Path, runs_dir: Path | str, *overrides: str):
    return compose_config([*TINY, "regularizer=adamcpr_ip", f"data_dir={data}", f"runs_dir={runs_dir}", *overrides])


def rows(runs_dir: Path) -> list[dict]:
    (log,) = runs_dir.glob("*/*/metrics.jsonl")
    return [json.loads(line) for line in log.read_text().splitlines()]


class Counting:
    """A data set of the tokens 0, 1, 2, ..."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def read(self, start: int, count: int) -> np.ndarray:
        assert start + count <= self.count
        return np.arange(start, start + count, dtype=np.uint16)


def test_targets_are_the_tokens_behind_the_inputs_and_an_epoch_reads_every_block_once():
    batch_at = batches(Blocks(Counting(101), context=10), batch_size=4, seed=3, device=CPU)
    seen = []
    for step in range(3):
        tokens, targets = batch_at(step)
        assert tokens.dtype == torch.int64 and tokens.shape == ((4, 10) if step < 2 else (2, 10))
        assert torch.equal(targets, tokens + 1)
        seen += tokens[:, 0].tolist()
    assert sorted(seen) == list(range(0, 100, 10)) and seen != sorted(seen)
    again = batch_at(1)[0]
    assert torch.equal(batch_at(1)[0], again)
    assert not torch.equal(batch_at(4)[0], again)  # the same place in another epoch


def test_the_last_token_of_a_block_needs_one_behind_it():
    assert Blocks(Counting(20), context=10).count == 1
    assert Blocks(Counting(21), context=10).count == 2
    with pytest.raises(
        UserError, match=r"the data has 10 tokens, fewer than one block of task\.model\.context=10 \+ 1"
    ):
        Blocks(Counting(10), context=10)


def test_evaluation_reads_the_first_blocks_in_order():
    blocks = Blocks(Counting(101), context=10)
    assert torch.cat([tokens for tokens, _ in in_order(blocks, 4, None, CPU)]).flatten().tolist() == list(range(100))
    assert torch.cat([tokens for tokens, _ in in_order(blocks, 4, 6, CPU)]).flatten().tolist() == list(range(60))


def test_the_evaluation_is_the_plain_mean_over_tokens(data, tmp_path):
    cfg = read_config(tiny(data, tmp_path, "task.eval_blocks=5", "task.eval_batch_size=2"))
    torch.manual_seed(0)
    workload = build(cfg, CPU)
    metrics = workload.evaluate(workload.model)
    written = torch.from_numpy(np.fromfile(data / "gpt2/Tiny/validation-00000.bin", "<u2").astype(np.int64))
    tokens, targets = written[:60].view(5, 12), written[1:61].view(5, 12)
    with torch.no_grad():
        logits = workload.model.eval()(tokens)
    loss = cross_entropy(logits.flatten(0, 1), targets.flatten()).item()
    assert metrics["validation_loss"] == pytest.approx(loss, rel=1e-6)
    assert metrics["perplexity"] == pytest.approx(math.exp(loss), rel=1e-6)
    assert metrics["next_token_accuracy"] == pytest.approx(100 * (logits.argmax(-1) == targets).double().mean().item())
    for half, blocks in (
        ("selection", [0, 1, 4]),
        ("report", [2, 3]),
    ):  # the 1st and 3rd of the three batches, and the 2nd
        loss = cross_entropy(logits[blocks].flatten(0, 1), targets[blocks].flatten()).item()
        assert metrics[f"perplexity_{half}"] == pytest.approx(math.exp(loss), rel=1e-6)
    one_batch = build(read_config(tiny(data, tmp_path, "task.eval_blocks=2", "task.eval_batch_size=2")), CPU)
    assert not [name for name in one_batch.evaluate(one_batch.model) if name.startswith("perplexity_")]
    assert workload.work == Work("token", 8 * 12, workload.model.shape.flops_per_token())


def test_a_run_learns_and_its_record_says_how_fast_it_was(data, tmp_path):
    record = run(tiny(data, tmp_path, "num_steps=200"))
    assert (
        record["metrics"]["validation_loss"] < 2.0 < math.log(VOCABULARY) / 2
    )  # three tokens are equally likely: log 3 = 1.1
    assert record["tokens_per_second"] == pytest.approx(record["steps_per_second"] * 96)
    assert "mfu" not in record  # a CPU's peak is unknown
    assert not any("per_second" in row for row in rows(tmp_path))  # equal runs have equal logs


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_model_s_text_stands_in_the_log_at_each_evaluation(data, tmp_path, precision, monkeypatch):
    class Words:
        end_of_text = VOCABULARY - 1

        def decode(self, ids):
            return " ".join(map(str, ids))

    monkeypatch.setattr("tasks.data.text.tokenizer.load", lambda root, entries: Words())
    sampled = (
        "task.sample_tokens=7",
        f"task.precision={precision}",
        "num_steps=200",
        "task.eval_every_steps=100",
        "lr=1e-2",
    )
    record = run(tiny(data, tmp_path / "first", *sampled))
    texts = [row["sample"] for row in rows(tmp_path / "first") if "perplexity" in row]
    assert len(texts) == 2 and all(len(text.split()) == 7 for text in texts) and texts[0] != texts[1]
    assert "sample" not in record["metrics"]
    run(tiny(data, tmp_path / "again", *sampled))
    assert rows(tmp_path / "again") == rows(tmp_path / "first")


def test_sampled_tokens_follow_the_model_s_distribution():
    model = GPT2(Shape(width=8, layers=1, heads=1, context=4, vocabulary=5, dropout=0.5)).eval()
    with torch.no_grad():
        model.token_embedding.weight.mul_(60)
    start, generator = torch.tensor([2]), torch.Generator().manual_seed(0)
    drawn = [generate(model, start, 1, 4, generator)[-1].item() for _ in range(3000)]
    likely = model(start[None])[0, -1].softmax(-1)
    shares = torch.bincount(torch.tensor(drawn), minlength=5) / 3000
    torch.testing.assert_close(shares, likely.detach(), atol=0.03, rtol=0)
    assert len(generate(model, start, 9, 4, generator)) == 10  # more than the context


@pytest.mark.weekly
def test_killed_runs_end_with_the_same_bits(data, tmp_path):
    short = "task.eval_every_steps=20", "task.log_every_steps=10", "checkpoint_every_steps=7"
    killed_runs_end_the_same(
        tmp_path, *TINY, "regularizer=adamcpr_ip", "task.model.width=64", f"data_dir={data}", *short
    )


def test_missing_data_is_one_line_with_the_command_that_brings_it(tmp_path):
    done = call_forked("train.py", "task=gpt2", "device=cpu", f"data_dir={tmp_path}", f"runs_dir={tmp_path}")
    assert done.returncode == 2
    is_one_line(done, "Shakespeare2k is not in", "python scripts/prepare_data.py gpt2 Shakespeare2k")


@pytest.mark.parametrize("recorded", [True, False])
def test_tokens_of_a_larger_vocabulary_are_one_line(tmp_path, recorded):
    root = write_tokens(tmp_path / "data", "Tiny", 4096)
    manifest = root / "gpt2" / "Tiny" / "manifest.json"
    if recorded:
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"vocabulary": 4096}))
    fix = r"which has (409\d) entries; set task\.data\.vocabulary=\1 task\.model\.vocabulary=\1$"
    with pytest.raises(UserError, match=rf"^task\.data\.vocabulary=61 is not the vocabulary of Tiny in .*, {fix}"):
        run(tiny(root, tmp_path))
    assert not list(tmp_path.glob("*/*/metrics.jsonl"))


def test_sampling_needs_exactly_the_vocabulary_of_the_shards(tmp_path):
    root = write_tokens(tmp_path / "data", "Tiny", 61)
    manifest = root / "gpt2" / "Tiny" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"vocabulary": 61}))
    with pytest.raises(UserError, match=r"task\.data\.vocabulary=62 is not the vocabulary of Tiny .* has 61 entries"):
        run(tiny(root, tmp_path, "task.data.vocabulary=62", "task.model.vocabulary=64"))


@pytest.mark.parametrize("override", ["task.model.heads=3", "task.model.positions=sine", "task.model.depth=3"])
def test_a_model_that_cannot_be_built_is_one_line(data, tmp_path, override):
    with pytest.raises(UserError, match=r"task\.model"):
        run(tiny(data, tmp_path, f"++{override}"))


@pytest.mark.weekly
def test_a_thin_copy_of_gpt2xl_is_the_same_in_shards_as_in_one_process(tmp_path):
    """The copy has GPT2xl's blocks and heads, and the tied embedding outside of them."""
    root = write_tokens(tmp_path / "data", "Tiny", VOCABULARY)
    xl = read_config(compose_config(["task=gpt2xl"])).task.model
    thin = [
        f"task.model.layers={xl.layers}",
        f"task.model.heads={xl.heads}",
        "task.model.width=100",
        "task.model.dropout=0",
        "num_steps=8",
    ]
    arguments = [
        *TINY,
        *thin,
        "task.log_every_steps=1",
        "regularizer=adamcpr_ws",
        "regularizer.warm_start=3",
        f"data_dir={root}",
    ]
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(ROOT / "scripts/train.py"),
    ]
    line = [*torchrun, *arguments, "gpus=2", "parallel=fsdp", f"runs_dir={tmp_path / 'two'}"]
    sharded = subprocess.run(line, capture_output=True, text=True, env=ENVIRONMENT, timeout=240)
    assert sharded.returncode == 0, sharded.stderr
    alone = call("train.py", *arguments, f"runs_dir={tmp_path / 'one'}")
    assert alone.returncode == 0, alone.stderr
    curves = [[row["loss"] for row in rows(tmp_path / name) if "loss" in row] for name in ("one", "two")]
    assert len(curves[0]) == 8 and curves[1] == pytest.approx(curves[0], abs=1e-5, rel=0)
    one, two = (next(iter(records(tmp_path / name).values())) for name in ("one", "two"))
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-4)
    assert two["hardware"]["processes"] == 2


@pytest.mark.weekly
def test_the_protocol_of_gpt2s_takes_steps_as_it_stands(tmp_path):
    root = write_tokens(tmp_path, "OpenWebText", 50257, train=40_000, validation=3_000)
    few = "num_steps=3", "task.batch_size=1", "task.log_every_steps=1", "task.eval_blocks=1", "task.sample_tokens=0"
    done = call(
        "train.py",
        "task=gpt2",
        "scale=paper",
        "device=cpu",
        *few,
        f"data_dir={root}",
        f"runs_dir={tmp_path}",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (record,) = records(tmp_path).values()
    assert record["config"]["task"]["model"]["width"] == 768 and record["config"]["task"]["precision"] == "bf16"
    losses = [row["loss"] for row in rows(tmp_path) if "loss" in row]
    assert len(losses) == 3 and losses[0] == pytest.approx(math.log(50264), abs=0.3)
    assert "regularized: 48 of 147 tensors, 84,934,656 of 123,658,752 parameters" in done.stdout + done.stderr


@pytest.mark.weekly
def test_compiled_blocks_compute_what_the_others_do(data, tmp_path):
    short = "num_steps=6", "task.log_every_steps=1", "task.eval_every_steps=null", "task.model.dropout=0"
    plain = run(tiny(data, tmp_path / "plain", *short))
    compiled = run(tiny(data, tmp_path / "compiled", *short, "compile=true"))
    assert compiled["run_id"] == plain["run_id"]
    curves = [[row["loss"] for row in rows(tmp_path / name) if "loss" in row] for name in ("plain", "compiled")]
    assert curves[1] == pytest.approx(curves[0], abs=1e-4)


def test_rates_are_counted_over_all_processes_and_only_what_is_known():
    work = Work("token", per_step=1000, flops=6e9)
    assert throughput.rates(work, steps=10, seconds=2.0, peak=1e14, processes=3) == {
        "tokens_per_second": 5000.0,
        "mfu": 0.1,
    }
    assert throughput.rates(work, 10, 2.0, None, 3) == {"tokens_per_second": 5000.0}
    assert throughput.rates(Work("image", 10), 10, 2.0, 1e14, 1) == {"images_per_second": 50.0}
    assert throughput.rates(None, 10, 2.0, 1e14, 1) == throughput.rates(work, 0, 0.0, 1e14, 1) == {}


def test_the_peak_is_the_one_of_the_device_s_name(monkeypatch):
    def peak(name, precision="bf16"):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
        return throughput.peak_flops(precision, torch.device("cuda"))

    assert peak("NVIDIA A100-SXM4-40GB") == 312e12
    assert peak("NVIDIA H100 PCIe") == 756e12 and peak("NVIDIA H100 80GB HBM3") == 989e12
    assert peak("another") is None and peak("NVIDIA A100", "fp32") is None
    assert throughput.peak_flops("bf16", CPU) is None


def test_gradient_checkpointing_needs_less_memory_and_changes_no_bit(data, tmp_path):
    """With dropout: the second forward pass draws the same masks."""
    short = "num_steps=6", "task.log_every_steps=1", "task.model.dropout=0.1"
    plain = run(tiny(data, tmp_path / "plain", *short))
    again = run(tiny(data, tmp_path / "again", *short, "gradient_checkpointing=true"))
    assert (again["run_id"], again["state_sha256"]) == (plain["run_id"], plain["state_sha256"])
    assert rows(tmp_path / "again") == rows(tmp_path / "plain")


def test_gradient_checkpointing_keeps_the_input_of_each_block_alone(data, tmp_path):
    cfg = read_config(tiny(data, tmp_path, "task.model.dropout=0"))
    workload = build_workload(cfg, torch.device("cpu"))
    batch = workload.batch_at(0)

    def kept() -> int:
        return saved_bytes(workload.model, lambda batch: workload.loss(workload.model, batch), batch, "fp32")

    everything = kept()
    checkpoint_activations(cfg, workload.blocks)
    inputs = len(workload.blocks) * batch[0].numel() * cfg.task.model.width * 4
    assert inputs <= kept() < 0.5 * everything
    copied = copy.deepcopy(workload.model)  # a copy computes with its own weights
    for parameter in workload.model.parameters():
        parameter.data.zero_()
    assert workload.loss(copied, batch).item() > 0 and workload.loss(copied, batch) != workload.loss(
        workload.model, batch
    )
