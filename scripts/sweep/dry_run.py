"""reproduce.py --dry-run: list what would be trained, what would be skipped, and the cost."""

from omegaconf import DictConfig, OmegaConf

from results.schema import Artefact
from scripts.cli.parser import Request
from scripts.cli.tables import duration, show
from scripts.sweep.cost import Prices, finalists_to_come, in_hours, time_left, unit
from scripts.sweep.plan import expand
from scripts.sweep.states import RunState, states
from tasks.engine import records


def dry_run(artefact: Artefact, request: Request) -> None:
    """Print one line per run and the sums. Starts nothing and writes nothing."""
    runs = states(expand(artefact, request.options, request.overrides).values())
    prices, axes = Prices(artefact, request, runs), axes_of(artefact, request)
    would_train, rows = [], []
    for run in runs:
        trains, what = _what_happens(run)
        row = [run.run_id, differing(run.cfg, axes), what, ""]
        if trains:
            cost = prices.left(run)
            row[-1] = "unknown" if cost.seconds is None else duration(cost.seconds)
            would_train.append((run, cost))
        rows.append(row)
    show(("run", "differs in", "what happens", f"{unit(runs[0].cfg)} time"), rows)
    trained, costs = [run for run, _ in would_train], [cost for _, cost in would_train]
    left = time_left(costs, trained, request)
    counts = f"{len(runs)} runs, {len(trained)} would be trained, {len(runs) - len(trained)} not"
    sums = f"cost {in_hours(costs, unit(runs[0].cfg))}" + (f", time {left}" if left else "")
    print(f"{artefact.name}, scale {request.options['scale']}: {counts}; {sums}; nothing was started")
    if more := finalists_to_come(artefact, request, runs):
        print(more)


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


def axes_of(artefact: Artefact, request: Request) -> list[str]:
    """Return the keys along which the artefact's runs differ.
    Method and seed are left out, since they are in the run's id.
    """
    grids = artefact.scales[request.options["scale"]].grids
    keys = dict.fromkeys(
        key for grid in grids for key, values in grid.axes.items() if isinstance(values, list) and len(values) > 1
    )
    return [key for key in keys if key not in request.overrides]


def differing(cfg: DictConfig, axes: list[str]) -> str:
    """Return key=value for those axes that the run's method has."""
    values = {key: OmegaConf.select(cfg, key) for key in axes}
    return " ".join(f"{key}={value}" for key, value in values.items() if value is not None)
