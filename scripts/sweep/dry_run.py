"""reproduce.py --dry-run: show what would be trained, what would be skipped, and the cost."""

from omegaconf import DictConfig

from results.schema import Artefact
from scripts.cli.parser import Request
from scripts.cli.tables import duration, show
from scripts.sweep.committed_runs import committed_runs
from scripts.sweep.cost import Cost, Prices, finalists_to_come, in_hours, time_left, unit
from scripts.sweep.ended_runs import source_of_runs
from scripts.sweep.labels import differing, telling_keys
from scripts.sweep.plan import expand
from scripts.sweep.states import RunState, states
from tasks.engine import records


def dry_run(artefact: Artefact, request: Request) -> None:
    """Print a line for the runs of one setting that share a fate, and the sums. Starts nothing and writes nothing."""
    configs = expand(artefact, request.options, request.overrides, source_of_runs(request.options))
    runs = states(configs.values())
    committed = {run.run_id for run in committed_runs(configs)} if request.options.get("records") == "both" else set()
    prices = Prices(artefact, request, runs)
    keys = telling_keys(artefact, request, [run.cfg for run in runs])
    alike: dict[tuple[str, str, str], list[tuple[DictConfig, Cost | None]]] = {}
    would_train: list[tuple[RunState, Cost]] = []
    for run in runs:
        trains, what = (False, "skip: committed") if run.folder.name in committed else _what_happens(run)
        cost = prices.left(run) if trains else None
        if cost is not None:
            would_train.append((run, cost))
        alike.setdefault((run.cfg.regularizer.name, differing(run.cfg, keys), what), []).append((run.cfg, cost))
    hours_of = unit(runs[0].cfg)
    show(
        ("regularizer", "differs in", "seeds", "what happens", f"{hours_of} time"),
        [
            [regularizer, setting, seeds([cfg.seed for cfg, _ in group]), what, _price([cost for _, cost in group])]
            for (regularizer, setting, what), group in alike.items()
        ],
    )
    trained, costs = [run for run, _ in would_train], [cost for _, cost in would_train]
    left = time_left(costs, trained, request)
    counts = f"{len(runs)} runs, {len(trained)} would be trained, {len(runs) - len(trained)} not"
    sums = f"cost {in_hours(costs, hours_of)}" + (f", time {left}" if left else "")
    print(f"{artefact.name}, scale {request.options['scale']}: {counts}; {sums}; nothing was started")
    if more := finalists_to_come(artefact, request, runs):
        print(more)


def _price(costs: list[Cost | None]) -> str:
    """Return the time of some runs together, "" if none is trained."""
    known = [cost.seconds for cost in costs if cost is not None and cost.seconds is not None]
    if len(known) < sum(cost is not None for cost in costs):
        return "unknown"
    return duration(sum(known)) if known else ""


def seeds(numbers: list[int]) -> str:
    """Return seeds in ascending order, with three or more in a row as a range: 1-4,7,8."""
    rows: list[list[int]] = []
    for number in sorted(numbers):
        if rows and number == rows[-1][-1] + 1:
            rows[-1].append(number)
        else:
            rows.append([number])
    return ",".join(f"{row[0]}-{row[-1]}" if len(row) > 2 else ",".join(map(str, row)) for row in rows)


def _what_happens(run: RunState) -> tuple[bool, str]:
    """Return whether reproduce.py trains the run or submits it, and what it does in words."""
    if run.record is not None:
        try:
            records.check_logs(run.folder, run.record)
        except records.DamagedRecord:
            return True, "train again: its logs are damaged"
        return (
            False,
            "skip: done"
            if run.state == "done"
            else f"skip: {run.state} ({run.record['reason']}); python scripts/retry.py lets it be retried",
        )
    if run.state == "unusable":
        return True, f"try again: {run.reason}"
    job = f"job {run.job.id}" if run.job else "another process"
    if run.state == "running":
        return False, f"leave to {job}, at step {run.step} of {run.cfg.num_steps}"
    if run.state == "queued" and run.cfg.launcher.name == "slurm":
        return False, f"leave to {job}, in the queue"
    queued = f" here, before {job} does" if run.state == "queued" else ""
    if any(run.folder.glob("checkpoint*.pt")):
        return True, f"resume{queued} from its last checkpoint, logged up to step {run.step}"
    return True, f"train{queued}"
