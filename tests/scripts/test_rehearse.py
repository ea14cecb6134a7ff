"""scale=rehearsal and rehearse.py: the paper's artefacts on fake data, never among real results."""

from pathlib import Path

import pytest
from commands import ROOT, call, call_forked, is_one_line, records
from omegaconf import OmegaConf

from results.schema import at_scale
from scripts.cli.common import compose_config
from scripts.rehearse import ARTEFACTS, FULL_SIZE
from scripts.reproduce import results_folder
from scripts.sweep import full_size
from scripts.sweep.artefacts import known_artefacts, load_artefact
from scripts.sweep.plan import expand
from scripts.sweep.rehearsed import with_rehearsal
from tasks.engine.fake import SCALE

TASKS = sorted(path.stem for path in ROOT.glob("configs/task/*.yaml"))
# What a rehearsal may change at paper scale, besides what configs/scale/rehearsal.yaml sets.
OF_PAPER = ("task.lr", "task.betas", "task.eps", "task.precision", "task.grad_clip", "task.reg_embedding")


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_a_rehearsal_that_says_fake_and_keeps_the_protocol(task):
    paper, rehearsal = (compose_config([f"task={task}", f"scale={scale}"]) for scale in ("paper", SCALE))
    assert (ROOT / "configs" / "scale" / SCALE / f"{task}.yaml").exists()
    assert rehearsal.task.data.description.startswith("FAKE ")
    assert rehearsal.num_steps == 3 and rehearsal.scale == SCALE
    for key in (*OF_PAPER, "task.data.name", "task.schedule.decay", "task.weight_decay_multiplier"):
        assert OmegaConf.select(rehearsal, key) == OmegaConf.select(paper, key)


@pytest.mark.parametrize("name", ["figure1", "figure2", "grokking", "evaluate_at", "table1"])
def test_an_artefact_s_rehearsal_is_one_run_of_3_steps_for_each_of_the_paper_s_panels(name):
    artefact = with_rehearsal(load_artefact(name))
    configs = expand(artefact, {"scale": SCALE}, {}).values()
    at = at_scale(artefact, SCALE)
    groups = len(at.panels) + len(at.methods) or 2 * len(at.parts)
    assert len(configs) == groups and {cfg.num_steps for cfg in configs} == {3} and {cfg.seed for cfg in configs} == {1}
    assert artefact.title.startswith("FAKE DATA") and at.note.startswith("FAKE DATA")
    assert set(load_artefact(name).scales) == set(artefact.scales) - {SCALE}


def test_what_is_rehearsed_exists_and_covers_all_tasks():
    assert {name for names in ARTEFACTS.values() for name in names} <= set(known_artefacts())
    assert {compose_config([f"task={task}"]).task.name for task in TASKS} <= set(ARTEFACTS)
    assert {task for tasks in FULL_SIZE.values() for task in tasks} <= set(full_size.PARAMETERS)


def test_its_results_are_never_among_the_committed_ones():
    folder = results_folder("figure2", {"scale": SCALE}, {}, Path("some/runs"))
    assert folder == Path("some/runs/results/rehearsal/figure2")
    for script in ("records.py", "rebuild.py"):
        is_one_line(call_forked(script, f"scale={SCALE}"), "scale=rehearsal is unknown")


def test_paper_scale_refuses_fake_data_in_one_line(tmp_path):
    call_forked("fake_data.py", "grokking", f"data_dir={tmp_path / 'data'}")
    keys = ["task=grokking", f"data_dir={tmp_path / 'data'}", f"runs_dir={tmp_path / 'runs'}"]
    done = call_forked("train.py", *keys, "scale=paper", "device=cpu", "quiet=true")
    is_one_line(done, "holds fake data", "scale=rehearsal")
    assert done.returncode == 2


@pytest.mark.parametrize("task", ["cifar100", "gpt2", "gpt2m", "imagenet", "clip"])
def test_the_models_of_paper_scale_have_the_expected_parameters(task):
    assert full_size.counted(task) == full_size.PARAMETERS[task]


def rehearsed(task: str, folder: Path) -> str:
    done = call("rehearse.py", task, f"folder={folder}", timeout=1200)
    assert done.returncode == 0, done.stderr
    assert "make report" not in done.stdout  # the report doesn't know the scale
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"{task}: ") and " s a run" not in line][
        -1:
    ]
    for artefact in ARTEFACTS[task]:
        table = (folder / "results" / SCALE / artefact / "table.md").read_text()
        assert table.count("FAKE") >= 2
    assert {record["status"] for record in records(folder / "runs").values()} == {"finished"}
    return line


@pytest.mark.slow
def test_grokking_is_rehearsed_and_a_second_call_trains_nothing(tmp_path):
    assert "its own data, 3 steps a run" in rehearsed("grokking", tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/*/record.json")}
    rehearsed("grokking", tmp_path)
    assert len(times) == 6 and times == {path: path.stat().st_mtime_ns for path in times}


@pytest.mark.weekly
@pytest.mark.parametrize("task", sorted(set(ARTEFACTS) - {"grokking"}))
def test_every_task_is_rehearsed(task, tmp_path):
    for package in {"gpt2": ["datasets"], "imagenet": ["datasets"], "clip": ["datasets"], "resnet50": ["datasets"],
                    "lora": ["datasets", "transformers", "peft"], "segmentation": ["nnunetv2"]}.get(task, []):  # fmt: skip
        pytest.importorskip(package)
    line = rehearsed(task, tmp_path)
    assert "parameters at full size as expected" in line and "fake " in line
