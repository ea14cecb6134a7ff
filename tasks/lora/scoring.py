"""Score a model by its likelihoods of answers, and by how well it still knows its language."""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasks.data.text.blocks import Blocks, in_order
from tasks.lora.data import IGNORED, Batch, Encode, batch, rows
from tasks.lora.questions import Question
from tasks.models.next_token import next_token_scores


def answer_losses(model: nn.Module, inputs: Batch) -> Tensor:
    """Return -log p(answer | prompt) of every row, in nats, float32 [rows].

    Logits are computed only at positions where some row has its answer.
    """
    tokens, targets = inputs
    places = (targets != IGNORED).any(0).nonzero()[:, 0]
    logits = model(input_ids=tokens, use_cache=False, logits_to_keep=places).logits
    losses = F.cross_entropy(
        logits.flatten(0, 1).float(), targets[:, places].flatten(), ignore_index=IGNORED, reduction="none"
    )
    return losses.view(len(tokens), -1).sum(1)


class Exam:
    """Questions with answers to choose from. Only likelihoods are compared, and nothing is generated."""

    def __init__(
        self,
        questions: Sequence[Question],
        answers: Sequence[str],
        encode: Encode,
        most: int,
        batch_size: int,
        device: torch.device,
    ) -> None:
        """Raise ValueError if a question's answer is not one of `answers`, or has no token of its own."""
        self.count, self.choices = len(questions), len(answers)
        self.answers = torch.tensor([list(answers).index(question.answer) for question in questions], device=device)
        self.rows = rows(
            [replace(question, answer=answer) for question in questions for answer in answers], encode, most
        )
        # Rows of similar length together need less padding.
        self.order = sorted(range(len(self.rows)), key=lambda index: len(self.rows[index].tokens))
        self.batch_size, self.device = batch_size, device

    @torch.no_grad()
    def right(self, model: nn.Module) -> Tensor:
        """Return whether the likeliest answer is the right one, bool [questions]."""
        model.eval()
        losses = torch.empty(len(self.rows), device=self.device)
        for start in range(0, len(self.order), self.batch_size):
            chosen = self.order[start : start + self.batch_size]
            losses[chosen] = answer_losses(model, batch([self.rows[index] for index in chosen], self.device))
        return losses.view(self.count, self.choices).argmin(1) == self.answers


def language_scores(
    model: nn.Module, blocks: Blocks, batch_size: int, most: int | None, device: torch.device
) -> dict[str, float]:
    """Return the next token's mean loss in nats and accuracy in percent, over a text's first `most` blocks."""

    def logits_of(tokens: Tensor) -> Tensor:
        return model(input_ids=tokens, use_cache=False).logits

    scores = next_token_scores(model, logits_of, in_order(blocks, batch_size, most, device), device)
    return {"language_loss": scores.loss, "language_accuracy": scores.accuracy}
