"""The run layer: pretrain a source, run a trial, say where it ran. Everything here needs torch."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import platform
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import torchvision
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from . import __version__, methods
from .data.images import load
from .engine import BUSY, Job, cpu_workers
from .errors import DiskError, UserError, line
from .methods import probe
from .methods.feature_cache import FeatureCache
from .methods.scratch import prepare_source
from .nets.build import build, fit_state, head_name, pretrained
from .paths import write_atomically
from .serial import canonical, digest
from .specs import Probe, Source, SourceTask, Trial, source_key
from .store import DIVERGED, FAILED, OPEN, REFUSED, Store, settled
from .train import processes
from .train.checkpoint import Checkpoint
from .train.fit import Diverged, finite, fit_together, pack_size
from .train.pack import Trainee

CURVE_POINTS = 16
torch.backends.cudnn.allow_tf32 = False  # float32 is float32 on every device
torch.backends.cudnn.benchmark = True
ONE_AT_A_TIME = threading.Lock()  # random states and numbers of threads belong to the process


class NoSource(Exception):
    """The source of a trial has no network; the text is its status."""


def end_with_parent() -> None:
    """Leave when the process that started this one is gone, however it went."""
    multiprocessing.parent_process().join()
    os._exit(1)


def begin(count: Any, gpus: int) -> None:
    """Set up a process of a local pool: Ctrl-C is the parent's business; with several GPUs, each process sees one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with count.get_lock():
        number, count.value = count.value, count.value + 1
    threading.Thread(target=end_with_parent, daemon=True).start()
    if gpus > 1:
        ours = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
        os.environ["CUDA_VISIBLE_DEVICES"] = ours.split(",")[number % gpus].strip()


@contextmanager
def threads_set(threads: int) -> Iterator[None]:
    """Compute with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def pick_device(device: str) -> torch.device:
    """Return the device by name; ``auto`` is the GPU if there is one.

    Raises
    ------
    UserError
        If torch does not know the device or it is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError) as e:
        raise UserError(f"device (={device}): cannot be used here ({str(e).splitlines()[0]}); auto takes what is there") from e
    return found


def commit() -> str:
    """Return the commit of the package's working tree, with ``+`` if it has changes, or its version outside of git."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return f"transferlab {__version__}"


COMMIT = commit()  # when the code is loaded, not when the first record is written


@cache
def processor() -> str:
    """Return the processor's name and the instruction sets that change a float's last bits."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        about = dict(line.split("\t", 1) for line in lines if "\t" in line)
        name = about["model name"].strip(" \t:")
        flags = [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in about["flags"].split()]
        return f"{name} ({flags[-1] if flags else 'no avx2'})"
    except (OSError, KeyError, ValueError):
        return platform.processor() or platform.machine()


