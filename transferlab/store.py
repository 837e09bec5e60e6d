"""Keep records: one small file a trial while working, one reviewable file a chapter when published.

Nothing here imports torch; networks are kept as files whose content the run layer knows.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock, SoftFileLease, Timeout

from .errors import DiskError, UserError, check
from .paths import LEFTOVER, elsewhere, project, store_root, sweep, writable, write_atomically
from .specs import Artefact
from .specs.serial import canonical

Record = dict[str, Any]
OK, DIVERGED, REFUSED, FAILED = "ok", "diverged", "refused", "failed"  # how a status begins
HEAD = ("key", "label", "status", "seconds")  # of a published record; then its metrics, and its batch
FORGOTTEN = 30 * LEFTOVER  # and checkpoints, which a study that was stopped may go on with
RETRYABLE = (REFUSED, FAILED)  # those that another attempt may change


def settled(record: Record | None, columns: Iterable[str] = ()) -> bool:
    """Whether a trial need not be run: it is on record, and neither asked for what is not there nor ran out of memory,
    say.

    Parameters
    ----------
    record : dict or None
    columns : iterable of str
        Metrics that it must have, unless the training diverged.
    """
    if record is None or record["status"].startswith(RETRYABLE):
        return False
    return record["status"] != OK or all(name in record["metrics"] for name in columns)


class Store:
    """A folder of records and pretrained networks that any number of workers may share.

    Every file is written under another name and then renamed, so that a reader never meets half a file.

    Parameters
    ----------
    root : Path, optional
        By default `paths.store_root`.
    shared : Path, optional
        A folder of published networks that are read if the store lacks them; by default ``results/sources`` in the
        project.
    """

    def __init__(self, root: Path | str | None = None, shared: Path | None = None) -> None:
        # as the workers of a cluster must name it
        self.root = (Path(root).expanduser() if root else store_root()).absolute()
        self.shared = shared or project() / "results" / "sources"
        self.records, self.networks = self.root / "records", self.root / "networks"

    def prepare(self) -> None:
        """Make the folders, and take away what killed processes left half written.

        Raises
        ------
        UserError
            If they cannot be written.
        """
        writable("store", self.records)
        writable("store", self.networks)
        sweep((*self.root.glob("*/.*.*"), *self.records.glob("*/.*.*")))
        sweep(self.root.glob("checkpoints/*.pt"), FORGOTTEN)

    def path(self, key: str) -> Path:
        """Return the file of a record."""
        return self.records / key[:2] / f"{key}.json"

    def get(self, key: str) -> Record | None:
        """Return a record, or ``None``."""
        try:
            # a `Path` a record would take a third of the time
            with open(f"{self.records}/{key[:2]}/{key}.json", "rb") as file:
                return json.loads(file.read())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as e:
            raise UserError(f"record (={self.path(key)}): is no JSON; delete it and the trial is run again") from e

    def put(self, made: Artefact, status: str, metrics: dict, seconds: float, provenance: dict) -> Record:
        """Write the record of what was made, or tried, and return it.

        What an earlier one measured besides stays; all of it, where a later attempt came to nothing.

        Parameters
        ----------
        made : Artefact
        status : str
            ``ok``; or why there is nothing: ``diverged: ...``; ``refused: ...`` for a mistake in the trial or in its
            data; ``failed: ...`` for everything else, such as want of memory.
        metrics : dict
            Numbers by name.
        seconds : float
            Wall time, that of what it needs not included.
        provenance : dict
            Commit, versions, device: what may differ between equal trials.
        """
        before = self.get(made.key) or {}
        if before.get("status") == OK:
            if status != OK:
                return before
            metrics = before["metrics"] | metrics
        record = {"key": made.key, "label": made.label, made.kind: made.to_dict(), "status": status}
        record |= {"metrics": metrics, "seconds": round(seconds, 2), "provenance": provenance}
        write_atomically(self.path(made.key), json.dumps(record, indent=1) + "\n")
        return record

    def file(self, made: Artefact) -> Path:
        """Return the file of a network, the published one if there is no other, or of arrays."""
        own, shared = self._places(made)
        return Path(shared if not os.path.isfile(own) and os.path.isfile(shared) else own)

    def _places(self, made: Artefact) -> tuple[str, str]:  # a `Path` would take longer than to look there
        own = f"{self.root}/{'networks' if made.kept == 'network' else made.kind}/{made.key}.safetensors"
        return own, f"{self.shared}/{made.key}.safetensors"

    def _there(self, made: Artefact) -> bool:
        return made.given or (made.kept != "record" and any(map(os.path.isfile, self._places(made))))

    def lacks(self, made: Artefact, columns: Iterable[str] = ()) -> bool:
        """Whether something is still to be made: it is not there, and was not tried in vain for good."""
        if self._there(made):
            return False
        record = self.get(made.key)
        if made.kept == "record":
            return not settled(record, columns)
        return record is None or record["status"].startswith((OK, *RETRYABLE))

    def reason(self, made: Artefact) -> str | None:
        """Return why something is not there, if it was tried in vain."""
        status = OK if self._there(made) else (self.get(made.key) or {}).get("status", OK)
        return None if status == OK else status

    def status(self, wanted: Iterable[Artefact], columns: Iterable[str] = ()) -> str | None:
        """Return what came of things that were made at once, or ``None`` if one of them is still to be made."""
        wanted = list(wanted)
        if any(self.lacks(made, columns) for made in wanted):
            return None
        return next(filter(None, map(self.reason, wanted)), OK)

    def checkpoint(self, key: str) -> Path:
        """Return the file that a long run keeps its state in."""
        return self.root / "checkpoints" / f"{key}.pt"

    @contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Try to be the one who makes something; yields whether nobody else is at it.

        The claim is a lock on a file, which the system lets go of when its process ends, however it ends. Where the
        file system has no locks, a file stands for it that its process touches: once it is half a minute old, anybody
        may take it.
        """
        path = writable("store", self.root / "claims") / key
        lock = FileLock(path, fallback_to_soft=False)
        try:
            try:
                lock.acquire(blocking=False)
            except Timeout:
                raise
            except OSError:
                with suppress(OSError):
                    os.unlink(path)
                lock = SoftFileLease(f"{path}.lease")
                lock.acquire(blocking=False)
        except Timeout:
            yield False
            return
        except OSError as e:
            why = f"cannot be written ({e.strerror or e}); free the disk or {elsewhere(path)}"
            raise DiskError(f"file (={path}): {why}") from e
        try:
            yield True
        finally:
            if not isinstance(lock, SoftFileLease):
                with suppress(OSError):  # Windows keeps it while it is open
                    os.unlink(path)
            lock.release()


