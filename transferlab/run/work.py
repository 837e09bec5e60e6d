"""Do jobs of one shape: prepare them, train them together or alone, measure, and keep what is wanted. It knows no
method.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from ..data.images import load
from ..errors import DiskError, UserError, line
from ..measure.metrics import scores_of
from ..nets.build import head_of
from ..specs import Pretrained
from ..specs.serial import canonical, digest
from ..store import DIVERGED, FAILED, OK, REFUSED, RETRYABLE, Store
from ..train.checkpoint import Checkpoint
from ..train.fit import Diverged, Fitted, finite, fit_together
from ..train.frozen import shortened
from ..train.run import Run
from .context import Context, curve
from .devices import pick_device, provenance, threads_set
from .executors import BUSY
from .packs import PackNotes
from .queue import Job

ONE_AT_A_TIME = threading.Lock()  # random states and numbers of threads belong to the process
LAST_STEPS = 20  # steps whose mean loss is that of the end of training


class Unavailable(Exception):
    """What a job needs was tried in vain; the text is its status."""


def decode(images: list[tuple], threads: int) -> None:
    """Decode image sets, at the sizes that are given with them, so that workers find them in the cache."""
    with threads_set(threads):
        for one, size in images:
            load(one, size)


def work(
    jobs: list[Job],
    store: Store,
    device: str,
    threads: int,
    tune: bool = False,
    rules: Mapping[str, str] | None = None,
) -> list[str]:
    """Do jobs of one shape, but for those that somebody else does or has done, and return what came of each.

    Parameters
    ----------
    tune : bool
        Find out how many train fastest together; otherwise all do.
    rules : mapping of str to str, optional
        Hash of the rule of each claim that this is for, for the provenance.

    Returns
    -------
    list of str
        Statuses as in `Store.put`, or `executors.BUSY`.

    Raises
    ------
    UserError
        If a file cannot be written.
    """
    with ONE_AT_A_TIME, ExitStack() as held, threads_set(threads):
        mine = [job for job in jobs if held.enter_context(store.claim(job.key))]
        found = {job: store.status(job.wanted, job.columns) for job in mine}
        left = [job for job in mine if found[job] is None]
        found |= run_jobs_here(left, Context(pick_device(device), store, rules=rules), tune)
        return [found.get(job, BUSY) for job in jobs]


def attempt(action: Callable[[], Any]) -> tuple[Any, str]:
    """Return what an action returns, and ``ok`` or why it returned nothing: it diverged, was refused, or ran out of
    memory, say.
    """
    try:
        return action(), OK
    except Diverged as e:
        return None, f"{DIVERGED}: {e}"
    except Unavailable as e:
        return None, str(e) if ": source: " in str(e) else str(e).replace(": ", ": source: ", 1)
    except DiskError:
        raise
    except UserError as e:
        return None, f"{REFUSED}: {e}"
    except Exception as e:
        return None, f"{FAILED}: {line(e)}"


def run_jobs_here(jobs: list[Job], context: Context, tune: bool) -> dict[Job, str]:
    """Do jobs of one shape, and return what came of each."""
    done: dict[Job, str] = {}
    while left := [job for job in jobs if job not in done]:
        done |= run_some(left, context, tune)
    return done


def run_some(jobs: list[Job], context: Context, tune: bool) -> dict[Job, str]:
    """Do as many of the first jobs as train together, or as the device takes, and return what came of each."""
    done: dict[Job, str] = {}
    runs: dict[Job, Run] = {}
    spent: dict[Job, float] = {}
    notes = PackNotes(context.store, jobs[0].shape, context.device) if tune and len(jobs) > 1 else None
    for job in jobs[: notes and notes.known]:
        began = time.perf_counter()
        ready, status = attempt(lambda job=job: start(job, context))
        if runs and status.startswith(FAILED):
            break  # for want of memory perhaps: again when these are trained and gone
        spent[job] = time.perf_counter() - began
        if isinstance(ready, Run):
            runs[job] = ready
        else:
            done[job] = keep(job, ready, status, spent[job], context)
    waiting = list(runs)
    size = (attempt(lambda: notes.best(list(runs.values())))[0] if notes and len(waiting) > 1 else 0) or len(waiting)
    for first in range(0, len(waiting), size or 1):
        done |= train({job: runs[job] for job in waiting[first : first + size]}, spent, context)
    return done


def start(job: Job, context: Context) -> Run | dict[str, Any]:
    """Return the training that a job is, or, if it trains nothing, what is put on record of it."""
    for need in job.training.needs():
        if why := context.store.reason(need):
            raise Unavailable(why)
    if not job.training.trains:
        found = job.training.evaluate(context)
        return found if job.training.kept == "record" else context.keep(job.training, found)
    run = job.training.prepare(context)
    if trial := job.trial:
        watchers = [measure.watch(trial, run, context) for measure in trial.measures]
        run = replace(run, watchers=tuple(filter(None, watchers)))
    if steps := {made.steps for made in job.wanted if isinstance(made, Pretrained)}:
        run = replace(run, snapshots=tuple(sorted(steps)), stop=max(steps))
    return shortened(run)


def train(runs: dict[Job, Run], spent: dict[Job, float], context: Context) -> dict[Job, str]:
    """Train networks of one shape together, measure them, and return what came of each job.

    A pack that fails, for want of memory say, is halved; alone, it is a failure on record. The seconds that were
    `spent` on each before are part of its record's.
    """
    # what was interrupted is found in any order
    jobs, began = sorted(runs, key=lambda job: job.key), time.perf_counter()
    name = jobs[0].name if len(jobs) == 1 else digest("|".join(job.name for job in jobs))
    checkpoint = Checkpoint(context.store.checkpoint(name))
    fitted, status = attempt(lambda: fit_together([runs[job] for job in jobs], checkpoint=checkpoint))
    if fitted is None and len(jobs) > 1:
        checkpoint.clear()
        half = (len(jobs) + 1) // 2
        parts = ({job: runs[job] for job in some} for some in (jobs[:half], jobs[half:]))
        return {job: status for part in parts for job, status in train(part, spent, context).items()}
    trained = (time.perf_counter() - began) / len(jobs)
    done: dict[Job, str] = {}
    for job, one in zip(jobs, fitted or [None], strict=True):
        began, metrics, seconds = time.perf_counter(), None, spent[job] + trained
        if one is not None:
            metrics, status = attempt(lambda job=job, one=one, s=seconds: measure(job, runs[job], one, s, context))
        seconds += time.perf_counter() - began
        done[job] = keep(job, metrics, status, seconds, context, together=len(jobs))
    if not any(status.startswith(RETRYABLE) for status in done.values()):
        checkpoint.clear()
    return done


def measure(job: Job, run: Run, fitted: Fitted, seconds: float, context: Context) -> dict[str, Any]:
    """Keep the networks that are wanted of a training, and return what is put on record of it.

    Weights of sources are kept as float16, so that a network just trained and one read from a file are the same;
    normalisation statistics, and what trials left, stay float32.
    """
    losses, net, metrics = finite(fitted.losses), run.trained, {}
    if not all(value.isfinite().all() for value in net.state_dict().values()):  # since the last loss was computed
        raise Diverged(run.last)
    sizes = {name: (p.numel(), p.requires_grad) for name, p in net.named_parameters()}
    if trial := job.trial:
        metrics = scores_of(net, trial, context) | {"train_loss": round(losses[-LAST_STEPS:].mean().item(), 4)}
        metrics["parameters"] = sum(count for count, _ in sizes.values())
        metrics["trained"] = sum(count for count, learns in sizes.values() if learns)
        watched, seen = (w.found for w in run.watchers), (m.measure(trial, net, context) for m in trial.measures)
        for found in (run.known, *watched, *seen):
            metrics |= found
    about = {"seconds": f"{seconds:.2f}", "provenance": canonical(provenance(context.device))}
    for made in job.wanted:
        if isinstance(made, Pretrained):
            about["classes"] = str(len(head_of(net)[2].weight))
            state = {k: v.half() if k in sizes else v for k, v in fitted.snapshots[made.steps].items()}
            context.keep(made, state, about | {"curve": json.dumps(curve(losses[: made.steps]))})
        elif made.kept == "network":
            context.keep(made, net.state_dict(), about | {"curve": json.dumps(curve(losses))})
    return metrics


def keep(job: Job, metrics: dict | None, status: str, seconds: float, context: Context, together: int = 1) -> str:
    """Put what came of a job on record, and return its status."""
    about = provenance(context.device) | ({"together": together} if together > 1 else {})
    about |= {"rules": dict(context.rules)} if context.rules else {}
    for made in job.wanted:
        context.store.put(made, status, (metrics or {}) if made.kept == "record" else {}, seconds, about)
    return status
