"""Tables I.2 and I.3: from the seconds of every round (rounds.json, written by scripts/bench) to their
files.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from results.differences import FEWEST, RESAMPLES, Median, median_of
from results.evidence.finding import BEYOND, NOT_RESOLVED, WITHIN, Finding, findings_table, to_csv
from results.figures import draw
from results.files import write
from results.latex import latex
from results.published import FOLDER
from results.step_time_limits import MODELS, REFERENCE, judge_times
from results.step_times_figure import PARTS, ratio_figure
from results.table import Table, markdown

TITLES = {
    "table_i2": "Table I.2: seconds per training step at batch size 1",
    "table_i3": "Table I.3: seconds per training step at the largest batch size",
}
# A part of a record, and the label suffix of methods whose steps leave gradients out in turn.
IN_TURN_PART, IN_TURN = "gradients_in_turn", ", in turn"
AFTER = "AdamCPR, after"
# The package's promises: medians over these shapes, as multiples of fused AdamW's step, and other
# limits.
PROMISED_SHAPES = ("gpt2s", "vitb32", "deits", "resnet50")
PROMISED = {"AdamCPR": 1.00, AFTER: 1.10}
MOST_EXTRA_BYTES = 1e6
MOST_IN_TURN = 1.5
ROWS = {"adamw": "AdamW", "adamcpr": "AdamCPR", "adadecay": "AdaDecay", "awd": "AWD", "amos": "AMOS"}
READING = (
    "Rounds are interleaved: each calls every method once, in turned order. A ratio is to torch's fused AdamW of the same round; median "
    "and quartiles are over rounds. In square brackets: the median's 95 % bootstrap interval; a claim whose limit lies in it is "
    "not resolved, each claim by its own interval, without a correction for their number. Extra peak memory is what a step holds at most "
    "beside what was held before it."
)
STEP = (
    "The step alone, with constant gradients. *Of the bandwidth*: the bytes that no implementation of the method can do without moving "
    "(28 for each parameter with Adam: read parameter, gradient, both moments, write all but the gradient; 16 with AMOS), per second, as "
    "a share of what the fastest of copy, triad and in-place update over 256 MB reaches in the same round, or once before the rounds where "
    "that is said below the table. Models that fit the processor's caches can exceed 100 %, and where the bandwidth was measured before "
    "the rounds, so can larger ones on a machine whose memory got faster meanwhile. "
    "*Per tensor*: the difference to fused AdamW's step, divided by the number of tensors."
)
OF_AFTER = (
    f"*{AFTER}* has evaluate_at='after', so its pull needs R of the updated matrix. It counts 28 bytes too, since a "
    "matrix that stays in the processor's cache after its update is not read from memory again. One that has left the "
    "cache moves 36."
)
TURNS = (
    "At every step another parameter has no gradient (*in turn*). A ratio is to the same method's step with all "
    "gradients, in the same round."
)
BEFORE_THE_ROUNDS = (
    "The bandwidth was measured once, before the rounds: {} GB/s. The memory may have been slower or faster in them."
)
ON_A_GPU = (
    "On a GPU, `make bench DEVICE=cuda` (bfloat16 autocast, context 1024) makes the same tables in `results/paper/`."
)
SECONDS = "Seconds, and in brackets the multiple of AdamW (ours: torch's fused one)"
NOT_LARGEST = (
    "On a CPU the batch is not the largest that fits, which would take hours, but the one that stands above "
    "(`make bench BATCH=`)."
)


def write_step_times(table: str, record: Mapping[str, Any], out_dir: Path) -> str:
    """Write table.md, table.csv, table.tex, claims.csv, figure.png and figure.svg. Return the text to
    print.

    The same record gives the same bytes.
    """
    data = frame(record, (*PARTS, IN_TURN_PART))
    paper = published(table)
    adamcpr = paper[paper["row"] == "adamcpr"].set_index("shape")["ratio_paper"]
    findings = judge_times(table, record, adamcpr.to_dict())
    main = paper_table(data, paper)
    data = data.merge(paper, on=["part", "shape", "row"], how="left")
    facts = describe(record)
    claims = findings_table(findings).rename(columns={"published": "paper"})
    page = [f"# {TITLES[table]}", "", *(f"- {name}: {fact}" for name, fact in facts.items() if fact != "-"), ""]
    if facts["device"] == "cpu":
        page += [ON_A_GPU, ""] + ([NOT_LARGEST, ""] if table == "table_i3" else [])
    page += [
        "![figure](figure.png)",
        "",
        f"{SECONDS}.",
        "",
        markdown(main),
        "",
    ]
    promised = promises(record) if table == "table_i2" else ""
    page += ["## Limits and claims", "", markdown(claims), "", *([promised, ""] if promised else []), READING, ""]
    page += _sections(data, record)
    write(out_dir / "table.md", "\n".join(page))
    write(out_dir / "table.csv", data.to_csv(index=False))
    write(out_dir / "table.tex", latex([Table(SECONDS, main)], table, f"{TITLES[table]}, here on {facts['hardware']}"))
    write(out_dir / "claims.csv", to_csv(findings))
    draw(
        ratio_figure(
            data[data["part"] != IN_TURN_PART], TITLES[table], f"{facts['hardware']}; {facts['rounds']} rounds"
        ),
        out_dir,
    )
    said = [
        _in_lines(findings) + "".join(f"{line}\n" for line in (*_turns_in_words(record).values(), promised) if line)
    ]
    return "\n".join([TITLES[table], markdown(main), "", *said, str(out_dir / "table.md")])


def frame(record: Mapping[str, Any], parts: Iterable[str] = tuple(PARTS)) -> pd.DataFrame:
    """Return a row per part, shape and method: seconds, ratios, memory, overhead and share of the
    bandwidth.

    Ratios are to fused AdamW. With gradients in turn, they are to the same method with all
    gradients.
    """
    rows = []
    for shape, entry in sorted(record["shapes"].items(), key=lambda item: item[1]["parameters"]):
        for part in parts:
            measured = entry.get(part, {}).get("methods", {})
            for label, method in measured.items():
                reference = measured[label.removesuffix(IN_TURN) if part == IN_TURN_PART else REFERENCE]
                rows.append({"part": part, "shape": shape, "method": label, **_numbers(entry, part, method, reference)})
    columns = ["part", "shape", "method", "row", "batch", "context", "rounds", "seconds", "ratio"]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)


def _numbers(
    entry: Mapping[str, Any], part: str, method: Mapping[str, Any], reference: Mapping[str, Any]
) -> dict[str, Any]:
    seconds, base = np.array(method["seconds"]), np.array(reference["seconds"])
    peak, base_peak = method["extra_peak_bytes"], reference["extra_peak_bytes"]
    moved = entry["parameters"] * method["bytes_moved_per_parameter"]
    alone = part == "optimizer_step"
    found = {
        "row": method["row"],
        "batch": entry[part].get("batch"),
        "context": entry[part].get("context"),
        "rounds": len(seconds),
    }
    parts = {"seconds": seconds, "ratio": seconds / base}
    if alone:
        parts["microseconds_per_tensor"] = 1e6 * (seconds - base) / entry["tensors"]
    for name, values in parts.items():
        found |= dict(
            zip((name, f"{name}_q1", f"{name}_q3"), np.percentile(values, (50, 25, 75)).tolist(), strict=True)
        )
    found["extra_peak_mb"] = None if peak is None else peak / 1e6
    found["extra_peak_mb_over_reference"] = None if peak is None or base_peak is None else (peak - base_peak) / 1e6
    if alone:
        found["bandwidth_share"] = float(np.median(moved / seconds / _fastest(entry)))
    return found


def _fastest(entry: Mapping[str, Any]) -> np.ndarray:
    """Return the bytes per second of the kernel with the fastest median.

    There is a value per round of the optimizer's step, or one from before the rounds.
    """
    kernels = entry["optimizer_step"].get("bandwidth", entry.get("bandwidth"))
    return max((np.array(rates) for rates in kernels.values()), key=np.median)


def promises(record: Mapping[str, Any]) -> str:
    """Return a line on the package's promises for PROMISED_SHAPES; empty unless all were measured.

    It has the medians over the shapes with their 95 % bootstrap intervals, the extra memory, the
    limits and whether they are kept.
    """
    steps = [record["shapes"].get(shape, {}).get("optimizer_step", {}).get("methods", {}) for shape in PROMISED_SHAPES]
    references = [methods.get(REFERENCE) for methods in steps]
    measured = {
        "AdamCPR": [methods.get(_adamcpr(methods)) for methods in steps],
        AFTER: [methods.get(AFTER) for methods in steps],
    }
    if not all(references) or not all(measured["AdamCPR"]):
        return ""
    said = []
    for what, found in measured.items():
        if all(found):
            ratios = [np.divide(own["seconds"], base["seconds"]) for own, base in zip(found, references, strict=True)]
            said.append(f"*{what}* takes {_times(_median_over_shapes(ratios), PROMISED[what])}")
    titles = [record["shapes"][shape]["title"].split(",")[0] for shape in PROMISED_SHAPES]
    line = f"Optimizer step, median over {', '.join(titles)}: {' and '.join(said)} as torch's fused AdamW."
    extra = [method["extra_peak_bytes"] for method in measured["AdamCPR"]]
    if None not in extra:
        outcome = WITHIN if max(extra) <= MOST_EXTRA_BYTES else BEYOND
        line += f" Extra peak memory of AdamCPR: {max(extra) / 1e6:.1f} MB at most (limit {MOST_EXTRA_BYTES / 1e6:g} MB, {outcome})."
    return line


def _adamcpr(methods: Mapping[str, Any]) -> str | None:
    """Return the label of AdamCPR with its fastest kernel."""
    return next((label for label, method in methods.items() if method["row"] == "adamcpr"), None)


def _median_over_shapes(ratios: list[np.ndarray]) -> Median:
    """Return the median over shapes of the medians over rounds. Its interval resamples rounds within
    each shape.
    """
    value = float(np.median([np.median(of_shape) for of_shape in ratios]))
    rounds = min(map(len, ratios))
    if rounds < FEWEST:
        return Median(value, None, None, rounds)
    generator = np.random.default_rng(0)
    drawn = [np.median(generator.choice(of_shape, (RESAMPLES, len(of_shape))), axis=1) for of_shape in ratios]
    low, high = np.percentile(np.median(drawn, axis=0), (2.5, 97.5)).tolist()
    return Median(value, low, high, rounds)


def _times(median: Median, limit: float) -> str:
    """Return the median with its interval, the limit and whether it holds, up to the word "as"."""
    said, outcome = f"{median.value:.3f}", NOT_RESOLVED
    if median.low is not None and median.high is not None:
        said += f" [{median.low:.3f}, {median.high:.3f}]"
        outcome = WITHIN if median.high <= limit else BEYOND if median.low > limit else NOT_RESOLVED
    return f"{said} times as long (limit {limit:.2f}, {outcome})"


def _turns_in_words(record: Mapping[str, Any]) -> dict[str, str]:
    """Return a line per shape on AdamCPR's step with gradients in turn: the ratio, the limit, whether
    it holds.
    """
    lines = {}
    for shape, entry in record["shapes"].items():
        methods = entry.get(IN_TURN_PART, {}).get("methods", {})
        label = _adamcpr(methods)
        if label is None:
            continue
        ratios = np.divide(methods[label + IN_TURN]["seconds"], methods[label]["seconds"])
        said = _times(median_of(pd.Series(ratios)), MOST_IN_TURN)
        lines[shape] = f"{entry['title'].split(',')[0]}, gradients in turn: {label} takes {said} as with all gradients."
    return lines


def published(table: str) -> pd.DataFrame:
    """Return the paper's seconds and their ratio to its AdamW."""
    rows = yaml.safe_load((FOLDER / f"{table}.yaml").read_text())["rows"]
    data = pd.DataFrame(
        [
            {"part": "training_step", "shape": r["model"], "row": r["optimizer"], "seconds_paper": r["mean"]}
            for r in rows
        ]
    )
    adamw = data[data["row"] == "adamw"].set_index("shape")["seconds_paper"]
    return data.assign(ratio_paper=data["seconds_paper"] / data["shape"].map(adamw))