def provenance(device: torch.device) -> dict[str, str | int]:
    """Return what may differ between equal trials: commit, versions, device, threads, day."""
    return {
        "commit": COMMIT,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "day": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def prepare(trials: list[Trial], threads: int) -> None:
    """Decode every image set that the trials need, so that workers find them in the cache."""
    with threads_set(threads):
        for images, size in sorted({(p.images, p.size) for t in trials for p in (*t.targets, t.source) if hasattr(p, "images")}, key=str):
            load(images, size)


def work(jobs: list[Job], store: Store, device: str, threads: int, tune: bool = False) -> list[str]:
    """Do jobs of one shape, but for those that somebody else does or has done, and return what came of each.

    Parameters
    ----------
    tune : bool
        Find out how many train fastest together; otherwise all do.

    Returns
    -------
    list of str
        Statuses as in `Store.put`, or `engine.BUSY`.

    Raises
    ------
    UserError
        If a file cannot be written.
    """
    with ONE_AT_A_TIME, ExitStack() as held, threads_set(threads):
        mine = [job for job in jobs if held.enter_context(store.claim(job.key))]
        found = {job: known(job, store) for job in mine}
        found |= carry_out([job for job in mine if found[job] is None], store, pick_device(device), tune)
        return [found.get(job, BUSY) for job in jobs]


def known(job: Job, store: Store) -> str | None:
    """Return the status of a job that was done before."""
    if job.source:
        return None if store.lacks(job.key) else "ok"
    record = store.get(job.key)
    return record["status"] if settled(record) else None


def pretrain(trials: list[Trial], store: Store, device: str, threads: int, tell: Callable[[str], None]) -> None:
    """Train the sources of trials that are missing, one after another, each over all processes that torchrun started."""
    with processes.joined(device) as mine, threads_set(threads):
        where = pick_device(mine)
        for job in {source_key(t): Job(t, source=True) for t in trials if isinstance(t.source, Source)}.values():
            with store.claim(job.key) if processes.number() == 0 else nullcontext(False) as first:
                if not processes.agreed(first and store.lacks(job.key)):
                    continue
                status = carry_out([job], store, where, tune=False)[job]
            if processes.number() == 0:
                tell(f"{job.trial.source.label}, seed {job.trial.seed}: {status}")


def attempt(action: Callable[[], Any]) -> tuple[Any, str]:
    """Return what an action returns, and ``ok`` or why it returned nothing: it diverged, was refused, or ran out of memory, say."""
    try:
        return action(), "ok"
    except Diverged as e:
        return None, f"{DIVERGED}: {e}"
    except NoSource as e:
        return None, str(e).replace(": ", ": source: ", 1)
    except DiskError:
        raise
    except UserError as e:
        return None, f"{REFUSED}: {e}"
    except Exception as e:
        if processes.count() > 1:
            raise  # the others wait for this one
        return None, f"{FAILED}: {line(e)}"


def carry_out(jobs: list[Job], store: Store, where: torch.device, tune: bool) -> dict[Job, str]:
    """Do jobs of one shape, and return what came of each."""
    done: dict[Job, str] = {}
    while left := [job for job in jobs if job not in done]:
        done |= carry_out_some(left, store, where, tune)
    return done


def carry_out_some(jobs: list[Job], store: Store, where: torch.device, tune: bool) -> dict[Job, str]:
    """Do as many of the first jobs as train together, or as the device takes, and return what came of each."""
    done: dict[Job, str] = {}
    trainees: dict[Job, Trainee] = {}
    spent: dict[Job, float] = {}
    notes, name = pack_notes(jobs[0], store, where) if tune and len(jobs) > 1 else ({}, "")
    size, among = notes.get(name, (0, 0))
    for job in jobs[: size if size < among else None]:  # a larger number may train faster if it was not tried
        began = time.perf_counter()
        ready, status = attempt(lambda job=job: start(job, store, where))
        if trainees and status.startswith(FAILED):
            break  # for want of memory perhaps: again when these are trained and gone
        spent[job] = time.perf_counter() - began
        if isinstance(ready, Trainee):
            trainees[job] = ready
        else:
            done[job] = record(job, ready, status, spent[job], store, where)
    waiting = list(trainees)
    size = (attempt(lambda: best_pack(trainees, store, where))[0] if tune and len(waiting) > 1 else 0) or len(waiting)
    for first in range(0, len(waiting), size or 1):
        done |= train({job: trainees[job] for job in waiting[first : first + size]}, spent, store, where)
    return done


def start(job: Job, store: Store, where: torch.device) -> Trainee | dict[str, Any]:
    """Return the network that a job trains, or, if it trains none, what it measured."""
    trial = job.trial
    if job.source:
        return prepare_source(trial.source, trial.backbone, trial.seed, where)
    reason = store.failure(source_key(trial)) if isinstance(trial.source, Source) else None
    if reason and not store.network(source_key(trial)).is_file():
        raise NoSource(reason)
    if isinstance(trial.method, Probe):  # features on record need no network
        cache = FeatureCache(store.root / "features", store.claim)
        return probe.run(trial, lambda: source_network(trial, store, where)[0], where, cache=cache)
    network, about = source_network(trial, store, where)
    ready = methods.prepare(trial, network, where)
    return ready | about if isinstance(trial.method, SourceTask) else ready


def train(trainees: dict[Job, Trainee], spent: dict[Job, float], store: Store, where: torch.device) -> dict[Job, str]:
    """Train networks of one shape together, measure them, and return what came of each job.

    A pack that fails, for want of memory say, is halved; alone, it is a failure on record. The seconds that were `spent`
    on each before are part of its record's.
    """
    jobs, began = sorted(trainees, key=lambda job: job.key), time.perf_counter()  # what was interrupted is found in any order
    checkpoint = Checkpoint(store.checkpoint(jobs[0].key if len(jobs) == 1 else digest("|".join(j.key for j in jobs))))
    losses, status = attempt(lambda: fit_together([trainees[j] for j in jobs], checkpoint=checkpoint))
    if losses is None and len(jobs) > 1:
        checkpoint.clear()
        half = (len(jobs) + 1) // 2
        parts = ({j: trainees[j] for j in some} for some in (jobs[:half], jobs[half:]))
        return {j: status for part in parts for j, status in train(part, spent, store, where).items()}
    found = [(None, status)] * len(jobs)
    if losses is not None:
        found = [attempt(lambda job=job, k=k: measure(job, trainees[job], finite(losses[k]), where)) for k, job in enumerate(jobs)]
    seconds = (time.perf_counter() - began) / len(jobs)
    done = {
        job: record(job, value, status, spent[job] + seconds, store, where, together=len(jobs))
        for job, (value, status) in zip(jobs, found, strict=True)
    }
    if processes.number() == 0 and not any(status.startswith(OPEN) for status in done.values()):
        checkpoint.clear()
    return done


def measure(job: Job, trainee: Trainee, losses: torch.Tensor, where: torch.device) -> Any:
    """Return what is kept of a trained network: metrics of a trial, the network of a source with its losses."""
    return (trainee.net, losses) if job.source else methods.measure(trainee.trained, job.trial, losses, where)


def record(job: Job, found: Any, status: str, seconds: float, store: Store, where: torch.device, together: int = 1) -> str:
    """Write what came of a job, and return its status."""
    about = provenance(where) | ({"together": together} if together > 1 else {})
    if processes.count() > 1:
        about["processes"] = processes.count()
    if processes.number() > 0:
        return status
    if not job.source:
        store.put(job.trial, status, found or {}, seconds, about)
    elif found is None:
        store.fail(job.key, status)
    else:
        keep_network(job, *found, seconds, store, about)
    return status


def keep_network(job: Job, net: nn.Module, losses: torch.Tensor, seconds: float, store: Store, about: dict) -> None:
    """Keep a source network, with what is to be known of it.

    Weights are kept as float16, so that a network just trained and one read from a file are the same; normalisation
    statistics stay float32.
    """
    trial = job.trial
    kept = {k: v.half() if k in dict(net.named_parameters()) else v for k, v in net.state_dict().items()}
    points = torch.linspace(0, len(losses), CURVE_POINTS + 1).long()
    text = {
        "source": trial.source.canonical,
        "backbone": trial.backbone.canonical,
        "seed": str(trial.seed),
        "classes": str(net.get_submodule(head_name(net)).weight.shape[0]),
        "curve": json.dumps([round(losses[a:b].mean().item(), 4) for a, b in itertools.pairwise(points) if b > a]),
        "seconds": f"{seconds:.2f}",
        "provenance": canonical(about),
    }
    write_atomically(store.network(job.key), save({k: v.cpu().contiguous() for k, v in kept.items()}, text))


def best_pack(trainees: dict[Job, Trainee], store: Store, where: torch.device) -> int:
    """Return how many networks of this shape train fastest together, from the store's notes if it was found out before."""
    notes, name = pack_notes(next(iter(trainees)), store, where)
    size, among = notes.get(name, (0, 0))
    if not size or size == among < len(trainees):  # never tried, or nothing larger was at hand
        size, among = pack_size(list(trainees.values())), len(trainees)
        with suppress(DiskError):  # a note is not worth a study
            write_atomically(store.root / "packs.json", json.dumps(notes | {name: (size, among)}, indent=1) + "\n")
    return size


def pack_notes(job: Job, store: Store, where: torch.device) -> tuple[dict[str, tuple[int, int]], str]:
    """Return the store's notes: by shape, the best size and the number that it was found among; and the name of a job's shape there."""
    name = f"{job.shape} on {provenance(where)['device']}"
    try:
        return json.loads((store.root / "packs.json").read_text()), name
    except (OSError, ValueError):
        return {}, name


def source_network(trial: Trial, store: Store, device: torch.device) -> tuple[nn.Module | None, dict]:
    """Return the trial's source network, fresh from its file, and what the file says about its training.

    Raises
    ------
    UserError
        If the file is damaged.
    """
    if trial.source is None:
        return None, {}
    if not isinstance(trial.source, Source):
        return pretrained(trial.source, trial.backbone, trial.target.size).to(device), {}
    path = store.network(source_key(trial))
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata()
            state = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118  (the file is no mapping)
    except (SafetensorError, OSError) as e:
        raise UserError(f"network (={path}): cannot be read ({e}); delete it and it is trained again") from e
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    net = build(trial.backbone, trial.source.size, int(about["classes"]), seed=0)
    fit_state(net, state, str(path))
    return net.to(device), {"curve": json.loads(about["curve"]), "source_seconds": float(about["seconds"])}


def gpus(device: str) -> int:
    """Return how many GPUs trials may be spread over: all there are, unless one is named."""
    return torch.cuda.device_count() if pick_device(device).type == "cuda" and ":" not in device else 0


def default_workers(device: str, threads: int) -> int:
    """Return how many trials to run at once: one on each GPU, or one for every `threads` cores of a CPU."""
    return max(1, gpus(device)) if pick_device(device).type == "cuda" else cpu_workers(threads)
