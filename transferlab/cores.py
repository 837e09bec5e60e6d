"""How many cores are ours: by the cgroup's quota, not by the node's number. Nothing here imports torch."""

import math
import os
from contextlib import suppress
from pathlib import Path


def cpu_quota(told: Path = Path("/proc/self/cgroup"), at: Path = Path("/sys/fs/cgroup")) -> float:
    """Return how many cores' time a container, or whatever else bounds this process, leaves it (cgroup versions 1, 2).

    Parameters
    ----------
    told : Path
        What the system tells of the groups of this process.
    at : Path
        Where it shows what they may take.
    """
    found = [math.inf]
    for line in told.read_text().splitlines() if told.is_file() else ():
        _, kinds, group = line.split(":", 2)
        top = at / ("cpu" if kinds else "")  # version 2 has no kinds
        inside = top / group.lstrip("/")
        for folder in (inside, *inside.parents) if not kinds or "cpu" in kinds.split(",") else ():
            with suppress(OSError, ValueError):  # no such file, or "max"
                files = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if kinds else ("cpu.max",)
                quota, period = map(int, " ".join((folder / name).read_text() for name in files).split())
                found += [quota / period] if quota > 0 else []
    return min(found)


def cpu_workers(threads: int) -> int:
    """Return how many processes of so many threads the cores that are ours can run at once."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, cpu_quota())) // threads)
