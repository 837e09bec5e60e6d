"""Get jobs done: one after another here, side by side in processes, or on a Dask cluster. Nothing here imports torch.

All three ways are one loop over an executor; what differs is who executes.
"""

import math
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from typing import Any

from ..errors import UserError
from .queue import PATIENCE, Job, Queue

BUSY = "busy"  # what a job returns that somebody else is doing
POLL = 0.5  # seconds after which a busy job is asked for again
PULSE = 2.0  # seconds after which an executor that says nothing is looked at
WAIT = 300.0  # seconds that a cluster may be without workers
CONNECT = 10  # seconds that a scheduler has to answer
RETRIES = 2  # of a pack whose worker died
KILLED = "failed: its worker was killed"
KILLS = 3  # of a job's workers before it is given up; after two it has run alone
GONE = "the scheduler is gone; what is on record stays, and the same command goes on"
ENDED = (
    'ended by themselves: each reads the script that starts it, which must run trials below if __name__ == "__main__":'
    ", and must find what trials are made of in a module, not in a notebook; or take one worker"
)
GPU = "GPU"  # the resource that a Dask worker declares for each of its GPUs


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
    """Return a pool of processes here, each of which first calls `begin` with a shared counter and `gpus`."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, begin, (context.Value("i", 0), gpus))


def leave_if_read() -> None:
    """Leave where a starting worker process reads the script that started it: `run_jobs` says why, in the first one."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(1)


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
    except (OSError, ValueError, TypeError) as e:
        raise UserError(f"cluster (={address}): the scheduler does not answer ({' '.join(str(e).split())[:80]})") from e
    try:
        yield client
    finally:
        with suppress(OSError, TimeoutError):
            client.close(timeout=CONNECT)


def cluster_workers(client: Any) -> list[dict]:
    """Return what a cluster's scheduler knows of its workers."""
    try:  # not `client.scheduler_info`, which now and then returns what was asked without workers meanwhile
        return list(client.sync(client.scheduler.identity, n_workers=-1)["workers"].values())
    except (AttributeError, KeyError, RuntimeError, OSError) as e:
        raise UserError(f"cluster (={getattr(client.scheduler, 'address', client.status)}): {GONE}") from e


def cluster_slots(client: Any) -> int:
    """Return how many packs a cluster works on at once now: one on each GPU that its workers declare, else one on each
    worker; none while it has no workers.

    Raises
    ------
    UserError
        If its scheduler is gone.
    """
    workers = cluster_workers(client)
    return int(sum(w["resources"].get(GPU, 0) for w in workers)) or len(workers)


class Cluster(Executor):
    """Executes on a cluster: a pack whose worker dies is run again elsewhere, and a GPU has one pack at a time.

    Workers come and go: what they declare is asked for with every pack, and while there are none, it waits.

    Parameters
    ----------
    client : distributed.Client
    wait : float
        Seconds that the cluster may be without workers.
    """

    def __init__(self, client: Any, wait: float) -> None:
        self.client, self.wait, self.since = client, wait, math.inf

    def _workers(self) -> list[dict]:
        if found := cluster_workers(self.client):
            self.since = math.inf
        return found

    def submit(self, function: Callable, /, *arguments: Any, **named: Any) -> Future:
        needs = {"resources": {GPU: 1}} if any(GPU in w["resources"] for w in self._workers()) else {}
        return self.client.get_executor(pure=False, retries=RETRIES, **needs).submit(function, *arguments, **named)

    def alive(self) -> bool:
        """Whether its scheduler answers.

        Raises
        ------
        UserError
            If it has had no workers for too long.
        """
        if self.client.status != "running":
            return False
        now, name = time.monotonic(), f"cluster (={self.client.scheduler.address})"
        if not self._workers() and self.since == math.inf:
            self.since = now
            print(f"{name}: has no workers now; waiting for {self.wait:.0f} s", file=sys.stderr)
        if now - self.since > self.wait:
            why = "start some with: dask worker ADDRESS --nthreads 1; or wait longer, with --wait SECONDS"
            raise UserError(f"{name}: has had no workers for {self.wait:.0f} s; {why}; the same command goes on")
        return True


def run_jobs(queue: Queue, executor: Executor, places: Callable, limit: int, do: Callable, done: Callable):
    """Run every job of a queue.

    Parameters
    ----------
    queue : Queue
    executor : Executor
        A `Cluster` is looked at while it does not answer.
    places : callable
        Returns for how many packs there is a worker now. A `Cluster` has twice as many, one at least: by what waits
        for a worker it knows that it may have more.
    limit : int
        Jobs of one shape that make a pack, at most.
    do : callable
        From a pack to what the executor is to call: a function and its arguments. It returns the jobs' statuses.
    done : callable
        Called with each job and its status.

    Raises
    ------
    BrokenProcessPool
        If a worker process was killed: the queue has back what ran, and another executor may go on.
    UserError
        If that happens again and again, worker processes end by themselves, or a cluster is gone.
    """
    running: dict[Future, list[Job]] = {}
    pack: list[Job] = []  # taken and not yet running
    before, ours = set(multiprocessing.active_children()), set()
    try:
        while queue or running:
            slots = now = places()
            if isinstance(executor, Cluster):
                slots += max(1, now)
            while queue.ready and len(running) < (1 if queue.alone else slots):
                pack = queue.take(limit, max(1, now - len(running)))
                lost = queue.kills[pack[0]] >= KILLS
                running[Here().submit(lambda: [KILLED]) if lost else executor.submit(*do(pack))] = pack
                pack = []
            ours |= set(multiprocessing.active_children()) - before
            if not running:
                time.sleep(POLL)
            finished, _ = wait(running, timeout=POLL if queue.busy else PULSE, return_when=FIRST_COMPLETED)
            if not finished and isinstance(executor, Cluster) and not executor.alive():
                raise CancelledError
            for future in sorted(finished, key=_broken):
                try:
                    found = dict(zip(running[future], future.result(), strict=True))
                except Exception as e:
                    if type(e).__name__ != "KilledWorker":  # Dask's, which has tried on several workers
                        raise
                    queue.requeue([running.pop(future)], RETRIES)
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
        queue.requeue([pack, *running.values()])
        if any((process.exitcode or 0) > 0 for process in ours):
            raise UserError(f"workers (={slots}): {ENDED}") from None
        if queue.patience < 0:
            why = "one after another was killed, for lack of memory perhaps; the same command goes on"
            raise UserError(f"workers (={slots}): {why}") from e
        raise
    except CancelledError as e:
        raise UserError(f"cluster (={now} workers): {GONE}") from e
    except BaseException:
        for future in running:
            future.cancel()
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise


def _broken(future: Future) -> bool:
    return not future.cancelled() and isinstance(future.exception(), BrokenProcessPool)
