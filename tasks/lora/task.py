"""Build the workload of LoRA.

Paper scale is Mistral-7B on PubMedQA, mini scale a small Mistral on questions about plays.
"""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tasks.data.text import tokenizer as bpe
from tasks.data.text.blocks import Blocks
from tasks.data.text.shards import open_split, verify
from tasks.engine import records, verified
from tasks.engine.config import Config
from tasks.engine.errors import UserError
from tasks.engine.files import write_bytes_atomically
from tasks.engine.halves import SUFFIXES, with_halves
from tasks.engine.launch import launched
from tasks.engine.workload import Metric, Workload
from tasks.lora import adapters, data, harness, mistral, questions, small
from tasks.lora.config import LoraTask
from tasks.lora.data import Batch, Encode
from tasks.lora.scoring import Exam, answer_losses, language_scores


def build(cfg: Config[LoraTask], device: torch.device) -> Workload:
    """Return the workload of `cfg.task`.

    Raises:
        UserError: questions or model are not in `cfg.data_dir`, or a setting is wrong.
    """
    task, root = cfg.task, Path(cfg.data_dir)
    digest = {"questions": questions.digest(root, task.data.name)}
    if task.small is not None:
        digest["text"] = verify(root, task.small.text)
    train, test = (questions.read(root, task.data.name, split) for split in questions.SPLITS)
    model, encode, tokenizer = _base(cfg, root)
    harness.check(task.harness, tokenizer, root)
    if task.harness:
        digest["benchmarks"] = harness.digest(root)
    try:
        chosen = questions.subset(train, task.data.train_size, task.data.subset_seed)
        rows = data.rows(chosen, encode, task.data.max_tokens)
        exam = Exam(test, list(task.data.answers), encode, task.data.max_tokens, task.eval_batch_size, device)
    except ValueError as error:
        raise UserError(f"{task.data.name}: {error}") from error
    adapters.add(model, task.lora.r, task.lora.alpha, task.lora.targets)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return answer_losses(model, batch).mean()

    def scores(model: nn.Module) -> dict[str, float]:
        found = {name: 100 * share for name, share in with_halves("accuracy", exam.right(model)).items()}
        if task.small is not None:
            blocks = Blocks(open_split(root, task.small.text, "validation"), task.small.context)
            found |= language_scores(model, blocks, task.eval_batch_size, task.eval_blocks, device)
        if task.harness:
            found |= harness.accuracies(model, tokenizer, task.harness, task.eval_batch_size, root)
        return found

    data_digest = verified.overall(digest)
    comparison = Comparison(scores, records.run_folder(cfg.source) / "before.json", data_digest)
    return Workload(
        model=model,
        batch_at=data.batches(rows, task.batch_size, cfg.seed, device),
        loss=loss,
        evaluate=comparison.evaluate,
        at_start=comparison.begin,
        metric=Metric("accuracy_change", "percentage points", "higher"),
        blocks=list(model.get_submodule("model.layers").children()),
        data=data_digest,
    )


def _base(cfg: Config[LoraTask], root: Path) -> tuple[nn.Module, Encode, Any]:
    """Return LoRA's base model, its encoder, and the harness's tokenizer (None for the small model)."""
    task = cfg.task
    if task.small is None:
        model, tokenizer = mistral.load(root, task.precision)
        return model, mistral.encoder(tokenizer), tokenizer
    try:
        model = small.trained(root, task.small, cfg.quiet)
    except ValueError as error:
        raise UserError(f"task.small: {error}") from error
    return model, bpe.load(root, task.small.vocabulary).encode_batch, None


class Comparison:
    """Scores of the fine-tuned model and their changes, relative to the model without LoRA.

    The scores without LoRA are the same at every step. They are taken before the first one, so that what is missing
    shows then, and kept in a file for a resumed run.

    Args:
        scores: returns a model's scores.
        path: the file.
        data: digest of what is scored. A file of other data is not read.
    """

    def __init__(self, scores: Callable[[nn.Module], dict[str, float]], path: Path, data: str) -> None:
        self.scores, self.path, self.data = scores, path, data
        self.before: dict[str, float] = {}

    def begin(self, model: nn.Module) -> None:
        """Take the scores without LoRA, unless they are in the file."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(self.path.read_bytes())
            if content["data"] == self.data:
                self.before = content["scores"]
                return
        with adapters.without(model):
            self.before = self.scores(model)
        if launched().rank == 0 and self.path.parent.is_dir():
            content = {"data": self.data, "scores": self.before}
            write_bytes_atomically(self.path, json.dumps(content, indent=1).encode())

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return every score, that before fine-tuning, and the change.

        For language_loss the change is called forgetting: how many nats the model has lost. For a half of the
        questions it is called accuracy_change_selection, not accuracy_selection_change, since these are halves of
        the metric accuracy_change.
        """
        if not self.before:
            self.begin(model)
        metrics: dict[str, float] = {}
        for name, value in self.scores(model).items():
            half = next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")
            change = "forgetting" if name == "language_loss" else f"{name.removesuffix(half)}_change{half}"
            metrics |= {name: value, f"{name}_before": self.before[name], change: value - self.before[name]}
        return metrics
