"""A small base model, questions and settings for the tests of the task lora."""

from dataclasses import asdict

import torch

from scripts.cli.common import compose_config
from tasks.engine import checkpoint
from tasks.lora import small
from tasks.lora.questions import Question

CPU = torch.device("cpu")
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WORDS = ["the", "king", "is", "dead", "long", "live", "my", "lord", "and", "all", "that", "love", "him"]
RECIPE = small.Recipe(
    text="Made",
    questions="Made",
    question_every=2,
    width=32,
    mlp_width=48,
    layers=2,
    heads=4,
    kv_heads=2,
    vocabulary=512,
    context=32,
    batch_size=4,
    steps=6,
    lr=1e-3,
    weight_decay=0.1,
    warmup_steps=2,
    seed=0,
)
SETTINGS = [
    "task=lora",
    "scale=mini",
    "device=cpu",
    "quiet=true",
    "num_steps=6",
    "task.data.name=Made",
    "task.data.max_tokens=32",
    "task.batch_size=4",
    "task.eval_blocks=4",
    "task.lora.r=2",
    *(f"task.small.{key}={value}" for key, value in asdict(RECIPE).items()),
]


def made_questions(number: int, seed: int) -> list[Question]:
    """Return questions that ask whether a line begins with "the"."""
    generator = torch.Generator().manual_seed(seed)
    lines = [[WORDS[index] for index in torch.randint(len(WORDS), (5,), generator=generator)] for _ in range(number)]
    return [Question(f"{' '.join(line)}\nIs this the?", " yes" if line[0] == "the" else " no") for line in lines]


def config(made, *more):
    return compose_config([*SETTINGS, f"data_dir={made}", *more])


def sha(model) -> str:
    return checkpoint.digest(model.state_dict())
