"""Fake questions in PubMedQA's files, and a tiny Mistral in its owner's file format."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors, trainers

from tasks.data.downloads import hub_copy
from tasks.data.text.fake import documents, write_table
from tasks.engine import fake
from tasks.engine.files import write_bytes_atomically
from tasks.lora import mistral, pubmedqa

QUESTIONS = {"train": 64, "test": 32}
SHAPE: dict[str, Any] = {
    "vocab_size": 32000,  # Mistral's. The tokenizer has fewer entries
    "hidden_size": 32,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "sliding_window": None,
    "rope_theta": 1e6,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SPECIAL = ("<unk>", "<s>", "</s>")


@fake.once("PubMedQA")
def questions(root: Path) -> None:
    """Write a copy of PubMedQA's repository on the Hugging Face hub, and the model."""
    model(root)
    copy = fake.begin(root, hub_copy(Path(), pubmedqa.REPOSITORY))
    for number, (split, part) in enumerate(pubmedqa.PARTS.items()):
        write_table(copy / part, "train", _columns(number, QUESTIONS[split]))
    parts = "".join(
        f"- config_name: {part}\n  data_files:\n  - split: train\n    path: {part}/train-*\n"
        for part in pubmedqa.PARTS.values()
    )
    write_bytes_atomically(copy / "README.md", f"---\nconfigs:\n{parts}---\nFake data\n".encode())
    fake.end(root, "PubMedQA", QUESTIONS, copy)


def _columns(seed: int, count: int) -> dict[str, list[Any]]:
    """Return PubMedQA's columns. Artificial questions never have "maybe"."""
    draw, texts = np.random.default_rng(seed), documents(seed, 3 * count)
    return {
        "pubid": list(range(count)),
        "question": [text[:60] + "?" for text in texts[:count]],
        "context": [
            {"contexts": texts[count + 2 * n :][:2], "labels": ["BACKGROUND", "RESULTS"], "meshes": ["Humans"]}
            for n in range(count)
        ],
        "long_answer": [text[:80] for text in texts[:count]],
        "final_decision": draw.choice(["yes", "no", "maybe"][: 2 + seed], count).tolist(),
    }


@fake.once("Mistral")
def model(root: Path) -> None:
    """Write the folder of mistralai/Mistral-7B-Instruct-v0.2: sharded safetensors, config.json and tokenizer files."""
    from transformers import MistralConfig, MistralForCausalLM
    from transformers.utils import logging

    folder = fake.begin(root, mistral.weights_folder(Path()))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made: Any = MistralForCausalLM(MistralConfig(**SHAPE))
    logging.disable_progress_bar()
    made.to(torch.bfloat16).save_pretrained(folder, max_shard_size="1MB")
    tokenizer().save(str(folder / "tokenizer.json"))
    settings = {
        "add_bos_token": True,
        "add_eos_token": False,
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1000000000000000019884624838656,
        "tokenizer_class": "LlamaTokenizer",
    }
    write_bytes_atomically(folder / "tokenizer_config.json", json.dumps(settings, indent=1).encode())
    fake.end(root, "Mistral", {}, folder)


def tokenizer() -> Tokenizer:
    """Return a BPE like Mistral's: spaces are "▁", unknown characters become bytes, and <s> begins every text."""
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=[*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    made.train_from_iterator([*documents(), "Question: Answer: yes no maybe"], trainer)
    made.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return made


FAKES = {"PubMedQA": questions}
