"""Let the model write text, for people to read beside the validation loss."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from tasks.data.text import tokenizer
from tasks.engine.seeding import generator_for
from tasks.gpt2.config import Gpt2Task


@torch.no_grad()
def generate(model: nn.Module, start: Tensor, count: int, context: int, generator: torch.Generator) -> Tensor:
    """Return `start` [tokens] and `count` more, drawn one by one given the last `context` tokens.

    Every token recomputes the whole context. A few hundred tokens per evaluation need no cache.
    """
    model.eval()
    tokens = start
    for _ in range(count):
        probabilities = model(tokens[None, -context:])[0, -1].float().softmax(-1)
        tokens = torch.cat([tokens, torch.multinomial(probabilities.cpu(), 1, generator=generator).to(tokens.device)])
    return tokens


def sampler(root: Path, task: Gpt2Task, device: torch.device) -> Callable[[nn.Module], str]:
    """Return `sample(model)`, which writes `task.sample_tokens` tokens after an end of text.

    The same model writes the same text.
    """
    bpe = tokenizer.load(root, task.data.vocabulary)
    start = torch.tensor([bpe.end_of_text], device=device)

    def sample(model: nn.Module) -> str:
        tokens = generate(model, start, task.sample_tokens, task.model.context, generator_for(0, "sample"))
        # The embedding's padding rows have no text, but an untrained model may draw one.
        return bpe.decode([token for token in tokens[1:].tolist() if token < task.data.vocabulary])

    return sample
