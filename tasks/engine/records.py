"""Run ids, run folders and records. Free of torch: reading a thousand records should cost nothing but reading.

<runs_dir>/<task>/<run_id>/  config.yaml  metrics.jsonl  dynamics.jsonl  checkpoint.pt  record.json
"""

import contextlib
import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tasks.engine.errors import Unusable, UserError
from tasks.engine.files import write_bytes_atomically

# What a run does not depend on: where things lie, how it is watched, what it runs on. The optimizer's and the task's default lr
# and num_steps have been taken up by the top-level keys.
NOT_IDENTITY = (
    "runs_dir",
    "data_dir",
    "logging",
    "launcher",
    "device",
    "threads",
    "deterministic",
    "quiet",
    "strict",
    # The global batch is the protocol's, however it is split.
    "nodes",
    "gpus",
    "micro_batch",
    "gradient_checkpointing",
    "resources",
    "loader_workers",
    "compile",
    "parallel",
    "checkpoint_every_steps",
    "checkpoint_every_minutes",
)
# How a run ends. A diverged one has a loss or a final metric that is not finite.
STATUSES = ("finished", "diverged", "failed")
DEFAULTS_TAKEN_UP = (("task", "lr"), ("task", "num_steps"), ("task", "parallel"), ("regularizer", "lr"))


def identity(cfg: DictConfig) -> dict[str, Any]:
    """The resolved configuration without what cannot change a run's result."""
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    kept = {key: value for key, value in config.items() if key not in NOT_IDENTITY}
    for section, key in DEFAULTS_TAKEN_UP:
        kept[section] = {k: v for k, v in kept[section].items() if k != key}
    return kept


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def config_hash(cfg: DictConfig) -> str:
    """SHA-256 of the identity; equal configurations have equal hashes: the order of keys, 1 or 1.0, and descriptions do not count."""
    return _digest(_plain(identity(cfg)))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if key != "description"}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")


def check_names(cfg: DictConfig) -> None:
    """Raise UserError for a name that would leave its folder: of the regularizer, of the task, or of its data."""
    for key in ("task.name", "regularizer.name", "task.data.name"):
        value = OmegaConf.select(cfg, key)
        if value is None and key == "task.data.name":
            continue
        if not isinstance(value, str) or not NAME.fullmatch(value):
            raise UserError(
                f"{key}={value!r} must be letters, digits, '_', '-' and '.', and begin with a letter: it names a folder"
            )


def run_id(cfg: DictConfig) -> str:
    """Return the regularizer's name, the seed and 12 digits of the hash: readable in a listing, unique in a folder.

    Raises UserError for a name that would leave the folder of runs.
    """
    check_names(cfg)
    return f"{cfg.regularizer.name}-s{_plain(cfg.seed)}-{config_hash(cfg)[:12]}"


def run_folder(cfg: DictConfig, its_id: str | None = None) -> Path:
    """<runs_dir>/<task>/<run_id>, which need not exist; who knows the run's id saves making it anew."""
    return Path(cfg.runs_dir) / cfg.task.name / (its_id or run_id(cfg))


def has_record(cfg: DictConfig) -> bool:
    """Return whether the run has ended: finished, diverged or failed."""
    return (run_folder(cfg) / "record.json").exists()


def note_unusable(folder: Path, why: str) -> None:
    """Note beside a run's folder, in which nothing may be writable, why it can't be trained."""
    with contextlib.suppress(OSError):
        write_bytes_atomically(_unusable_note(folder), why.encode())


def forget_unusable(folder: Path) -> None:
    """Remove that note, since the run is tried again."""
    with contextlib.suppress(OSError):
        _unusable_note(folder).unlink()


def unusable(folder: Path) -> str | None:
    """Return why the last try to train a run found its files unusable. None if it didn't."""
    try:
        return _unusable_note(folder).read_text()
    except OSError:
        return None


