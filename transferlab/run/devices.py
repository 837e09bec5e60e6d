"""Where things are computed: devices, threads, processes of a pool, and what is told of them on record."""

import multiprocessing
import os
import platform
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..cores import cpu_workers
from ..errors import UserError

LIBRARIES = ("torch", "torchvision", "numpy", "pillow")
torch.backends.cudnn.allow_tf32 = False  # float32 is float32 on every device
torch.backends.cudnn.benchmark = True


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
        why = f"cannot be used here ({str(e).splitlines()[0]}); auto takes what is there"
        raise UserError(f"device (={device}): {why}") from e
    return found


def gpus(device: str) -> int:
    """Return how many GPUs trials may be spread over: all there are, unless one is named."""
    return torch.cuda.device_count() if pick_device(device).type == "cuda" and ":" not in device else 0


def default_workers(device: str, threads: int) -> int:
    """Return how many trials to run at once: one on each GPU, or one for every `threads` cores of a CPU."""
    return max(1, gpus(device)) if pick_device(device).type == "cuda" else cpu_workers(threads)


def commit(package: Path = Path(__file__).parents[1]) -> str:
    """Return the commit of the package's own working tree, with ``+`` if it has changes; outside of it, such as where
    the package is installed inside of another project, its version.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # as a hook sets them

    def git(*words: str) -> str:
        how = {"cwd": package, "env": clean, "capture_output": True, "text": True, "check": True}
        return subprocess.run(["git", *words], **how).stdout.strip()

    with suppress(OSError, subprocess.CalledProcessError):
        git("ls-files", "--error-unmatch", "__init__.py", "../_toc.yml")
        if git("rev-parse", "--show-cdup") == "../":
            changes = git("status", "--porcelain", "--untracked-files=no", "--", ".")
            return git("rev-parse", "--short=12", "HEAD") + ("+" if changes else "")
    return f"transferlab {__version__}"


COMMIT = commit()  # when the code is loaded, not when the first record is written


@cache
def processor() -> str:
    """Return the processor's name and the instruction sets that change a float's last bits."""
    info = Path("/proc/cpuinfo")
    text = info.read_text("utf-8", "replace") if info.is_file() else ""
    name, flags = (re.search(rf"^{word}\s*:\s*(.+)$", text, re.MULTILINE) for word in ("model name", "flags"))
    if not (name and flags):
        return platform.processor() or platform.machine()
    known = [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in flags[1].split()]
    return f"{name[1]} ({known[-1] if known else 'no avx2'})"


def provenance(device: torch.device) -> dict[str, str | int]:
    """Return what may differ between equal trials: commit, versions, device, threads, day."""
    versions = {name: version(name) for name in LIBRARIES} | {"torch": torch.__version__}  # with its build
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    about = {"commit": COMMIT, **versions, "python": platform.python_version(), "device": name}
    return about | {"threads": torch.get_num_threads(), "day": time.strftime("%Y-%m-%d", time.gmtime())}
