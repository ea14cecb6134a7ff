"""The configurations of every artefact's runs are valid, and their ids stay: a finished run with another id would be trained again."""

import hashlib
from pathlib import Path

import pytest
import yaml

from scripts.sweep.artefacts import known_artefacts, load_artefact
from scripts.sweep.grids import expand_grids

PINNED = yaml.safe_load(Path(__file__).with_name("run_ids.yaml").read_text())


def test_every_artefact_is_pinned_at_each_of_its_scales():
    assert {name: set(scales) for name, scales in PINNED.items()} == {
        name: set(load_artefact(name).scales) for name in known_artefacts()
    }


@pytest.mark.parametrize(("name", "scale"), [(name, scale) for name, scales in PINNED.items() for scale in scales])
def test_the_runs_of_an_artefact_keep_their_ids(name, scale):
    # `expand_grids` reads each configuration into types, which refuses an undeclared key.
    ids = sorted(expand_grids(load_artefact(name), {"scale": scale}, {}))
    found = [len(ids), hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]]
    assert found == PINNED[name][scale], (
        f"the runs of {name} at {scale} scale have other ids than before, so finished runs would be trained again; "
        f"restore the configuration, or if the protocol has changed on purpose write {name}: {{{scale}: {found}}} "
        f"into {Path(__file__).with_name('run_ids.yaml').name} and a line into CHANGELOG.md"
    )


def test_figure_4_with_benchmarks_has_figure_k1_s_runs():
    benchmarks = {"task.harness": "[arithmetic,mmlu,piqa,truthfulqa]"}
    figure4 = expand_grids(load_artefact("figure4"), {"scale": "paper"}, benchmarks)
    assert set(figure4) == set(expand_grids(load_artefact("figure_k1"), {"scale": "paper"}, {}))
