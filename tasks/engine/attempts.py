"""How often a run was started and ended without a word since it last got further: killed for its memory, say.

starts.json in the run's folder: {"step": where it started, "count": how often}. It is removed whenever the run ends in an orderly way.
"""

import json
from pathlib import Path

from tasks.engine.files import write_bytes_atomically

LIMIT = 3
NAME = "starts.json"


def note_start(folder: Path, step: int) -> int:
    """Notes that the run starts at `step`; returns how many starts there ended without a word before."""
    before = _read(folder)
    count = before["count"] if before["step"] == step else 0
    write_bytes_atomically(folder / NAME, json.dumps({"step": step, "count": count + 1}).encode())
    return count


def _read(folder: Path) -> dict[str, int]:
    try:
        return json.loads((folder / NAME).read_text())
    except (FileNotFoundError, ValueError):
        return {"step": -1, "count": 0}


def note_end(folder: Path) -> None:
    """Notes that it ended in an orderly way: done, failed, or interrupted with a checkpoint."""
    (folder / NAME).unlink(missing_ok=True)
