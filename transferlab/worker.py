"""The run layer: pretrain a source, run a trial, say where it ran. Everything here needs torch."""

from __future__ import annotations

import itertools
import json
import os
import platform
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from .engine import BUSY, Job
from .errors import UserError
from .methods.scratch import pretrain as train_source
from .nets.build import build, fit_state, head_name, pretrained
from .paths import write_atomically
from .serial import canonical
from .specs import Source, Trial, source_key
from .store import FAILED, Store, settled
from .train.checkpoint import Checkpoint
from .train.fit import Diverged

CURVE_POINTS = 16


def begin(count: Any, gpus: int) -> None:
    """Set up a process of a local pool: Ctrl-C is the parent's business; with several GPUs, each process sees one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with count.get_lock():
        number, count.value = count.value, count.value + 1
    if gpus > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(number % gpus)


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


def prepare(trials: list[Trial]) -> None:
    """Decode every image set that the trials need, so that workers find them in the cache."""
    for images, size in sorted({(p.images, p.size) for t in trials for p in (t.target, t.source) if hasattr(p, "images")}, key=str):
        load(images, size)


def work(job: Job, store: Store, device: str, threads: int) -> str:
    """Do a job unless somebody else does it or has done it, and return what came of it.

    Returns
    -------
    str
        A status as in `Store.put`, or `engine.BUSY`.

    Raises
    ------
    UserError
        If the trial cannot be run as it is written, or a file cannot be written.
    """
    key = source_key(job.trial) if job.source else job.trial.key
    with store.claim(key) as mine, threads_set(threads):
        if not mine:
            return BUSY
        if job.source:
            return pretrain(job.trial, store, device) if store.lacks(key) else "ok"
        record = store.get(key)
        return record["status"] if settled(record) else run(job.trial, store, device)


def attempt(action: Callable[[], Any]) -> tuple[Any, str]:
    """Return what an action returns, and ``ok`` or why it returned nothing: it diverged, or failed for want of memory, say."""
    try:
        return action(), "ok"
    except Diverged as e:
        return None, f"diverged: {e}"
    except UserError:
        raise
    except Exception as e:
        return None, f"{FAILED}: {type(e).__name__}: {' '.join(str(e).split())[:200]}"


def pretrain(trial: Trial, store: Store, device: str) -> str:
    """Train and keep the source network of a trial, and return its status.

    Weights are kept as float16, so that a network just trained and one read from a file are the same; normalisation
    statistics stay float32. A source that fails leaves a file that says so.
    """
    began, where, key = time.perf_counter(), pick_device(device), source_key(trial)
    checkpoint = Checkpoint(store.checkpoint(key))
    trained, status = attempt(lambda: train_source(trial.source, trial.backbone, trial.seed, where, checkpoint))
    if trained is None:
        store.fail(key, status)
        return status
    net, losses = trained
    kept = {k: v.half() if k in dict(net.named_parameters()) else v for k, v in net.state_dict().items()}
    points = torch.linspace(0, len(losses), CURVE_POINTS + 1).long()
    about = {
        "source": trial.source.canonical,
        "backbone": trial.backbone.canonical,
        "seed": str(trial.seed),
        "classes": str(net.get_submodule(head_name(net)).weight.shape[0]),
        "curve": json.dumps([round(losses[a:b].mean().item(), 4) for a, b in itertools.pairwise(points) if b > a]),
        "seconds": f"{time.perf_counter() - began:.2f}",
        "provenance": canonical(provenance(where)),
    }
    write_atomically(store.network(key), save({k: v.cpu().contiguous() for k, v in kept.items()}, about))
    checkpoint.clear()
    return status


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


def run(trial: Trial, store: Store, device: str) -> str:
    """Run a trial, write its record, and return its status."""
    began, where = time.perf_counter(), pick_device(device)
    checkpoint = Checkpoint(store.checkpoint(trial.key))
    reason = store.failure(source_key(trial)) if isinstance(trial.source, Source) else None
    if reason and not store.network(source_key(trial)).is_file():
        metrics, status = None, reason.replace(": ", ": source: ", 1)
    else:
        network, about = source_network(trial, store, where)
        metrics, status = attempt(lambda: methods.run(trial, network, where, checkpoint))
        if metrics and trial.method.kind == "source-task":
            metrics |= about
    store.put(trial, status, metrics or {}, time.perf_counter() - began, provenance(where))
    checkpoint.clear()
    return status


def gpus(device: str) -> int:
    """Return how many GPUs trials may be spread over: all there are, unless one is named."""
    return torch.cuda.device_count() if pick_device(device).type == "cuda" and ":" not in device else 0


def default_workers(device: str, threads: int) -> int:
    """Return how many trials to run at once: one on each GPU, or one for every `threads` cores of a CPU."""
    if pick_device(device).type == "cuda":
        return max(1, gpus(device))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // threads)
