"""Make all groups of a data set with one process per core, then the manifest."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tasks.data.text.corpora import Documents
from tasks.data.text.document_groups import Recipe, json_bytes, kept_group, write_group
from tasks.data.text.shards import SPLITS, data_set_folder
from tasks.data.text.tokenizer import load
from tasks.engine.errors import Held, UserError
from tasks.engine.files import disk_full_is_said, only_process, write_bytes_atomically

_work: dict[str, Any] = {}  # in a worker: what all its groups share


def write_all(root: Path, documents: Documents, recipe: Recipe, processes: int) -> None:
    """Write the missing groups, then the manifest.

    The files have the same bytes for any number of processes and interruptions.

    Raises:
        UserError: another process is preparing the data set, the disk is full, or a worker is
            killed.
    """
    folder = data_set_folder(root, recipe.name)
    with disk_full_is_said(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder, recipe.name):
            (folder / "manifest.json").unlink(missing_ok=True)  # its content may no longer hold
            groups = range(recipe.groups(len(documents)))
            records = {group: kept_group(folder, group, recipe, len(documents)) for group in groups}
            missing = [group for group, record in records.items() if record is None]
            bar = tqdm(
                desc=recipe.name,
                unit=" documents",
                total=len(documents),
                initial=sum(record["span"][1] - record["span"][0] for record in records.values() if record),
                mininterval=0.5 if sys.stderr.isatty() else 30,
                dynamic_ncols=True,
            )
            with bar:
                for group, record in _made(root, documents, recipe, missing, processes):
                    records[group] = record
                    bar.update(record["span"][1] - record["span"][0])
            write_bytes_atomically(
                folder / "manifest.json", json_bytes(_manifest(recipe, [records[group] for group in groups]))
            )


@contextlib.contextmanager
def _alone(folder: Path, name: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(only_process(folder))
        except Held as error:
            raise UserError(f"{name} is being prepared by another process; wait for it, or stop it first") from error
        yield


def _made(
    root: Path, documents: Documents, recipe: Recipe, missing: list[int], processes: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (group, its record) as groups are finished.

    On failure the other workers stop at their next batch and remove unfinished files.
    """
    if not missing:
        return
    spawn = multiprocessing.get_context("spawn")
    stop = spawn.Event()
    arguments = (root, documents, recipe, stop)
    with ProcessPoolExecutor(min(processes, len(missing)), spawn, _begin, arguments) as executor:
        futures: dict[Future, int] = {executor.submit(_write, group): group for group in missing}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            reason = "a process was killed, perhaps because memory ran out; run the same command to resume"
            raise UserError(f"{recipe.name}: {reason}") from error
        finally:
            stop.set()
            executor.shutdown(cancel_futures=True)


def _begin(root: Path, documents: Documents, recipe: Recipe, stop: Any) -> None:
    """Prepare a process for its groups."""
    # Ctrl-C reaches all processes. The first one tells the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The work is already parallel over processes.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _work.update(root=root, documents=documents, recipe=recipe, stop=stop, tokenizer=load(root, recipe.vocabulary))


def _end_with_parent() -> None:
    """End a worker whose parent was killed. It would otherwise wait for its next group forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _write(group: int) -> dict[str, Any]:
    recipe = _work["recipe"]
    return write_group(
        data_set_folder(_work["root"], recipe.name), group, _work["documents"], recipe, _work["tokenizer"], _go_on
    )


def _go_on() -> None:
    if _work["stop"].is_set():
        raise InterruptedError("another process failed or was interrupted")


def _manifest(recipe: Recipe, records: list[Any]) -> dict[str, Any]:
    shards = {split: [record["shards"][i] for record in records] for i, split in enumerate(SPLITS)}
    totals = {
        split: {key: sum(shard[key] for shard in shards[split]) for key in ("documents", "tokens")} for split in SPLITS
    }
    return asdict(recipe) | {"totals": totals, "shards": shards}
