"""The one door between notebooks and the machine: `Lab.run` turns trials into a table of what they measured.

Trials that are on record, in the store or published, are read; the others are run. The run layer (torch) is imported
only then.
"""

import gc
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from .errors import RefusedError, UserError, check, choose
from .run.executors import KILLED, WAIT, Cluster, Here, cluster_slots, leave_if_read, local_pool, run_jobs
from .run.progress import Progress, duration
from .run.queue import Asked, Job, Queue
from .specs import Artefact, Trained, Trial
from .specs.serial import above_zero, combinations, filled
from .store import OK, REFUSED, Published, Record, Store, settled

WORTH_A_POOL = 20.0  # seconds of work below which one process does it all
PACK, PACK_ON = 16, ("cuda",)  # trials of one shape that are handed out at once, and where that can pay
AGREE = 0.1  # accuracy by which a training that is run again may differ from what another processor put on record


@dataclass(frozen=True)
class Plan:
    """What a call of `Lab.run` would do.

    Attributes
    ----------
    known : int
        Trials on record.
    sources : list of Job
        Networks that have to be trained first for others.
    runs : list of Trial
        That are missing. Where something is searched, the runs after the search are counted too.
    seconds : float
        Of work, on one worker.
    """

    known: int
    sources: list[Job]
    runs: list[Trial]
    seconds: float

    def text(self, workers: int) -> str:
        """Return the plan as one line."""
        counts = f"{len(self.sources)} sources to pretrain, {len(self.runs)} runs to make, {self.known} on record"
        return f"{counts}; about {duration(self.seconds / workers)} with {workers} worker{'s' * (workers > 1)}"


def trials_of(items: object) -> list[Trial]:
    """Return `items` as a list of trials.

    Raises
    ------
    UserError
        If one of them is something else.
    """
    trials = list(items)
    if odd := [t for t in trials if not isinstance(t, Trial)]:
        raise UserError(f"trials (={odd[0]!r:.60}): every one must be a Trial")
    return trials


