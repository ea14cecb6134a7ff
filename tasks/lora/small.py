"""The small model that replaces Mistral-7B at mini scale, kept in the data folder.

It has Mistral's architecture and is trained on Shakespeare's works.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import nn
from tqdm import tqdm

from tasks.engine.kept import Weights, kept, one_thread
from tasks.engine.schedule import lr_factor
from tasks.engine.seeding import derive, generator_for
from tasks.gpt2 import tokenizer
from tasks.gpt2.data import Blocks, batches
from tasks.gpt2.shards import manifest, open_split
from tasks.lora import data
from tasks.lora.data import Batch
from tasks.lora.questions import fingerprint, read
from tasks.lora.scoring import answer_losses

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Recipe:
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
    batch_size: int
    steps: int
    question_every: int
    lr: float
    weight_decay: float
    warmup_steps: int
    seed: int


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


def trained(root: Path, recipe: Recipe, say: Callable[[str], None], quiet: bool = False) -> nn.Module:
    """Return the recipe's model on the CPU, training and keeping it first if necessary.

    One process trains while others wait.

    Raises:
        UserError: the text is not prepared or the disk is full.
    """
    path = kept_at(root, recipe)

    def train() -> Weights:
        if not quiet:
            say(
                f"training the small model that LoRA starts from: {recipe.steps} steps on {recipe.text}, once; kept as {path}"
            )
        return _train(root, recipe, quiet)

    weights = kept(path, asdict(recipe), train)
    model = empty(recipe)
    model.load_state_dict(weights)
    return model


def kept_at(root: Path, recipe: Recipe) -> Path:
    """Return the path of the weights, named by the hash of the recipe, the text's shards and the questions."""
    text = [shard["sha256"] for shard in manifest(root, recipe.text)["shards"]["train"]]
    content = json.dumps([asdict(recipe), text, fingerprint(root, recipe.questions)], sort_keys=True).encode()
    return root / "lora" / "small" / f"{hashlib.sha256(content).hexdigest()[:16]}.pt"


def _train(root: Path, recipe: Recipe, quiet: bool) -> Weights:
    """Train with AdamW at settings usual for language models, on one CPU thread.

    Every process of a machine thus gets the same bits.
    """
    blocks = Blocks(open_split(root, recipe.text, "train"), recipe.context)
    batch_at = batches(blocks, recipe.batch_size, recipe.seed, CPU)
    questions_at = _questions(root, recipe)
    schedule: Any = OmegaConf.create({"warmup_steps": recipe.warmup_steps, "decay": "cosine", "final_factor": 0.1})
    with one_thread():
        # A run's own random numbers must not depend on whether it had to train this model.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(recipe.seed, "small"))
            model = empty(recipe).train()
        optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=recipe.weight_decay)
        for step in tqdm(range(recipe.steps), desc="small model", unit="step", disable=quiet):
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * lr_factor(schedule, step, recipe.steps)
            if step % recipe.question_every == 0:
                loss = answer_losses(model, questions_at(step)).mean()
            else:
                tokens, targets = batch_at(step)
                loss = F.cross_entropy(model(input_ids=tokens, use_cache=False).logits.flatten(0, 1), targets.flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return {name: value.clone() for name, value in model.state_dict().items()}


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
