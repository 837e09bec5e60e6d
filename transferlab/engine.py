"""Get jobs done: one after another here, side by side in processes, or on a Dask cluster. Nothing here imports torch.

A job makes a source network or runs a trial; jobs of one shape may go out as a pack, to be trained together. All three
ways are one loop over an executor; what differs is who executes.
"""

import multiprocessing
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tqdm.auto import tqdm

from .errors import UserError
from .specs import Trial, source_key, source_shape

BUSY = "busy"  # what a job returns that somebody else is doing
POLL = 0.5  # seconds after which a busy job is asked for again
PULSE = 2.0  # seconds after which an executor that says nothing is looked at
CONNECT = 10  # seconds that a scheduler has to answer
RETRIES = 2  # of a pack whose worker died
KILLED = "failed: its worker was killed"
KILLS = 3  # of a job's workers before it is given up; after two it has run alone
PATIENCE = 5, 20  # times that workers may be killed in a row: before the first job is done, and later
GONE = "the scheduler is gone; what is on record stays, and the same command goes on"
GPU = "GPU"  # the resource that a Dask worker declares for each of its GPUs


@dataclass(frozen=True)
class Job:
    """A trial to run, or the source network that trials of its key wait for."""

    trial: Trial
    source: bool = False

    @property
    def key(self) -> str:
        """The key of the record or of the network that comes of it."""
        return source_key(self.trial) if self.source else self.trial.key

    @cached_property
    def shape(self) -> str:
        """What jobs have in common that can train together."""
        return source_shape(self.trial) if self.source else self.trial.shape


