"""The small model that replaces Mistral-7B at mini scale, kept in the data folder.

It has Mistral's architecture and is trained on Shakespeare's works.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from tasks.data.text import tokenizer
from tasks.data.text.blocks import Blocks, batches
from tasks.data.text.shards import check_vocabulary, manifest, open_split
from tasks.engine import kept
from tasks.engine.seeding import generator_for
from tasks.engine.workload import Workload
from tasks.lora import data
from tasks.lora.config import SmallMistral
from tasks.lora.data import Batch
from tasks.lora.questions import fingerprint, read
from tasks.lora.scoring import answer_losses

CPU = torch.device("cpu")


def empty(small: SmallMistral) -> nn.Module:
    """Return a Mistral, initialized from torch's global generator.

    Raises:
        ValueError: the shape can't be built.
    """
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=small.vocabulary,
        hidden_size=small.width,
        intermediate_size=small.mlp_width,
        num_hidden_layers=small.layers,
        num_attention_heads=small.heads,
        num_key_value_heads=small.kv_heads,
        sliding_window=None,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=small.vocabulary - 1,
    )
    return MistralForCausalLM(config)


def trained(root: Path, small: SmallMistral, quiet: bool = False) -> nn.Module:
    """Return the small model on the CPU, training and keeping it first if necessary.

    One process trains while others wait.

    Raises:
        UserError: the text is not prepared or has another vocabulary, or the disk is full.
    """
    check_vocabulary(root, small.text, small.vocabulary, "task.small.vocabulary")
    path = kept_at(root, small)
    model = empty(small)
    model.load_state_dict(kept.trained(path, small, lambda: _build(root, small), final_factor=0.1, quiet=quiet))
    return model


def kept_at(root: Path, small: SmallMistral) -> Path:
    """Return the path of the weights, named by the hash of its configuration, the text's shards and the questions."""
    text = [shard["sha256"] for shard in manifest(root, small.text)["shards"]["train"]]
    content = json.dumps([small.model_dump(), text, fingerprint(root, small.questions)], sort_keys=True).encode()
    return root / "lora" / "small" / f"{hashlib.sha256(content).hexdigest()[:16]}.pt"


def _build(root: Path, small: SmallMistral) -> tuple[Workload, Optimizer]:
    """Return a new model with its loss on text and questions, and AdamW at settings usual for language models."""
    blocks = Blocks(open_split(root, small.text, "train"), small.context)
    text_at, questions_at = batches(blocks, small.batch_size, small.seed, CPU), _questions(root, small)
    model = empty(small)

    def batch_at(step: int) -> Batch:
        return text_at(step) if step % small.question_every else questions_at(step)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        tokens, targets = batch
        if (targets == data.IGNORED).any():  # questions
            return answer_losses(model, batch).mean()
        return F.cross_entropy(model(input_ids=tokens, use_cache=False).logits.flatten(0, 1), targets.flatten())

    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=small.weight_decay)
    return Workload(model, batch_at, loss, evaluate=lambda _: {}, metric=None), optimizer


def _questions(root: Path, small: SmallMistral) -> Callable[[int], Batch]:
    """Return batches of training questions with answers drawn at random.

    The model learns that an answer follows, as Mistral-Instruct knows, but not which one.
    """
    questions = read(root, small.questions, "train")
    answers = sorted({question.answer for question in questions})
    drawn = torch.randint(len(answers), (len(questions),), generator=generator_for(small.seed, "answers")).tolist()
    asked = [replace(question, answer=answers[index]) for question, index in zip(questions, drawn, strict=True)]
    encode = tokenizer.load(root, small.vocabulary).encode_batch
    return data.batches(data.rows(asked, encode, small.context), small.batch_size, small.seed, CPU)
