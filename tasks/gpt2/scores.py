"""How well a language model knows the next token of a text."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tasks.gpt2.data import Batch


@torch.no_grad()
def next_token_scores(
    model: nn.Module, logits_of: Callable[[Tensor], Tensor], batches: Iterable[Batch], device: torch.device
) -> tuple[float, float]:
    """The mean loss in nats, and how often the likeliest token is right, in percent; the model is left in evaluation mode.

    logits_of: from tokens [batch, tokens] to logits [batch, tokens, vocabulary] of the model.
    """
    model.eval()
    losses = torch.zeros((), dtype=torch.float64, device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    count = 0
    for tokens, targets in batches:
        logits = logits_of(tokens)
        losses += cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="sum")
        correct += (logits.argmax(-1) == targets).sum()
        count += targets.numel()
    return losses.item() / count, 100 * correct.item() / count
