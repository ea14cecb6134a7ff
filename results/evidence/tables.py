"""Tables of what was tuned and what was confirmed."""

import math

import pandas as pd

from results.evidence.contenders import Contender, title
from results.evidence.played import Played
from results.runs import Run, columns_of, frame, of_panel, place_of
from results.schema import Artefact
from results.series import runs_of
from results.statistics.paired import power
from results.table import Table, spread

FINALISTS = "Chosen settings on fresh seeds"  # the table's title
EFFECTS = (0.5, 1.0, 1.5, 2.0)  # in standard deviations of the paired differences


def finalists_table(played: Played) -> Table | None:
    """Return each contender's chosen setting with its score on the finalists' seeds, or None without any."""
    artefact = played.artefact
    if played.tuning == played.confirm or artefact.metric is None:
        return None
    rows, digits = [], artefact.metric.table_digits
    for contender, chosen in played.chosen.items():
        if not chosen:
            continue
        values = pd.Series(played.scores(contender), dtype=float)
        finite = values[values.abs() < math.inf]
        rows.append(
            {
                "method": title(artefact, contender),
                "chosen on the tuning seeds": setting_text(artefact, contender, chosen[0]),
                artefact.metric.label: f"{finite.mean():.{digits}f}{spread(finite.std(), digits)}"
                if len(finite)
                else "-",
                "fresh seeds": len(values),
            }
        )
    return Table(
        FINALISTS,
        pd.DataFrame(rows),
        power_sentence(artefact, len({run.seed for run in played.confirm})),
    )


def setting_text(artefact: Artefact, contender: Contender, run: Run) -> str:
    """Return a run's setting in words, such as `lr 1e-2.5, 2x`. A contender of several panels names the panel, too."""
    if artefact.layout != "heatmap":
        return next(method.title for method in artefact.methods if runs_of(method, [run]))
    data, own = frame([run], artefact.metric.name), [one for one in artefact.panels if one.name in contender.names]
    panel = next(one for one in own if len(of_panel(data, one)))
    cell = {"row": data[artefact.row].iloc[0], "column": columns_of(data, panel.column).iloc[0]}
    return f"{panel.title}, {place_of(artefact, cell)}" if len(own) > 1 else place_of(artefact, cell)


def power_sentence(artefact: Artefact, seeds: int) -> str:
    """Return how likely the seeds show a difference of some sizes."""
    said = ", ".join(f"{power(effect, seeds):.0%} for {effect:g}" for effect in EFFECTS)
    metric = artefact.metric
    chooser, reported = f"{metric.name}_selection", f"{metric.name}_report"
    return (
        f"Each method's setting is the best mean of the tuning seeds. It is trained again on {seeds} fresh seeds, which are the same "
        f"for all methods. A paired t-test finds a difference with probability {said} standard deviations of the paired "
        f"differences. Where the task scores halves of the test set ({chooser}, {reported}), one half chooses and the other is reported."
    )
