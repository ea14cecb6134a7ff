"""The task lora: questions, scores, and runs from the command line."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from commands import call, call_forked, is_one_line, records, start, wait_until
from made_lora import CPU, SETTINGS, SMALL, TARGETS, config, made_questions

from scripts.cli.common import compose_config
from tasks.data.text import tokenizer
from tasks.engine.config import read_config
from tasks.engine.errors import UserError
from tasks.engine.run import build_workload
from tasks.lora import adapters, data, harness, mistral, plays, pubmedqa, questions, small
from tasks.lora.questions import Question
from tasks.lora.scoring import Exam, answer_losses


def small_lora(seed: int = 0):
    torch.manual_seed(seed)
    model = small.empty(SMALL)
    adapters.add(model, 2, 2.0, TARGETS)
    return model


# Questions and scores


def test_answers_alone_are_targets_and_padding_changes_nothing(made):
    encode = tokenizer.load(made, 512).encode_batch
    asked = made_questions(6, 2)
    rows = data.rows(asked, encode, 32)
    for row, question in zip(rows, asked, strict=True):
        assert row.tokens[row.start :] == encode([question.answer])[0]
    model = small_lora().eval()
    with torch.no_grad():
        together = answer_losses(model, data.batch(rows, CPU))
        for row, loss in zip(rows, together, strict=True):
            logits = model(input_ids=torch.tensor([row.tokens])).logits[0].log_softmax(-1)
            expected = -sum(logits[place - 1, row.tokens[place]] for place in range(row.start, len(row.tokens)))
            assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_of_a_long_prompt_the_end_is_kept():
    encode = lambda texts: [[ord(letter) for letter in text] for text in texts]  # noqa: E731
    (row,) = data.rows([Question("abcdef", "yz")], encode, 5)
    assert "".join(map(chr, row.tokens)) == "defyz" and row.start == 3
    with pytest.raises(ValueError, match="has 2 tokens beside its prompt"):
        data.rows([Question("abcdef", "yz")], encode, 2)


def test_the_likeliest_answer_counts(made):
    encode = tokenizer.load(made, 512).encode_batch
    model, asked = small_lora(), made_questions(20, 1)
    exam = Exam(asked, (" yes", " no"), encode, 32, 7, CPU)
    right = 0
    with torch.no_grad():
        for question in asked:
            rows = data.rows([replace(question, answer=answer) for answer in (" yes", " no")], encode, 32)
            losses = [answer_losses(model, data.batch([row], CPU)).item() for row in rows]
            right += (" yes", " no")[losses.index(min(losses))] == question.answer
    assert exam.right(model).sum() == right and len(exam.right(model)) == 20
    with pytest.raises(ValueError, match="not in list"):
        Exam(asked, (" yes",), encode, 32, 7, CPU)


def test_a_batch_depends_on_seed_and_step_alone(made):
    first, again, other = (build_workload(read_config(config(made, f"seed={seed}")), CPU) for seed in (1, 1, 2))
    for step in (7, 0, 3):
        assert all(torch.equal(a, b) for a, b in zip(first.batch_at(step), again.batch_at(step), strict=True))
    assert not torch.equal(first.batch_at(0)[0], other.batch_at(0)[0])


def test_questions_about_plays_are_balanced_and_their_splits_apart(tmp_path):
    line = "These are words number {} of the passage.\n"
    for kind, names in plays.KINDS.items():
        for number, name in enumerate(names.split()):
            text = "".join(line.format(f"{kind}{number} {i}") for i in range(900))
            (tmp_path / f"{name}_gut.txt").write_text(text)
    found = plays.questions(tmp_path)
    for split in questions.SPLITS:
        answers = [question.answer for question in found[split]]
        assert answers.count(" yes") == answers.count(" no") > 0
        assert all(
            (" yes" if "history" in question.prompt.split("\n")[0] else " no") == question.answer
            for question in found[split]
        )
    assert not {question.prompt for question in found["train"]} & {question.prompt for question in found["test"]}
    assert found == plays.questions(tmp_path)
    assert len(" ".join(plays.KINDS.values()).split()) == 37


def test_a_question_of_pubmedqa():
    row = {"question": "Do statins help?", "context": {"contexts": ["First.", "Second."]}, "final_decision": "maybe"}
    assert pubmedqa.question(row) == Question(
        "Abstract: First.\nSecond.\nQuestion: Do statins help?\nAnswer:", " maybe"
    )


def test_a_subset_is_the_same_for_the_same_seed():
    asked = made_questions(30, 3)
    assert questions.subset(asked, 10, 0) == questions.subset(asked, 10, 0) != questions.subset(asked, 10, 1)
    assert questions.subset(asked, None, 0) == asked
    with pytest.raises(UserError, match="train_size=31 questions are asked for, but there are 30"):
        questions.subset(asked, 31, 0)


# Runs


def test_what_is_missing_is_said_with_the_command(tmp_path, made, root):
    for scale, name in (("mini", "Plays"), ("paper", "PubMedQA")):
        asked = f"scale={scale}", "device=cpu", f"data_dir={tmp_path}", f"runs_dir={tmp_path / 'runs'}"
        done = call_forked("train.py", "task=lora", *asked)
        assert done.returncode == 2
        is_one_line(done, f"{name} is not in", f"python scripts/prepare_data.py lora {name} data_dir={tmp_path}")
    with pytest.raises(UserError, match=r"Mistral-7B-Instruct is not in .*prepare_data\.py lora PubMedQA data_dir="):
        mistral.load(tmp_path, "bf16")
    (root / "lora" / "Made" / "test.jsonl").write_text("")
    with pytest.raises(UserError, match=r"test\.jsonl is missing or has another length than recorded; prepare it with"):
        questions.read(root, "Made", "test")


def test_the_harness_is_asked_for_in_one_line(made, monkeypatch):
    with pytest.raises(UserError, match="'chess' is unknown; choose from arithmetic, mmlu, piqa, truthfulqa"):
        harness.check(["chess"], object(), made)
    with pytest.raises(UserError, match="needs a pretrained model"):
        build_workload(read_config(config(made, "task.harness=[piqa]")), CPU)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UserError, match=r"install it with: pip install '\.\[language,harness\]'"):
        harness.check(["piqa"], object(), made)
    assert len(harness.BENCHMARKS["arithmetic"]) == 10


def test_the_papers_way_with_a_small_pretrained_model(made, root):
    from transformers import PreTrainedTokenizerFast

    folder = mistral.weights_folder(root)
    torch.manual_seed(0)
    small.empty(SMALL).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.load(root, 512)._bpe).save_pretrained(folder)
    for split, number in (("train", 40), ("test", 20)):
        assert len(questions.read(root, "Made", split)) == number
    options = [
        "task=lora",
        "scale=paper",
        "device=cpu",
        "task.data.name=Made",
        "task.data.train_size=32",
        "task.lora.r=2",
    ]
    workload = build_workload(read_config(compose_config([*options, "task.batch_size=4", f"data_dir={root}"])), CPU)
    assert workload.model.lm_head.weight.dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        workload.loss(workload.model, workload.batch_at(0)).backward()
        metrics = workload.evaluate(workload.model)
    assert metrics["accuracy_change"] == 0.0
    of_half = {
        name.replace("accuracy", f"accuracy_{half}")
        for half in ("selection", "report")
        for name in ("accuracy", "accuracy_before")
    }
    of_half |= {"accuracy_change_selection", "accuracy_change_report"}
    assert set(metrics) == {"accuracy", "accuracy_before", "accuracy_change"} | of_half


def test_damaged_weights_are_one_line_with_the_folder(made, root):
    from transformers import PreTrainedTokenizerFast

    folder = mistral.weights_folder(root)
    small.empty(SMALL).save_pretrained(folder, max_shard_size="50KB")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.load(root, 512)._bpe).save_pretrained(folder)
    mistral.load(root, "fp32")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    whole = shards[0].read_bytes()
    shards[0].write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        UserError, match=rf"^the files in {folder} cannot be loaded \(.*; delete the damaged one"
    ) as said:
        mistral.load(root, "fp32")
    assert "\n" not in str(said.value)
    shards[0].unlink()
    with pytest.raises(UserError, match="Mistral-7B-Instruct is not in"):
        mistral.load(root, "fp32")
    shards[0].write_bytes(whole)
    (folder / "model.safetensors.index.json").write_text("{")
    assert not mistral.is_complete(root)


@pytest.mark.weekly
def test_a_killed_run_goes_on_and_ends_with_the_same_bits(made, tmp_path):
    arguments = [*SETTINGS, f"data_dir={made}", "regularizer=adamcpr_ws", "num_steps=40", "checkpoint_every_steps=1"]
    done = call("train.py", *arguments, f"runs_dir={tmp_path / 'whole'}")
    assert done.returncode == 0, done.stderr
    process = start("train.py", *arguments, f"runs_dir={tmp_path / 'killed'}")
    wait_until(lambda: list((tmp_path / "killed").glob("lora/*/checkpoint.pt")))
    process.kill()
    process.communicate()
    assert not records(tmp_path / "killed")
    done = call("train.py", *arguments, f"runs_dir={tmp_path / 'killed'}")
    assert done.returncode == 0, done.stderr
    (whole,), (resumed,) = (records(tmp_path / name).values() for name in ("whole", "killed"))
    assert whole["metrics"] == resumed["metrics"] and whole["state_sha256"] == resumed["state_sha256"]
    metrics = whole["metrics"]
    assert metrics["accuracy_change"] == pytest.approx(metrics["accuracy"] - metrics["accuracy_before"])
    assert metrics["accuracy_change_report"] == metrics["accuracy_report"] - metrics["accuracy_report_before"]
    assert metrics["forgetting"] == pytest.approx(metrics["language_loss"] - metrics["language_loss_before"])
    assert metrics["forgetting"] != 0
    (path,) = (tmp_path / "whole").glob("lora/*/checkpoint.pt")
    kept = torch.load(path, weights_only=True)["model"]
    assert len(kept) == 2 * 7 * 2 and all(".lora_" in name for name in kept)
    (log,) = (tmp_path / "whole").glob("lora/*/dynamics.jsonl")
    assert len(json.loads(log.read_text().splitlines()[0])["matrices"]) == 2 * 7 * 2
