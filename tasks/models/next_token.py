"""Measure how well a language model predicts the next token of a text."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tasks.data.text.blocks import Batch


class Scores(NamedTuple):
    """Scores of a text's next tokens.

    Attributes:
        loss: the mean loss in nats.
        accuracy: how often the likeliest token is right, in percent.
        halves: the loss over every other batch, and over the rest. Empty if there is only one
            batch.
    """

    loss: float
    accuracy: float
    halves: tuple[float, ...]


@torch.no_grad()
def next_token_scores(
    model: nn.Module, logits_of: Callable[[Tensor], Tensor], batches: Iterable[Batch], device: torch.device
) -> Scores:
    """Return the model's scores, leaving it in evaluation mode.

    `logits_of` maps tokens [batch, tokens] to the model's logits [batch, tokens, vocabulary].
    """
    model.eval()
    losses = torch.zeros((), dtype=torch.float64, device=device)
    of_half = torch.zeros(2, dtype=torch.float64, device=device)  # their sum may differ from `losses` in its last bit
    correct = torch.zeros((), dtype=torch.int64, device=device)
    counts = [0, 0]
    for number, (tokens, targets) in enumerate(batches):
        logits = logits_of(tokens)
        loss = cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="sum")
        losses += loss
        of_half[number % 2] += loss
        correct += (logits.argmax(-1) == targets).sum()
        counts[number % 2] += targets.numel()
    halves = tuple(total / count for total, count in zip(of_half.tolist(), counts, strict=True)) if all(counts) else ()
    return Scores(losses.item() / sum(counts), 100 * correct.item() / sum(counts), halves)
