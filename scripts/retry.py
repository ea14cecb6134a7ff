"""Make diverged, failed and unusable runs ready for another attempt:  python scripts/retry.py figure2

For a diverged or failed run, record.json is renamed to record.json.failed, so that the next
reproduce.py or train.py trains it again.

A diverged run starts from step 0, and its checkpoints and logs are set aside too. From its
checkpoint the same code would give the same NaN, and other code would leave a run that is half the
old code's. A failed run (out of memory, or killed again and again) resumes from its last
checkpoint. from= overrides this for all of them.

For an unusable run, the files that are still unusable (a folder in place of a file, a checkpoint of
another run or format) are renamed to <name>.unusable. The run then resumes from its last whole
checkpoint, or from step 0.

Give the same keys that started the runs. Nothing is deleted.
"""

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from scripts.cli.common import confirmed, one_line_errors
from scripts.cli.parser import Key, Names, Request, sweep_command
from scripts.sweep.artefacts import at_own_scale, known_artefacts, load_artefact
from scripts.sweep.plan import expand
from scripts.sweep.states import states, whole_record
from tasks.engine import records
from tasks.engine.errors import Unusable, UserError
from tasks.engine.files import only_process
from tasks.engine.terminal import say

RETRIED = ("diverged", "failed", "unusable")
FROM = Key(
    "from",
    "where the runs resume",
    without="start for a diverged run, else checkpoint",
    choices=("start", "checkpoint"),
)
COMMAND = sweep_command(
    "scripts/retry.py",
    __doc__,
    Names("NAME", "an artefact, or the folder of a run", least=1, example="figure2"),
    (FROM,),
    {"yes": "do not ask for confirmation"},
)


@dataclass(frozen=True)
class Failure:
    """A run's folder, why it has no scores, and whether it starts again from step 0."""

    folder: Path
    reason: str
    from_start: bool

    @property
    def next_start(self) -> str:
        if records.unusable(self.folder) is None:
            return "step 0" if self.from_start else "its last checkpoint"
        return "its last whole checkpoint, or from step 0"


def failures(request: Request, where: str | None) -> list[Failure]:
    """Return the diverged, failed and unusable runs of the named artefacts and folders.
    Raises UserError for an unknown name, and for a folder with a run that is neither diverged nor failed nor
    unusable.
    """
    found: dict[Path, tuple[str, str]] = {}
    for name in request.names:
        if name in known_artefacts() or not Path(name).is_dir():
            artefact = load_artefact(name)
            own = at_own_scale(artefact, request)
            runs = states(expand(artefact, own.options, own.overrides).values())
            found |= {run.folder.resolve(): (run.state, str(run.reason)) for run in runs if run.state in RETRIED}
            continue
        folder = Path(name).resolve()
        record = whole_record(folder)
        if record is None and (why := records.unusable(folder)) is not None:
            found[folder] = ("unusable", why)
            continue
        if record is None or record["status"] == "finished":
            raise UserError(f"{name} holds no failed run" + ("" if record is None else ": its run has finished"))
        found[folder] = (record["status"], record["reason"])
    return [
        Failure(folder, reason, where == "start" or (where is None and state == "diverged"))
        for folder, (state, reason) in found.items()
    ]


def make_ready(failure: Failure) -> None:
    """Set aside what a start from step 0 must not find, and the record last.
    Raises Held if a process works on the run, UserError if its record has changed in the meantime.
    """
    folder = failure.folder
    if records.unusable(folder) is not None:
        _set_unusable_aside(folder)
        return
    with only_process(folder):
        record = whole_record(folder)
        if record is None or record["reason"] != failure.reason:
            raise UserError(f"{folder} has changed in the meantime; run the same command again")
        if failure.from_start:
            for path in (*sorted(folder.glob("checkpoint*.pt")), folder / "metrics.jsonl", folder / "dynamics.jsonl"):
                if path.exists():
                    records.set_aside(path, "failed")
        records.set_aside(folder / "record.json", "failed")


def _set_unusable_aside(folder: Path) -> None:
    """Rename the files that no run can use, and remove the note about them."""
    from tasks.engine import checkpoint  # slow to import: needs torch
    from tasks.engine.run import FILES

    if not folder.is_dir():
        records.set_aside(folder, "unusable")
        records.forget_unusable(folder)
        return
    if os.path.lexists(folder / ".lock") and not (folder / ".lock").is_file():
        records.set_aside(folder / ".lock", "unusable")
    with only_process(folder):
        for name in FILES:
            path = folder / name
            if not os.path.lexists(path):
                continue
            try:
                usable = path.is_file() and os.access(path, os.R_OK | os.W_OK)
                if usable and name in checkpoint.NAMES:
                    checkpoint.check(path, folder.name)
            except Unusable:
                usable = False
            if not usable:
                records.set_aside(path, "unusable")
        records.forget_unusable(folder)


def main(arguments: list[str]) -> None:
    """Show the failed runs, ask, and make them ready."""
    request = COMMAND.parse(arguments)
    found = failures(request, request.options.get("from"))
    if not found:
        print("no run is diverged, failed or unusable; nothing to do")
        return
    for failure in found:
        print(f"{failure.folder}: {failure.reason}; would resume from {failure.next_start}")
    if not confirmed(
        f"Make {len(found)} run{'s' * (len(found) > 1)} ready for another attempt?", "yes" in request.flags
    ):
        print("nothing was changed")
        return
    ready = sum(_made_ready(failure) for failure in found)
    if ready < len(found):
        raise UserError(
            f"{ready} of {len(found)} runs are ready; fix the others as reported above, then run the same command again"
        )
    print(f"{ready} ready; old files are kept with names that end in .failed or .unusable; {_what_next(request)}")


def _made_ready(failure: Failure) -> bool:
    """Make one run ready. Report it if that fails, so that the others continue."""
    try:
        make_ready(failure)
    except (UserError, OSError) as error:
        say(f"{failure.folder} is unchanged: {error}")
        return False
    return True


def _what_next(request: Request) -> str:
    artefacts = [name for name in request.names if name in known_artefacts()]
    if not artefacts:
        return "next: run the command that trained them"
    given = [f"{key}={value}" for key, value in request.given.items() if key != "from"]
    return f"next: {shlex.join(['python', 'scripts/reproduce.py', *artefacts, *given])}"


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