def _unusable_note(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.unusable")


class DamagedRecord(Exception):
    """record.json is not what was written: one line that says which file and in what way."""


def write_record(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Writes record.json with its own checksum and those of the logs it stands for; returns it."""
    files = {
        name: file_digest(folder / name) for name in ("metrics.jsonl", "dynamics.jsonl") if (folder / name).exists()
    }
    record = record | {"files": files}
    record["checksum"] = _digest(record)
    text = json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n"
    write_bytes_atomically(folder / "record.json", text.encode())
    return record


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return the record of a run that has ended, or None.

    Raises DamagedRecord if it does not match its checksum.
    """
    path = folder / "record.json"
    must_not_be_a_pipe(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        raise DamagedRecord(f"{path} is damaged: it is a folder") from None
    except OSError as error:
        raise Unusable(f"{path} cannot be read: {error.strerror}; fix this, then run the same command again") from error
    try:
        record = json.loads(content)
        checksum = record.pop("checksum")
    except (ValueError, KeyError, AttributeError, TypeError, IndexError, RecursionError) as error:
        raise DamagedRecord(f"{path} is damaged: it is not a record ({error})") from None
    if _digest(record) != checksum:
        raise DamagedRecord(f"{path} is damaged: its content does not match its checksum")
    if odd := _misshapen(record):
        raise DamagedRecord(f"{path} is damaged: its {odd} is not what a record has")
    if record["run_id"] != folder.name:
        raise DamagedRecord(f"{path} is the record of another run, {record['run_id']}")
    return _up_to_date(record)


def _up_to_date(record: dict[str, Any]) -> dict[str, Any]:
    """Return an older version's record as this one writes it: a diverged run has a status of its own."""
    wrong = [name for name, value in record["metrics"].items() if not math.isfinite(value)]
    if record["status"] == "finished" and wrong:
        return record | {"status": "diverged", "reason": f"final metric {wrong[0]} is {record['metrics'][wrong[0]]}"}
    if record["status"] == "failed" and str(record["reason"]).startswith(("loss is ", "final metric ")):
        return record | {"status": "diverged"}
    return record


def _misshapen(record: dict[str, Any]) -> str | None:
    """Return the key of a record whose value has a wrong type: its checksum may be right all the same."""
    kinds = {
        "run_id": str,
        "status": str,
        "metrics": dict,
        "files": dict,
        "config": dict,
        "hardware": dict,
        "versions": dict,
    }
    for key, kind in kinds.items():
        if not isinstance(record.get(key), kind):
            return key
    if record["status"] not in STATUSES:
        return "status"
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in record["metrics"].values()):
        return "metrics"
    return "files" if set(record["files"]) - {"metrics.jsonl", "dynamics.jsonl"} else None


def must_not_be_a_pipe(path: Path) -> None:
    """Raise Unusable for a pipe or device in the place of a file, whose reader would wait for ever."""
    with contextlib.suppress(OSError):
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise Unusable(f"{path} is not a regular file; set it aside with: python scripts/retry.py {path.parent}")


def ended(folder: Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    """Return the record of a run that has ended and whose logs are whole.

    If record or logs are damaged, the record is set aside and that is said, so that the run is done again.
    """
    try:
        record = read_record(folder)
        if record is not None:
            check_logs(folder, record)
        return record
    except DamagedRecord as damage:
        give_up(folder, damage, say)
        return None


def give_up(folder: Path, damage: DamagedRecord, say: Callable[[str], None]) -> None:
    """Sets the record aside whose run is damaged, and says so."""
    kept = set_aside(folder / "record.json")
    say(f"{damage}; kept the record as {kept.name}; the run is trained again from its last checkpoint")


def check_logs(folder: Path, record: dict[str, Any]) -> None:
    """Raises DamagedRecord if a log is not the one that the record was written for."""
    for name, digest in record["files"].items():
        if not (folder / name).is_file() or file_digest(folder / name) != digest:
            raise DamagedRecord(f"{folder / name} is damaged: it does not match the run's record")


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def set_aside(path: Path, why: str = "damaged") -> Path:
    """Renames a file to <name>.<why> (or .<why>.2, ...), so that nothing is lost and nothing stands in the way."""
    target, number = path.with_name(f"{path.name}.{why}"), 2
    while os.path.lexists(target):
        target, number = path.with_name(f"{path.name}.{why}.{number}"), number + 1
    os.replace(path, target)
    return target
