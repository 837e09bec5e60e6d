"""Keep records: one small file a trial while working, one reviewable file a chapter when published.

Nothing here imports torch; networks are kept as files whose content the run layer knows.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from .errors import DiskError, UserError, check
from .paths import project, store_root, writable, write_atomically
from .serial import canonical
from .specs import Trial

Record = dict[str, Any]
OK, DIVERGED, REFUSED, FAILED = "ok", "diverged", "refused", "failed"  # how a status begins
HEAD = ("key", "label", "status", "seconds")  # of a published record; then its metrics, and its batch
LEFTOVER = 86_400  # seconds after which half-written files of the dead are removed
OPEN = (REFUSED, FAILED)  # those that another attempt may change


def settled(record: Record | None) -> bool:
    """Whether a trial need not be run: it is on record, and neither asked for what is not there nor ran out of memory, say."""
    return record is not None and not record["status"].startswith(OPEN)


class Store:
    """A folder of records and pretrained networks that any number of workers may share.

    Every file is written under another name and then renamed, so that a reader never meets half a file.

    Parameters
    ----------
    root : Path, optional
        By default `paths.store_root`.
    shared : Path, optional
        A folder of published networks that are read if the store lacks them; by default ``results/sources`` in the project.
    """

    def __init__(self, root: Path | str | None = None, shared: Path | None = None) -> None:
        self.root = (Path(root).expanduser() if root else store_root()).absolute()  # as the workers of a cluster must name it
        self.shared = shared or project() / "results" / "sources"
        self.records = self.root / "records"
        self.networks = self.root / "networks"

    def prepare(self) -> None:
        """Make the folders.

        Raises
        ------
        UserError
            If they cannot be written.
        """
        writable("store", self.records)
        writable("store", self.networks)
        for folder in (self.networks, self.root / "checkpoints", self.root / "features"):
            for half in folder.glob(".*.*"):  # a write that was killed
                with suppress(FileNotFoundError):  # its writer renamed it
                    if time.time() - half.stat().st_mtime > LEFTOVER:
                        half.unlink()

    def path(self, key: str) -> Path:
        """Return the file of a record."""
        return self.records / key[:2] / f"{key}.json"

    def get(self, key: str) -> Record | None:
        """Return a record, or ``None``."""
        try:
            with open(f"{self.records}/{key[:2]}/{key}.json", "rb") as file:  # a `Path` a record would take a third of the time
                return json.loads(file.read())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as e:
            raise UserError(f"record (={self.path(key)}): is no JSON; delete it and the trial is run again") from e

    def put(self, trial: Trial, status: str, metrics: dict, seconds: float, provenance: dict) -> Record:
        """Write the record of a trial and return it.

        Parameters
        ----------
        status : str
            ``ok``; or why there are no metrics: ``diverged: ...``; ``refused: ...`` for a mistake in the trial or in its data;
            ``failed: ...`` for everything else, such as want of memory.
        metrics : dict
            Numbers by name.
        seconds : float
            Wall time of the trial, its source's pretraining not included.
        provenance : dict
            Commit, versions, device: what may differ between equal trials.
        """
        record = {"key": trial.key, "label": trial.label, "trial": trial.to_dict(), "status": status}
        record |= {"metrics": metrics, "seconds": round(seconds, 2), "provenance": provenance}
        write_atomically(self.path(trial.key), json.dumps(record, indent=1) + "\n")
        return record

    def network(self, key: str) -> Path:
        """Return the file of a pretrained network: the published one if there is no other."""
        own, shared = (folder / f"{key}.safetensors" for folder in (self.networks, self.shared))
        return shared if shared.is_file() and not own.is_file() else own

    def failure(self, key: str) -> str | None:
        """Return why a source has no network, if it was tried in vain."""
        try:
            return self._failed(key).read_text()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def fail(self, key: str, reason: str) -> None:
        """Note why a source has no network."""
        write_atomically(self._failed(key), reason)

    def lacks(self, key: str) -> bool:
        """Whether a source's network is still to be made: there is none, and it did not diverge."""
        return not self.network(key).is_file() and (self.failure(key) or FAILED).startswith(OPEN)

    def _failed(self, key: str) -> Path:
        return self.networks / f"{key}.failed"

    def checkpoint(self, key: str) -> Path:
        """Return the file that a long run keeps its state in."""
        return self.root / "checkpoints" / f"{key}.pt"

    @contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Try to be the one who makes a record or a network; yields whether nobody else is at it.

        The claim is a lock on a file, which the system lets go of when its process ends, however it ends.
        """
        path = writable("store", self.root / "claims") / key
        while True:
            try:
                file = os.open(path, os.O_CREAT | os.O_RDWR)
            except OSError as e:
                raise DiskError(f"file (={path}): cannot be written ({e.strerror or e}); free the disk or name another folder") from e
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.exists() and os.fstat(file).st_ino == path.stat().st_ino:
                    break
            except BlockingIOError:
                os.close(file)
                yield False
                return
            except FileNotFoundError:
                pass  # taken away between two looks by who had it before
            os.close(file)
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)
            os.close(file)


class Published:
    """The records in ``results/``: read by the book, written when a study is done.

    A file ``results/SCALE/CHAPTER.jsonl`` has one line a batch (provenance, number of records, seconds), then one line a
    record, sorted by key. A record without a status is ok.

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
        """Return published records by key, of everything or of one scale or chapter."""
        found: dict[str, Record] = {}
        for path in sorted(self.root.glob(f"{scale or '*'}/{chapter or '*'}.jsonl")):
            found |= _read(path, path.stat().st_mtime_ns)
        return found

    def batches(self) -> list[dict]:
        """Return what is known of every batch of published records: scale, chapter, number of records, seconds, provenance."""
        found = []
        for path in sorted(self.root.glob("*/*.jsonl")):
            rows = map(json.loads, path.read_text().splitlines())
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
        by_age = sorted({canonical(r["provenance"]): r["provenance"] for r in records}.items(), key=lambda p: (p[1]["day"], p[0]))
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
        write_atomically(path, "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in [*batches.values(), *rows]))
        return path


@lru_cache(maxsize=64)
def _read(path: Path, modified: int) -> dict[str, Record]:
    batches: dict[int, dict] = {}
    found: dict[str, Record] = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
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