def paper_table(data: pd.DataFrame, paper: pd.DataFrame) -> pd.DataFrame:
    """Return the paper's rows and columns, ours beside the paper's."""
    ours = data[data["part"] == "training_step"].set_index(["shape", "row"]).sort_index()
    theirs = paper.set_index(["shape", "row"]).sort_index()
    rows = []
    for row, title in ROWS.items():
        cells = {"method": title}
        for shape, model in MODELS.items():
            for name, source, suffix in (("ours", ours, ""), ("paper", theirs, "_paper")):
                found = (shape, row) in source.index
                cells[f"{model} {name}"] = _cell(source.loc[[(shape, row)]].iloc[0], suffix) if found else "-"
        rows.append(cells)
    return pd.DataFrame(rows)


def _cell(values: Any, suffix: str) -> str:
    return f"{values['seconds' + suffix]:.3f} ({values['ratio' + suffix]:.3f}x)"


def describe(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the facts above the tables: machine, versions, code, rounds."""
    entries = list(record["shapes"].values())

    def distinct(values: list[Any]) -> str:
        return ", ".join(sorted({str(v) for v in values if v is not None})) or "-"

    parts = [entry[part] for entry in entries for part in ("optimizer_step", "training_step") if part in entry]
    machines = [entry["hardware"] for entry in entries]
    device = distinct([m["device"] for m in machines])
    return {
        "device": device,
        "hardware": distinct([f"{m['gpu'] or m['cpu']}, {m['cores']} cores, {m['threads']} threads" for m in machines]),
        "memory bandwidth": "; ".join(
            f"{name} {low:.1f} to {high:.1f} GB/s" for name, low, high in _bandwidths(entries)
        )
        or "-",
        "memory limit": distinct([f"{entry['memory_gb']:g} GB" for entry in entries if entry.get("memory_gb")]),
        "rounds": distinct([part.get("rounds") for part in parts]),
        "training step": distinct(
            [f"{p['batch']} x {p['context']} tokens, {p['precision']}, one device" for p in parts if "batch" in p],
        ),
        "paper": "4 A100 of 40 GB, context 1024, bf16, mean of 3,000 steps, 2 seeds",
        "versions": distinct(
            [f"Python {entry['versions']['python']}, torch {entry['versions']['torch']}" for entry in entries]
        ),
        "code": _code(entries),
        "note": distinct([entry.get("note") for entry in entries]),
        "command": "`make bench DEVICE=cuda`" if device == "cuda" else "`make bench`",
    }


def _code(entries: list[Any]) -> str:
    """Return the commit that each shape was measured with, from the smallest shape up."""
    shapes: dict[str, list[str]] = {}
    for entry in sorted(entries, key=lambda entry: entry["parameters"]):
        shapes.setdefault(str(entry["git_commit"]), []).append(entry["title"].split(",")[0])
    if len(shapes) < 2:
        return next(iter(shapes), "-")
    return "; ".join(f"{commit} for {', '.join(titles)}" for commit, titles in shapes.items())


def _bandwidths(entries: list[Any]) -> list[tuple[str, float, float]]:
    """Return the slowest and the fastest bandwidth of each kernel, in GB/s."""
    measured = [entry.get("bandwidth", {}) for entry in entries]
    measured += [
        entry.get(part, {}).get("bandwidth", {}) for entry in entries for part in ("optimizer_step", "training_step")
    ]
    found: dict[str, list[float]] = {}
    for kernels in measured:
        for name, rates in kernels.items():
            found.setdefault(name, []).extend(np.atleast_1d(rates) / 1e9)
    return [(name, min(rates), max(rates)) for name, rates in found.items()]


def _sections(data: pd.DataFrame, record: Mapping[str, Any]) -> list[str]:
    """Return the sections on every method and shape, and what was skipped."""
    lines = []
    turns = _turns_in_words(record)
    has_after = any(AFTER in entry.get("optimizer_step", {}).get("methods", {}) for entry in record["shapes"].values())
    for part, title, text in (
        ("optimizer_step", "Optimizer step", f"{STEP} {OF_AFTER}" if has_after else STEP),
        (IN_TURN_PART, "Gradients in turn", TURNS),
        ("training_step", "Whole training step", "Forward, backward, gradient clipping and optimizer step."),
    ):
        if not any(part in entry for entry in record["shapes"].values()):
            continue
        lines += [f"## {title}", "", text, ""]
        for shape, entry in sorted(record["shapes"].items(), key=lambda item: item[1]["parameters"]):
            if part not in entry:
                continue
            chosen = data[(data["part"] == part) & (data["shape"] == shape)]
            lines += [f"### {entry['title']}: {entry['parameters']:,} parameters in {entry['tensors']:,} tensors", ""]
            lines += [f"Code: commit {entry['git_commit']}.", ""]
            lines += [markdown(_readable(chosen, part)), ""] if len(chosen) else []
            if part == "optimizer_step" and len(chosen) and "bandwidth" in entry:
                lines += [
                    BEFORE_THE_ROUNDS.format(
                        ", ".join(f"{n} {rate / 1e9:.1f}" for n, rate in entry["bandwidth"].items())
                    ),
                    "",
                ]
            lines += [turns[shape], ""] if part == IN_TURN_PART and shape in turns else []
            lines += [f"- skipped: {label}, {reason}" for label, reason in entry[part]["skipped"].items()]
            lines += [""] if entry[part]["skipped"] else []
    return lines


def _readable(chosen: pd.DataFrame, part: str) -> pd.DataFrame:
    rows = []
    for _, c in chosen.iterrows():
        row = {"method": c["method"], "ms": f"{1000 * c['seconds']:.2f}"}
        than = "all gradients" if part == IN_TURN_PART else "fused AdamW"
        row[f"x {than} (quartiles)"] = f"{c['ratio']:.3f} ({c['ratio_q1']:.3f} to {c['ratio_q3']:.3f})"
        row["extra peak memory, MB"] = _megabytes(c["extra_peak_mb"])
        if part == "training_step":
            row["more than fused AdamW, MB"] = _megabytes(c["extra_peak_mb_over_reference"])
        elif part == "optimizer_step":
            row["of the bandwidth"] = f"{100 * c['bandwidth_share']:.0f} %"
            spread = f"({c['microseconds_per_tensor_q1']:+.2f} to {c['microseconds_per_tensor_q3']:+.2f})"
            row["per tensor, µs (quartiles)"] = f"{c['microseconds_per_tensor']:+.2f} {spread}"
        rows.append(row | {"rounds": str(c["rounds"])})
    return pd.DataFrame(rows)


def _megabytes(value: Any) -> str:
    return f"{value:.1f}" if pd.notna(value) else "not measured"


def _in_lines(findings: list[Finding]) -> str:
    return "".join(f"{one.text}: {one.outcome} ({one.said or 'no value'})\n" for one in findings)
