"""Get jobs done: one after another here, side by side in processes, or on a Dask cluster. Nothing here imports torch.

A job makes a source network or runs a trial. All three ways are one loop over an executor; what differs is who executes.
"""

import multiprocessing
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from tqdm.auto import tqdm

from .errors import UserError
from .specs import Trial, source_key

BUSY = "busy"  # what a job returns that somebody else is doing
POLL = 0.5  # seconds after which a busy job is asked for again


@dataclass(frozen=True)
class Job:
    """A trial to run, or the source network that trials of its key wait for."""

    trial: Trial
    source: bool = False


class Queue:
    """Jobs in order: a source when its first trial comes up, then at once what waited for it."""

    def __init__(self, trials: Iterable[Trial], lacks_network: Callable[[Trial], bool]) -> None:
        self.ready: deque[Job] = deque()
        self.waiting: dict[str, list[Job]] = {}
        self.busy: list[Job] = []
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

    def finish(self, job: Job) -> None:
        """Let the trials that waited for a source go first, so that seeds are completed one after another."""
        if job.source:
            self.ready.extendleft(reversed(self.waiting.pop(source_key(job.trial))))

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


def run_jobs(queue: Queue, executor: Executor, slots: int, do: Callable[[Job], tuple], done: Callable[[Job, str], None]) -> None:
    """Run every job of a queue.

    Parameters
    ----------
    queue : Queue
    executor : Executor
    slots : int
        Jobs at once.
    do : callable
        From a job to what the executor is to call: a function and its arguments.
    done : callable
        Called with each job and the status that it returned.

    Raises
    ------
    UserError
        If a worker process was killed.
    """
    running: dict[Future, Job] = {}
    try:
        while queue or running:
            while queue.ready and len(running) < slots:
                job = queue.ready.popleft()
                running[executor.submit(*do(job))] = job
            if not running:
                time.sleep(POLL)
            finished, _ = wait(running, timeout=POLL if queue.busy else None, return_when=FIRST_COMPLETED)
            for future in finished:
                job, status = running.pop(future), future.result()
                if status == BUSY:
                    queue.busy.append(job)
                    continue
                queue.finish(job)
                done(job, status)
            if len(running) < slots and not queue.ready and queue.busy and not finished:
                queue.wake()
    except BrokenProcessPool as e:
        raise UserError(f"workers (={slots}): one was killed, for lack of memory perhaps; the same command goes on") from e
    except BaseException:
        for future in running:
            future.cancel()
        for process in multiprocessing.active_children():
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


def _interactive_notebook() -> bool:
    """Whether a person looks at a notebook's output as it comes (and no book is being built from it)."""
    return "ipykernel" in sys.modules and "TRANSFERLAB_BOOK" not in os.environ