def run_layer() -> tuple:
    """Return the modules that know devices and run jobs, which import torch."""
    from .run import devices, work

    return devices, work


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
        Trials of one shape that one worker trains together. By default a GPU takes as many as measure fastest, and a
        CPU one after another, which is fastest there. Trained together, losses differ by rounding.
    wait : float
        Seconds that a cluster may be without workers: these may stand in a queue, and come and go.
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
        wait: float = WAIT,
    ) -> None:
        self.mode = choose("run", run, ("missing", "never"))
        self.store = store if isinstance(store, Store) else Store(store)
        choose("device", device.partition(":")[0], ("auto", "cpu", "cuda", "mps"))
        self.device, self.workers, self.threads, self.quiet = device, workers, threads, quiet
        self.client, self.pack, self.wait = client, pack, wait
        above_zero(self, "workers", "threads", "pack")
        self.known: dict[str, Record] = {}
        self.chosen: dict[Trial, list[Asked]] = {}  # what stands behind trials whose search is complete
        self.tried: dict[str, str] = {}  # what came of trials that were run
        self.published = published.read() if isinstance(published, Published) else published or {}

    # ------------------------------------------------------------------------------------------------- reading

    def record(self, trial: Trial, columns: Iterable[str] = ()) -> Record | None:
        """Return the record of a trial in which nothing is open, the store's before the published one; both, where one
        lacks columns.

        What is settled is read once.
        """
        key = trial.key
        if settled(self.known.get(key), columns):
            return self.known[key]
        own, shared = self.store.get(key) if self.mode != "never" else None, self.published.get(key)
        found = next((r for r in (own, shared) if settled(r)), own or shared)
        if not settled(found):
            return found
        if settled(own) and settled(shared) and own["status"] == shared["status"] == OK:
            found = own | {"metrics": shared["metrics"] | own["metrics"]}
        self.known[key] = found
        return found

    def resolve(self, trial: Trial) -> Trial | None:
        """Return the trial with what its search chose, or ``None`` while the search is not complete."""
        *_, (found, _) = self._behind(trial)
        return None if found.open else found

    def _stage(self, trial: Trial) -> Trial | None:
        """Return the trial with what the first stage of its search chose."""
        asked = (chosen_by := trial.target.asks.chosen_by,)
        tried = ((t.key, self.record(t, asked)) for t in trial.searches())
        return trial.resolve({k: r["metrics"].get(chosen_by, 0.0) for k, r in tried if settled(r, asked)})

    def _behind(self, trial: Trial) -> list[Asked]:
        """Return what stands behind a trial, with the columns that are asked of it: searches, of a chain's first step
        first, and what they chose, or itself.
        """
        if not trial.open:
            return [(trial, trial.asked)]
        if trial in self.chosen:
            return self.chosen[trial]
        before, now = [], trial
        if trial.before and trial.before.open:
            before, source = self._behind(trial.before.training)[:-1], self.resolve(trial.before)
            if source is None:
                return [*before, (trial, trial.asked)]
            now = replace(trial, source=source)
        while now.options:
            before += [(t, (t.target.asks.chosen_by,)) for t in now.searches()]
            if not (found := self._stage(now)):
                return [*before, (now, now.asked)]
            now = found
        return self.chosen.setdefault(trial, [*before, (now, now.asked)])

    def _all_behind(self, trials: Iterable[Trial]) -> list[Asked]:
        return [asked for trial in dict.fromkeys(trials_of(trials)) for asked in self._behind(trial)]

    def closure(self, trials: Iterable[Trial]) -> list[Trial]:
        """Return every trial whose record stands behind `trials`: searches and what these chose, as far as known."""
        return list({t.key: t for t, _ in self._all_behind(trials) if not t.open}.values())

    def missing(self, trials: Iterable[Trial]) -> list[Trial]:
        """Return the trials to run: without what is asked of their record; of a search, its trials, then the chosen."""
        return [trial for trial, _ in self._missing(self._all_behind(trials))]

    def _missing(self, behind: list[Asked], columns: tuple[str, ...] = ()) -> list[Asked]:
        missing: dict[Trial, tuple[str, ...]] = {}
        for t, asked in behind:
            wanted = (*asked, *columns) if columns and asked != (t.target.asks.chosen_by,) else asked
            if not self._known(t, wanted):
                missing[t] = tuple(dict.fromkeys((*missing[t], *wanted))) if t in missing else wanted
        return list(missing.items())

    def _known(self, trial: Trial, columns: tuple[str, ...]) -> bool:
        return not trial.open and settled(self.record(trial, columns), columns)

    def seeds(self, trials: Iterable[Trial]) -> list[int]:
        """Return the seeds for which every one of `trials` is on record."""
        trials = trials_of(trials)
        gone = {t.seed for t in trials if not all(self._known(*asked) for asked in self._behind(t))}
        return sorted({t.seed for t in trials} - gone)

    def plan(self, trials: Iterable[Trial]) -> Plan:
        """Count what `run` would do, without doing it."""
        with _uncollected():
            behind = self._all_behind(trials)
            missing = self._missing(behind)
            first = [job for job in Queue(missing, self.store.lacks).jobs.values() if job.trial is None]
        seconds = sum(t.cost() for t, _ in missing) + sum(job.training.cost() for job in first)
        known = {t.key for t, _ in behind if not t.open} - {t.key for t, _ in missing}
        return Plan(len(known), [job for job in first if job.training.trains], [t for t, _ in missing], seconds)

    # ------------------------------------------------------------------------------------------------- running

    def run(
        self,
        trials: Iterable[Trial],
        columns: tuple[str, ...] = (),
        rules: Mapping[str, str] | None = None,
        keep: bool = False,
    ) -> pd.DataFrame:
        """Return what trials measured, one row each in the order given; run those that are not on record.

        What is `OneOf` several values is searched first (`Trial.searches`); the row is that of the chosen one.

        Parameters
        ----------
        trials : iterable of Trial
        columns : tuple of str
            Metrics that every record must have besides those of the trials' measures, such as ``log_loss``: a record
            that lacks one is made again, and must agree.
        rules : mapping of str to str, optional
            Hash of the rule of each claim that the trials are run for: part of the provenance of what is run.
        keep : bool
            Keep the networks that trials leave (`Trained`), if nothing is open; one that is gone is trained again.

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
        networks = [Trained(t) for t in trials if keep and t.trains and not t.open]
        missing = self._missing(self._all_behind(trials), columns)
        missing += [(n.trial, n.trial.asked) for n in networks if self.store.lacks(n) and n.trial not in dict(missing)]
        if missing and self.mode == "never":
            first = missing[0][0].label
            raise UserError(f"records (={len(missing)} missing, first: {first}): none published and run is never")
        tried: set[Trial] = set()
        refused: list[str] = []
        while todo := [(t, c) for t, c in missing if t not in tried and not t.open]:  # then what was chosen
            later = {made.key: made for t in trials for made in _starts(t)} | {n.key: n for n in networks}
            refused += self._run_all(todo, later.values(), rules)
            tried.update(t for t, _ in todo)
            missing = self._missing(self._all_behind(trials), columns)
        if refused:
            more = f" (and {len(refused) - 1} more)" if refused[1:] else ""
            raise RefusedError(refused[0].removeprefix(f"{REFUSED}: ") + more)
        return self.table(trials)

    def table(self, trials: Iterable[Trial]) -> pd.DataFrame:
        """Return the rows of trials that are all on record; one whose search failed has the status of the search."""
        rows = []
        for trial in trials_of(trials):
            if found := self.resolve(trial):
                record, status = self.record(found), "{}"
            else:
                tried = (self.record(t) for t, _ in self._behind(trial)[:-1])
                record = next((r for r in tried if r is not None and not settled(r)), None)
                found, status = trial, "{} (in the search)"
            rule = f"is not in {self.store.root}; the workers of a cluster must see that folder under the same name"
            check(record is not None, "record", found.label, rule)
            if not settled(record, found.asked):
                record = record | {"status": self.tried.get(found.key, record["status"])}
            about, measured = found.columns(), record["metrics"]
            twice = about.keys() & {*measured, "status", "seconds", "key"}
            check(not twice, "columns", sorted(twice), "name both a setting and a metric")
            head, tail = {"status": status.format(record["status"])}, {"seconds": record["seconds"], "key": found.key}
            rows.append(about | head | measured | tail)
        return pd.DataFrame(rows)

    def _run_all(self, asked: list[Asked], later: Collection[Artefact], rules: Mapping[str, str] | None) -> list[str]:
        """Run trials in which nothing is open, and first what they need; return why some were refused.

        Networks that are needed `later` are kept.
        """
        leave_if_read()
        devices, work = run_layer()
        self.store.prepare()
        where = devices.pick_device(self.device)
        read = (p for t, _ in asked for p in (t.target, *t.method.reads(t), *_targets(t, self.store.lacks)))
        work.decode(sorted({(p.images, p.size) for p in read if hasattr(p, "images")}, key=str), self.threads)
        asked = sorted(asked, key=lambda one: (one[0].seed, one[0].recipe is not None))
        before = {t.key: self.record(t) for t, _ in asked}
        queue = Queue(asked, self.store.lacks, later)
        jobs = list(queue.jobs.values())
        total = sum(job.training.cost() for job in jobs)
        workers, trials = self._slots(total), sum(job.trial is not None for job in jobs)
        progress = Progress(len(jobs) - trials, trials, total, workers, self.quiet)
        limit = self.pack or (PACK if where.type in PACK_ON else 1)

        def do(jobs: list[Job]) -> tuple:
            return work.work, jobs, self.store, self.device, self.threads, self.pack is None, rules

        def done(job: Job, status: str) -> None:
            if status == KILLED:
                work.keep(job, None, status, 0.0, work.Context(where, self.store))
            progress.done(job, job.training.cost())
            self.tried[job.key] = status

        def places() -> int:
            return workers if self.client is None else cluster_slots(self.client)

        try:
            while queue:
                with suppress(BrokenProcessPool), self._executor(workers) as executor:
                    run_jobs(queue, executor, places, limit, do, done)
        finally:
            progress.bar.close()
        for trial, _ in asked:
            self.known.pop(trial.key, None)
            self._agrees(trial, before[trial.key])
        return [status for job in jobs if (status := self.tried[job.key]).startswith(REFUSED)]

    def _agrees(self, trial: Trial, before: Record | None) -> None:
        """Check that a training that was run again, for want of a column, gives what is on record.

        Raises
        ------
        UserError
            If its score is another one.
        """
        now = self.store.get(trial.key)
        task = trial.target.asks
        for name in (task.score, task.chosen_by) if settled(before) and settled(now) else ():
            was, is_now = (r["metrics"].get(name) for r in (before, now))
            near = was is None or is_now is None or abs(was - is_now) <= AGREE
            rule = f"{was} is on record; if the code has changed, raise a version"
            check(near, f"{name} of {trial.label}", is_now, rule)

    def _slots(self, seconds: float) -> int:
        """Return how many jobs to run at once, for so much work."""
        if self.client is not None:
            return max(1, cluster_slots(self.client))
        few = seconds < WORTH_A_POOL
        return self.workers or (1 if few else run_layer()[0].default_workers(self.device, self.threads))

    def _executor(self, workers: int) -> Executor:
        if self.client is not None:
            return Cluster(self.client, self.wait)
        devices, _ = run_layer()
        return Here() if workers == 1 else local_pool(workers, devices.begin, devices.gpus(self.device))


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector from going again and again through many values that all stay."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _starts(trial: Trial) -> Iterator[Artefact]:
    """Yield the networks that a trial, or its search, may start from, whatever searches before it choose."""
    options = trial.source.searched if trial.source else {}
    if not options and not trial.before:
        return
    seeds = {trial.seed}.union(*(of.seeds for of in trial.options.values()))
    for at, choice in itertools.product(map(trial.at_seed, sorted(seeds)), combinations(options)):
        one = replace(at, source=filled(at.source, choice))
        yield one.start
        if one.before:
            yield from _starts(one.before)


def _targets(trial: Trial, lacks: Callable[[Artefact], bool]) -> list[Any]:
    """Return a chain's targets before, and its source if that is still to be trained, or a measure asks it again."""
    if trial.before:
        return [trial.before.target, *_targets(trial.before, lacks)]
    asked = any(measure.asks_source for measure in trial.measures)
    return [trial.source] if trial.source and (asked or lacks(trial.start)) else []
