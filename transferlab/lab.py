"""The one door between notebooks and the machine: `Lab.run` turns trials into a table of what they measured.

Trials that are on record, in the store or published, are read; the others are run. The run layer (torch) is imported
only then.
"""

from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pandas as pd

from .engine import KILLED, Here, Job, Progress, Queue, cluster_executor, cluster_slots, duration, local_pool, run_jobs
from .errors import RefusedError, UserError, check, choose
from .specs import Source, SourceTask, Trial, source_key
from .store import REFUSED, Published, Record, Store, settled

FORWARD_SHARE = 1 / 3  # of a training step's arithmetic
PACE = 1.5e10  # multiply-adds a second that one core trains, before anything was measured
WORTH_A_POOL = 20.0  # seconds of work below which one process does it all
PACK, PACK_ON = 16, ("cuda",)  # trials of one shape that are handed out at once, and where that can pay
IMAGES_READ = 5000  # images that measuring a trial reads, roughly


@dataclass(frozen=True)
class Plan:
    """What a call of `Lab.run` would do.

    Attributes
    ----------
    known : int
        Trials on record.
    sources, runs : list of Trial
        Pretraining runs (one trial stands for each network) and runs that are missing. Where a learning rate is
        searched, the runs after the search are counted too.
    seconds : float
        Of work, on one worker.
    """

    known: int
    sources: list[Trial]
    runs: list[Trial]
    seconds: float

    def text(self, workers: int) -> str:
        """Return the plan as one line."""
        return (
            f"{len(self.sources)} sources to pretrain, {len(self.runs)} runs to make, {self.known} on record; "
            f"about {duration(self.seconds / workers)} with {workers} worker{'s' * (workers > 1)}"
        )


def trials_of(items: object) -> list[Trial]:
    """Return `items` as a list of trials.

    Raises
    ------
    UserError
        If one of them is something else.
    """
    trials = list(items)
    for t in trials:
        if not isinstance(t, Trial):
            raise UserError(f"trials (={t!r:.60}): every one must be a Trial")
    return trials


def run_layer():
    """Return the module that runs trials, which imports torch.

    Raises
    ------
    UserError
        If torch and torchvision do not fit together.
    """
    try:
        from . import worker
    except RuntimeError as e:
        pair = "pip uninstall -y torch torchvision, then install the matching pair from one source"
        check("torchvision::" not in str(e), "torch and torchvision", str(e).splitlines()[0], f"are not a pair; {pair}")
        raise
    return worker


