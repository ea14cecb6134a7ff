"""The small model that replaces Mistral-7B at mini scale, kept in the data folder.

It has Mistral's architecture and is trained on Shakespeare's works.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from tasks.data.text import tokenizer
from tasks.data.text.blocks import Blocks, batches
from tasks.data.text.shards import manifest, open_split
from tasks.engine import kept
from tasks.engine.seeding import generator_for
from tasks.engine.workload import Metric, Workload
from tasks.lora import data
from tasks.lora.data import Batch
from tasks.lora.questions import fingerprint, read
from tasks.lora.scoring import answer_losses

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Recipe(kept.Recipe):
    """What determines the weights, together with the text. configs/scale/mini/lora.yaml explains each value."""

    text: str
    questions: str
    width: int
    mlp_width: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    context: int
    question_every: int


def empty(recipe: Recipe) -> nn.Module:
    """Return a Mistral of the recipe's shape, initialized from torch's global generator.

    Raises:
        ValueError: the shape can't be built.
    """
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.width,
        intermediate_size=recipe.mlp_width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        sliding_window=None,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=recipe.vocabulary - 1,
    )
    return MistralForCausalLM(config)


def trained(root: Path, recipe: Recipe, quiet: bool = False) -> nn.Module:
    """Return the recipe's model on the CPU, training and keeping it first if necessary.

    One process trains while others wait.

    Raises:
        UserError: the text is not prepared or the disk is full.
    """
    path = kept_at(root, recipe)
    model = empty(recipe)
    model.load_state_dict(kept.trained(path, recipe, lambda: _build(root, recipe), final_factor=0.1, quiet=quiet))
    return model


def kept_at(root: Path, recipe: Recipe) -> Path:
    """Return the path of the weights, named by the hash of the recipe, the text's shards and the questions."""
    text = [shard["sha256"] for shard in manifest(root, recipe.text)["shards"]["train"]]
    content = json.dumps([asdict(recipe), text, fingerprint(root, recipe.questions)], sort_keys=True).encode()
    return root / "lora" / "small" / f"{hashlib.sha256(content).hexdigest()[:16]}.pt"


def _build(root: Path, recipe: Recipe) -> tuple[Workload, Optimizer]:
    """Return a new model with its loss on text and questions, and AdamW at settings usual for language models."""
    blocks = Blocks(open_split(root, recipe.text, "train"), recipe.context)
    text_at, questions_at = batches(blocks, recipe.batch_size, recipe.seed, CPU), _questions(root, recipe)
    model = empty(recipe)

    def batch_at(step: int) -> Batch:
        return text_at(step) if step % recipe.question_every else questions_at(step)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        tokens, targets = batch
        if (targets == data.IGNORED).any():  # questions
            return answer_losses(model, batch).mean()
        return F.cross_entropy(model(input_ids=tokens, use_cache=False).logits.flatten(0, 1), targets.flatten())

    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=recipe.weight_decay)
    return Workload(model, batch_at, loss, evaluate=lambda _: {}, metric=Metric("loss", "nats", "lower")), optimizer


def _questions(root: Path, recipe: Recipe) -> Callable[[int], Batch]:
    """Return batches of training questions with answers drawn at random.

    The model learns that an answer follows, as Mistral-Instruct knows, but not which one.
    """
    questions = read(root, recipe.questions, "train")
    answers = sorted({question.answer for question in questions})
    drawn = torch.randint(len(answers), (len(questions),), generator=generator_for(recipe.seed, "answers")).tolist()
    asked = [replace(question, answer=answers[index]) for question, index in zip(questions, drawn, strict=True)]
    encode = tokenizer.load(root, recipe.vocabulary).encode_batch
    return data.batches(data.rows(asked, encode, recipe.context), recipe.batch_size, recipe.seed, CPU)