class Queue:
    """Jobs in order: a source when its first trial comes up, then at once what waited for it."""

    def __init__(self, trials: Iterable[Trial], lacks_network: Callable[[Trial], bool]) -> None:
        self.ready: deque[Job] = deque()
        self.waiting: dict[str, list[Job]] = {}
        self.busy: list[Job] = []
        self.kills: Counter[Job] = Counter()
        self.alone: set[Job] = set()  # those that may kill what runs beside them
        self.patience = PATIENCE[0]
        for trial in trials:
            if not lacks_network(trial):
                self.ready.append(Job(trial))
                continue
            key = source_key(trial)
            if key not in self.waiting:
                self.ready.append(Job(trial, source=True))
            self.waiting.setdefault(key, []).append(Job(trial))

    def __bool__(self) -> bool:
        return bool(self.ready or self.busy)

    def take(self, limit: int, slots: int = 1) -> list[Job]:
        """Return the next job, and up to `limit` in all of those behind it that have its shape, shared out over free `slots`."""
        if limit == 1 or self.alone:
            return [self.ready.popleft()]
        same = [j for j in self.ready if j.shape == self.ready[0].shape]
        pack = same[: min(limit, -(-len(same) // slots))]
        taken = set(pack)
        self.ready = deque(j for j in self.ready if j not in taken)
        return pack

    def finish(self, jobs: Collection[Job]) -> None:
        """Let the trials that waited for sources go first, so that seeds are completed one after another."""
        self.alone.difference_update(jobs)
        freed = [waiting for job in jobs if job.source for waiting in self.waiting.pop(source_key(job.trial))]
        self.ready.extendleft(reversed(freed))

    def take_back(self, packs: Iterable[list[Job]], kills: int = 1) -> None:
        """Let jobs whose worker was killed go first, and alone if that happened to them before."""
        jobs = [job for pack in packs for job in pack]
        self.kills.update(jobs * kills)
        self.alone |= {job for job in jobs if self.kills[job] > 1}
        self.ready.extendleft(reversed(jobs))
        self.patience -= 1

    def wake(self) -> None:
        """Ask again for what others were doing."""
        self.ready.extend(self.busy)
        self.busy.clear()


class Here(Executor):
    """Executes in this process, at once."""

    def submit(self, function: Callable, /, *arguments: Any, **named: Any) -> Future:
        future: Future = Future()
        try:
            future.set_result(function(*arguments, **named))
        except Exception as e:
            future.set_exception(e)
        return future


def local_pool(workers: int, begin: Callable[[Any, int], None], gpus: int) -> ProcessPoolExecutor:
    """Return a pool of processes on this machine, each of which first calls `begin` with a shared counter and `gpus`."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, begin, (context.Value("i", 0), gpus))


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Connect to a Dask cluster by the address of its scheduler; yields its client, or ``None`` without an address.

    Raises
    ------
    UserError
        If ``distributed`` is not installed, or the scheduler does not answer.
    """
    if address is None:
        yield None
        return
    try:
        from distributed import Client
    except ImportError as e:
        raise UserError(f"cluster (={address}): needs Dask; pip install 'transferlab[cluster]'") from e
    try:
        client = Client(address, timeout=CONNECT)
    except (OSError, ValueError) as e:
        raise UserError(f"cluster (={address}): the scheduler does not answer ({' '.join(str(e).split())[:80]})") from e
    try:
        yield client
    finally:
        with suppress(OSError, TimeoutError):
            client.close(timeout=CONNECT)


def cluster_workers(client: Any) -> list[dict]:
    """Return what a cluster's scheduler knows of its workers."""
    try:
        return list(client.scheduler_info(n_workers=-1)["workers"].values())
    except (KeyError, OSError) as e:
        raise UserError(f"cluster (={getattr(client.scheduler, 'address', client.status)}): {GONE}") from e


def cluster_slots(client: Any) -> int:
    """Return how many packs a cluster works on at once: one on each GPU that its workers declare, else one on each worker.

    Raises
    ------
    UserError
        If the cluster has no workers, or its scheduler is gone.
    """
    workers = cluster_workers(client)
    if not workers:
        raise UserError(f"cluster (={client.scheduler.address}): has no workers; start some with: dask worker ADDRESS --nthreads 1")
    return int(sum(w["resources"].get(GPU, 0) for w in workers)) or len(workers)


def cluster_executor(client: Any) -> Executor:
    """Return an executor over a cluster: a pack whose worker dies is run again elsewhere, and a GPU has one pack at a time."""
    workers = cluster_workers(client)
    needs = {"resources": {GPU: 1}} if any(GPU in w["resources"] for w in workers) else {}
    return client.get_executor(pure=False, retries=RETRIES, **needs)


def run_jobs(
    queue: Queue,
    executor: Executor,
    slots: int,
    limit: int,
    do: Callable[[list[Job]], tuple],
    done: Callable[[Job, str], None],
    alive: Callable[[], bool] = lambda: True,
) -> None:
    """Run every job of a queue.

    Parameters
    ----------
    queue : Queue
    executor : Executor
    slots : int
        Packs at once.
    limit : int
        Jobs of one shape that make a pack, at most.
    do : callable
        From a pack to what the executor is to call: a function and its arguments. It returns the jobs' statuses.
    done : callable
        Called with each job and its status.
    alive : callable
        Whether the executor can still answer; asked while it does not.

    Raises
    ------
    BrokenProcessPool
        If a worker process was killed: the queue has back what ran, and another executor may go on.
    UserError
        If that happens again and again, or the scheduler of a cluster is gone.
    """
    running: dict[Future, list[Job]] = {}
    pack: list[Job] = []  # taken and not yet running
    before = set(multiprocessing.active_children())
    try:
        while queue or running:
            while queue.ready and len(running) < (1 if queue.alone else slots):
                pack = queue.take(limit, slots - len(running))
                lost = queue.kills[pack[0]] >= KILLS
                running[Here().submit(lambda: [KILLED]) if lost else executor.submit(*do(pack))] = pack
                pack = []
            if not running:
                time.sleep(POLL)
            finished, _ = wait(running, timeout=POLL if queue.busy else PULSE, return_when=FIRST_COMPLETED)
            if not finished and not alive():
                raise CancelledError
            for future in sorted(finished, key=lambda f: not f.cancelled() and isinstance(f.exception(), BrokenProcessPool)):
                try:
                    found = dict(zip(running[future], future.result(), strict=True))
                except Exception as e:
                    if type(e).__name__ != "KilledWorker":  # Dask's, which has tried on several workers
                        raise
                    queue.take_back([running.pop(future)], RETRIES)
                    continue
                del running[future]
                queue.busy += [job for job, status in found.items() if status == BUSY]
                ended = {job: status for job, status in found.items() if status != BUSY}
                queue.finish(ended)
                for job, status in ended.items():
                    queue.patience = queue.patience if status == KILLED else PATIENCE[1]
                    done(job, status)
            if len(running) < slots and not queue.ready and queue.busy and not finished:
                queue.wake()
    except BrokenProcessPool as e:
        queue.take_back([pack, *running.values()])
        if queue.patience < 0:
            why = "one after another was killed, for lack of memory perhaps; the same command goes on"
            raise UserError(f"workers (={slots}): {why}") from e
        raise
    except CancelledError as e:
        raise UserError(f"cluster (={slots} workers): {GONE}") from e
    except BaseException:
        for future in running:
            future.cancel()
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise


class Progress:
    """What is done, what is left and the time it should take, on a terminal or in a notebook; elsewhere nothing.

    Parameters
    ----------
    sources, runs : int
        Jobs of each kind.
    seconds : float
        Of work, as estimated.
    workers : int
    quiet : bool, optional
        By default unless somebody looks.
    """

    def __init__(self, sources: int, runs: int, seconds: float, workers: int, quiet: bool | None) -> None:
        self.total, self.made = {True: sources, False: runs}, {True: 0, False: 0}
        self.seconds, self.workers, self.began, self.passed = seconds, workers, time.monotonic(), 0.0
        silent = quiet if quiet is not None else not (sys.stderr.isatty() or _interactive_notebook())
        self.bar = tqdm(total=round(seconds, 1), disable=silent, bar_format="{desc} |{bar:20}| {percentage:3.0f}%")
        self._show(0.0)

    def done(self, job: Job, seconds: float) -> None:
        """Note that a job is done, whose work was estimated at `seconds`."""
        self.made[job.source] += 1
        self._show(seconds)

    def _show(self, seconds: float) -> None:
        self.passed += seconds
        took = time.monotonic() - self.began
        left = took * (self.seconds / self.passed - 1) if self.passed else self.seconds / self.workers
        counts = f"sources {self.made[True]}/{self.total[True]}, runs {self.made[False]}/{self.total[False]}"
        self.bar.set_description_str(f"{counts}, {duration(max(0.0, left))} left", refresh=False)
        self.bar.update(min(seconds, self.bar.total - self.bar.n))

    def close(self) -> None:
        """Take the bar down."""
        self.bar.close()


def duration(seconds: float) -> str:
    """Return a time as a person would say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def cpu_workers(threads: int) -> int:
    """Return how many processes of so many threads the cores that are ours can run at once."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // threads)


def _interactive_notebook() -> bool:
    """Whether a person looks at a notebook's output as it comes (and no book is being built from it)."""
    return "ipykernel" in sys.modules and "TRANSFERLAB_BOOK" not in os.environ
