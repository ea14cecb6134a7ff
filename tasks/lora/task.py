"""Build the workload of LoRA.

Paper scale is Mistral-7B on PubMedQA, mini scale a small Mistral on questions about plays.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tasks.data.text import tokenizer as bpe
from tasks.data.text.blocks import Blocks
from tasks.data.text.shards import open_split, verify
from tasks.engine import verified
from tasks.engine.config import Config
from tasks.engine.errors import UserError
from tasks.engine.halves import SUFFIXES, with_halves
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
    harness.check(task.harness, tokenizer)
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
            found |= harness.accuracies(model, tokenizer, task.harness, task.eval_batch_size)
        return found

    return Workload(
        model=model,
        batch_at=data.batches(rows, task.batch_size, cfg.seed, device),
        loss=loss,
        evaluate=evaluation(scores),
        metric=Metric("accuracy_change", "percentage points", "higher"),
        blocks=list(model.get_submodule("model.layers").children()),
        data=verified.overall(digest),
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


def evaluation(scores: Callable[[nn.Module], dict[str, float]]) -> Callable[[nn.Module], dict[str, float]]:
    """Return a function for every score of the fine-tuned model and its change.

    The change is relative to the model without LoRA, which is the same at every step. For
    language_loss the change is called forgetting: how many nats the model has lost. For a half of
    the questions it is called accuracy_change_selection, not accuracy_selection_change, since these
    are halves of the metric accuracy_change.
    """
    before: dict[str, float] = {}

    def evaluate(model: nn.Module) -> dict[str, float]:
        if not before:
            with adapters.without(model):
                before.update(scores(model))
        after = scores(model)
        metrics: dict[str, float] = {}
        for name, value in after.items():
            half = next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")
            change = "forgetting" if name == "language_loss" else f"{name.removesuffix(half)}_change{half}"
            metrics |= {name: value, f"{name}_before": before[name], change: value - before[name]}
        return metrics

    return evaluate
