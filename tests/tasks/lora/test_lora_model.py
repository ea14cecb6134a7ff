"""The task lora's model: which matrices are trained and regularized, and the small base model."""

import multiprocessing

import pytest
import torch
from made_lora import CPU, SMALL, TARGETS, config, made_questions, sha

from cpr import regularized_names
from scripts.cli.common import compose_config
from tasks.engine.config import read_config
from tasks.engine.errors import UserError
from tasks.engine.optimizers import build_optimizer
from tasks.engine.run import build_workload
from tasks.lora import adapters, questions, small

# The LoRA matrices


def test_mistral_7b_has_the_papers_matrices():
    from transformers import MistralConfig, MistralForCausalLM

    shape = MistralConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_key_value_heads=8
    )
    with torch.device("meta"):
        model = MistralForCausalLM(shape)
    assert sum(p.numel() for p in model.parameters()) == 7_241_732_096
    task = read_config(compose_config(["task=lora", "scale=paper"])).task
    with torch.device("meta"):
        adapters.add(model, task.lora.r, task.lora.alpha, task.lora.targets)
    names = regularized_names(model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert names == list(trained) and len(names) == 32 * 7 * 2
    assert all(".lora_A." in name or ".lora_B." in name for name in names)
    assert sum(p.numel() for p in trained.values()) == 335_544_320


def test_the_optimizer_trains_the_lora_matrices_and_nothing_else(made):
    cfg = config(made, "regularizer=adamcpr_ws")
    model = build_workload(read_config(cfg), CPU).model
    trained = {
        p: group["regularize"]
        for group in build_optimizer(read_config(cfg), model).param_groups
        for p in group["params"]
        if p.requires_grad
    }
    assert all(trained.values())
    assert len(trained) == 2 * 7 * 2
    assert set(trained) == {p for name, p in model.named_parameters() if ".lora_" in name}


def test_lora_at_its_start_changes_no_logit_and_can_be_taken_out():
    torch.manual_seed(0)
    model = small.empty(SMALL)
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        before = model(input_ids=tokens).logits
        adapters.add(model, 2, 2.0, TARGETS)
        assert torch.equal(model(input_ids=tokens).logits, before)
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_()
        assert not torch.allclose(model(input_ids=tokens).logits, before, atol=1e-2)
        with adapters.without(model):
            assert torch.equal(model(input_ids=tokens).logits, before)
    assert len(regularized_names(model)) == 2 * 7 * 2


def test_lora_is_float32_beside_bfloat16():
    model = small.empty(SMALL).bfloat16()
    adapters.add(model, 2, 2.0, TARGETS)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert model.lm_head.weight.dtype == torch.bfloat16


def test_settings_that_lora_cannot_have_are_said():
    for r, targets in ((0, TARGETS), (2, ["no_such_layer"])):
        with pytest.raises(UserError, match=r"task\.lora: "):
            adapters.add(small.empty(SMALL), r, 2.0, targets)


# The small base model


def _train_it(root, results):
    results.put(sha(small.trained(root, SMALL, quiet=True)))


@pytest.mark.slow
def test_two_processes_train_the_small_model_once(root):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=_train_it, args=(root, results)) for _ in range(2)]
    for process in processes:
        process.start()
    found = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert len(found) == 1 and len(list((root / "lora" / "small").glob("*.pt"))) == 1
    path = small.kept_at(root, SMALL)
    changed = path.stat().st_mtime_ns
    assert sha(small.trained(root, SMALL, quiet=True)) in found
    assert path.stat().st_mtime_ns == changed

    (path.parent / f".{path.name}.1.tmp").write_bytes(b"of a process that was killed")
    path.write_bytes(path.read_bytes()[:-100])
    assert sha(small.trained(root, SMALL, quiet=True)) in found  # a damaged one is made again, with the same bits
    assert not list(path.parent.glob(".*.tmp"))


def test_a_runs_random_numbers_do_not_depend_on_whether_it_trained_the_small_model(root):
    states = []
    for kept in (False, True):
        assert small.kept_at(root, SMALL).exists() == kept
        torch.manual_seed(3)
        states.append(sha(build_workload(read_config(config(root)), CPU).model))
    assert states[0] == states[1]


def test_the_small_model_is_kept_by_configuration_text_and_questions(root):
    path = small.kept_at(root, SMALL)
    assert small.kept_at(root, SMALL.model_copy(update={"lr": 2e-3})) != path
    questions.write(root, "Made", {}, {"train": made_questions(40, 5), "test": made_questions(20, 1)})
    assert small.kept_at(root, SMALL) != path


def test_a_text_of_another_vocabulary_is_one_line(root):
    with pytest.raises(
        UserError, match=r"^task\.small\.vocabulary=400 is not .* Made in .* set task\.small\.vocabulary=512$"
    ):
        small.trained(root, SMALL.model_copy(update={"vocabulary": 400}), quiet=True)