class Published:
    """The records in ``results/``: read by the book, written when a study is done.

    A file ``results/SCALE/CHAPTER.jsonl`` has one line a batch (provenance, number of records, seconds), then one line
    a record, sorted by key. A record without a status is ok.

    Parameters
    ----------
    root : Path, optional
        By default ``results`` in the project.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or project() / "results"

    def path(self, scale: str, chapter: str) -> Path:
        """Return the file of a chapter at a scale."""
        return self.root / scale / f"{chapter}.jsonl"

    def read(self, scale: str | None = None, chapter: str | None = None) -> dict[str, Record]:
        """Return published records by key, of all or of one scale or chapter; what several measured is united."""
        found: dict[str, Record] = {}
        for path in sorted(self.root.glob(f"{scale or '*'}/{chapter or '*'}.jsonl")):
            for key, record in _read(path, path.stat().st_mtime_ns).items():
                before = found.get(key, {}).get("metrics", {}) if record["status"] == OK else {}
                found[key] = record | {"metrics": before | record["metrics"]} if before else record
        return found

    def batches(self) -> list[dict]:
        """Return what is known of every batch of published records: scale, chapter, number of records, seconds,
        provenance.
        """
        found = []
        for path in sorted(self.root.glob("*/*.jsonl")):
            rows = map(json.loads, path.read_text("utf-8").splitlines())
            found += [{"scale": path.parent.name, "chapter": path.stem, **row} for row in rows if "key" not in row]
        return found

    def write(self, scale: str, chapter: str, records: Iterable[Record]) -> Path:
        """Write a chapter's records, replacing the file.

        Raises
        ------
        UserError
            If the folder cannot be written.
        """
        records = sorted(records, key=lambda r: r["key"])
        about = {canonical(r["provenance"]): r["provenance"] for r in records}
        by_age = sorted(about.items(), key=lambda p: (p[1]["day"], p[0]))
        batches = {text: {"batch": i, "records": 0, "seconds": 0.0, **about} for i, (text, about) in enumerate(by_age)}
        rows = []
        for record in records:
            batch = batches[canonical(record["provenance"])]
            batch["records"] += 1
            batch["seconds"] = round(batch["seconds"] + record["seconds"], 2)
            head = {k: record[k] for k in HEAD if (k, record[k]) != ("status", OK)}
            rows.append({**head, **record["metrics"], "batch": batch["batch"]})
        path = self.path(scale, chapter)
        writable("results", path.parent)
        lines = (json.dumps(line, separators=(",", ":")) + "\n" for line in [*batches.values(), *rows])
        write_atomically(path, "".join(lines))
        return path


@lru_cache(maxsize=64)
def _read(path: Path, modified: int) -> dict[str, Record]:
    batches: dict[int, dict] = {}
    found: dict[str, Record] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
        except ValueError as e:
            raise UserError(f"published records (={path}): line {number} is no JSON; restore the file with git") from e
        if "key" not in row:
            batches[row["batch"]] = {k: v for k, v in row.items() if k not in ("batch", "records", "seconds")}
            continue
        check(row["batch"] in batches, "published records", path, f"line {number} names a batch that is not there")
        head = {"status": OK} | {k: row.pop(k) for k in HEAD if k in row}
        found[head["key"]] = head | {"provenance": batches[row.pop("batch")], "metrics": row}
    return found