class Lab:
    """Runs trials and remembers them.

    Parameters
    ----------
    store : Store or str, optional
        Where records and networks are kept; by default `paths.store_root`.
    run : {"missing", "never"}
        Whether trials without a record are run, or named in an error. With ``never`` only published records count.
    device : str
        ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
    workers : int, optional
        Trials at once; by default as many as there are cores (on a GPU, one). Results do not depend on it.
    threads : int
        Of each worker. Bits repeat for equal numbers only.
    published : Published or mapping of str to dict, optional
        Records that count as known besides the store's, by key.
    quiet : bool, optional
        Shows no progress; by default when not on a terminal or in a notebook.
    client : distributed.Client, optional
        A Dask cluster whose workers see the store's folder under the same name; then `workers` does not matter.
    pack : int, optional
        Trials of one shape that one worker trains together. By default a GPU takes as many as measure fastest, and a CPU
        one after another, which is fastest there. Trained together, losses differ by rounding.
    """

    def __init__(
        self,
        store: Store | str | None = None,
        run: str = "missing",
        device: str = "auto",
        workers: int | None = None,
        threads: int = 1,
        published: Published | Mapping[str, Record] | None = None,
        quiet: bool | None = None,
        client: Any = None,
        pack: int | None = None,
    ) -> None:
        self.mode = choose("run", run, ("missing", "never"))
        self.store = store if isinstance(store, Store) else Store(store)
        choose("device", device.partition(":")[0], ("auto", "cpu", "cuda", "mps"))
        check(workers is None or workers > 0, "workers", workers, "must be 1 or more")
        check(threads > 0, "threads", threads, "must be 1 or more")
        check(pack is None or pack > 0, "pack", pack, "must be 1 or more")
        self.device, self.workers, self.threads, self.quiet = device, workers, threads, quiet
        self.client, self.pack = client, pack
        self.known: dict[str, Record] = {}
        self.published = published.read() if isinstance(published, Published) else published or {}

    # ------------------------------------------------------------------------------------------------- reading

    def record(self, trial: Trial) -> Record | None:
        """Return the record of a trial with a single learning rate, the store's before the published one.

        What is settled is read once.
        """
        key = trial.key
        if key not in self.known:
            own, shared = self.store.get(key) if self.mode != "never" else None, self.published.get(key)
            found = next(filter(settled, (own, shared)), own or shared)
            if not settled(found):
                return found
            self.known[key] = found
        return self.known[key]

    def resolve(self, trial: Trial) -> Trial | None:
        """Return the trial at the learning rate that its search chose, or ``None`` while the search is not complete."""
        found = {t.key: self.record(t) for t in trial.searches()}
        return trial.resolve({k: r["metrics"].get("accuracy", 0.0) for k, r in found.items() if settled(r)})

    def closure(self, trials: Iterable[Trial]) -> list[Trial]:
        """Return every trial whose record stands behind `trials`: their searches and what these chose, as far as known."""
        trials = trials_of(trials)
        both = [t for trial in trials for t in (*trial.searches(), self.resolve(trial)) if t is not None]
        return list(dict.fromkeys(both))

    def missing(self, trials: Iterable[Trial]) -> list[Trial]:
        """Return the trials to run: without a record, or failed; of an open search, its trials and then the chosen one."""
        missing: dict[Trial, None] = {}
        for trial in dict.fromkeys(trials_of(trials)):
            for t in (*trial.searches(), self.resolve(trial) or trial):
                if t.searches() or not settled(self.record(t)):
                    missing[t] = None
        return list(missing)

    def seeds(self, trials: Iterable[Trial]) -> list[int]:
        """Return the seeds for which every one of `trials` is on record."""
        trials = trials_of(trials)
        gone = {t.seed for t in trials if self.missing([t])}
        return sorted({t.seed for t in trials} - gone)

    def plan(self, trials: Iterable[Trial]) -> Plan:
        """Count what `run` would do, without doing it."""
        trials = trials_of(trials)
        missing = self.missing(trials)
        sources = {source_key(t): t for t in missing if self._lacks_network(t)}
        seconds = sum(map(self._seconds, missing)) + sum(map(self._source_seconds, sources.values()))
        open_searches = sum(bool(t.searches()) for t in missing)
        return Plan(len(self.closure(trials)) - (len(missing) - open_searches), list(sources.values()), missing, seconds)

    def _lacks_network(self, trial: Trial) -> bool:
        return isinstance(trial.source, Source) and self.store.lacks(source_key(trial))

    def _seconds(self, trial: Trial) -> float:
        each, recipe = trial.backbone.multiply_adds(trial.target.size) / PACE, trial.recipe
        # activations of frozen layers are computed once
        once = recipe and recipe.augment == "none" and any(getattr(trial.method, name, None) for name in ("freeze", "scope"))
        trained = recipe.images * len(trial.targets) if recipe and not once else 0
        return each * (trained + IMAGES_READ * FORWARD_SHARE)

    def _source_seconds(self, trial: Trial) -> float:
        return trial.backbone.multiply_adds(trial.source.size) / PACE * trial.source.recipe.images

    # ------------------------------------------------------------------------------------------------- running

    def run(self, trials: Iterable[Trial]) -> pd.DataFrame:
        """Return what trials measured, one row each in the order given; run those that are not on record.

        A learning rate that is a tuple is searched first (`Trial.searches`); the row is that of the chosen rate.

        Parameters
        ----------
        trials : iterable of Trial

        Returns
        -------
        DataFrame
            The columns of `Trial.columns`, then ``status``, the metrics, ``seconds`` and ``key``.

        Raises
        ------
        UserError
            In mode ``never``, if a record is missing.
        RefusedError
            If trials ask for what is not there, when all others have been run.
        """
        trials = trials_of(trials)
        missing = self.missing(trials)
        if missing and self.mode == "never":
            raise UserError(f"records (={len(missing)} missing, first: {missing[0].label}): none published and run is never")
        tried: set[Trial] = set()
        refused: list[str] = []
        while todo := [t for t in missing if t not in tried and not t.searches()]:  # searches first; then what they chose
            refused += self._run_all(todo)
            tried.update(todo)
            missing = self.missing(trials)
        if refused:
            raise RefusedError(refused[0].removeprefix(f"{REFUSED}: ") + (f" (and {len(refused) - 1} more)" if refused[1:] else ""))
        return self.table(trials)

    def table(self, trials: Iterable[Trial]) -> pd.DataFrame:
        """Return the rows of trials that are all on record; one whose search failed has the status of the search."""
        rows = []
        for trial in trials_of(trials):
            if found := self.resolve(trial):
                record, status = self.record(found), "{}"
            else:
                record = next((r for t in trial.searches() if (r := self.record(t)) is not None and not settled(r)), None)
                found, status = trial, "{} (in the search)"
            rule = f"is not in {self.store.root}; the workers of a cluster must see that folder under the same name"
            check(record is not None, "record", found.label, rule)
            measured = {"status": status.format(record["status"]), **record["metrics"], "seconds": record["seconds"], "key": found.key}
            rows.append(found.columns() | measured)
        return pd.DataFrame(rows)

    def _run_all(self, trials: list[Trial]) -> list[str]:
        """Run trials of single learning rates, sources before what starts from them; return why some were refused."""
        worker = run_layer()
        self.store.prepare()
        worker.pick_device(self.device)
        worker.prepare(trials, self.threads)
        trials = sorted(trials, key=lambda t: (t.seed, not isinstance(t.method, SourceTask)))
        sources = {source_key(t): t for t in trials if self._lacks_network(t)}
        seconds = {False: self._seconds, True: self._source_seconds}
        total = sum(map(self._seconds, trials)) + sum(map(self._source_seconds, sources.values()))
        workers = self._slots(total)
        progress = Progress(len(sources), len(trials), total, workers, self.quiet)
        limit = self.pack or (PACK if worker.pick_device(self.device).type in PACK_ON else 1)
        refused: list[str] = []
        queue = Queue(trials, self._lacks_network)

        def do(jobs: list[Job]) -> tuple:
            return worker.work, jobs, self.store, self.device, self.threads, self.pack is None

        def done(job: Job, status: str) -> None:
            if status == KILLED:
                worker.record(job, None, status, 0.0, self.store, worker.pick_device(self.device))
            progress.done(job, seconds[job.source](job.trial))
            if status.startswith(REFUSED):
                refused.append(status)

        try:
            while queue:
                with suppress(BrokenProcessPool), self._executor(workers) as executor:
                    run_jobs(queue, executor, workers, limit, do, done, self._alive)
        finally:
            progress.close()
        return refused

    def _slots(self, seconds: float) -> int:
        """Return how many jobs to run at once, for so much work."""
        if self.client is not None:
            return cluster_slots(self.client)
        return self.workers or (1 if seconds < WORTH_A_POOL else run_layer().default_workers(self.device, self.threads))

    def _alive(self) -> bool:
        return self.client is None or self.client.status == "running"

    def _executor(self, workers: int) -> Executor:
        if self.client is not None:
            return cluster_executor(self.client)
        worker = run_layer()
        return Here() if workers == 1 else local_pool(workers, worker.begin, worker.gpus(self.device))
