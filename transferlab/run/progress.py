"""What is done, what is left and the time it should take. Nothing here imports torch."""

import os
import sys
import time

from tqdm.auto import tqdm

from .queue import Job


class Progress:
    """What is done, what is left and the time it should take, on a terminal or in a notebook; elsewhere nothing.

    Parameters
    ----------
    sources, runs : int
        Jobs that make what others need, and trials.
    seconds : float
        Of work, as estimated.
    workers : int
    quiet : bool, optional
        By default unless somebody looks.
    """

    def __init__(self, sources: int, runs: int, seconds: float, workers: int, quiet: bool | None) -> None:
        self.total, self.made = {True: sources, False: runs}, {True: 0, False: 0}
        self.seconds, self.workers, self.began, self.passed = seconds, workers, time.monotonic(), 0.0
        notebook = "ipykernel" in sys.modules and "TRANSFERLAB_BOOK" not in os.environ  # where a person looks
        silent = quiet if quiet is not None else not (sys.stderr.isatty() or notebook)
        self.bar = tqdm(total=round(seconds, 1), disable=silent, bar_format="{desc} |{bar:20}| {percentage:3.0f}%")
        self._show(0.0)

    def done(self, job: Job, seconds: float) -> None:
        """Note that a job is done, whose work was estimated at `seconds`."""
        self.made[job.trial is None] += 1
        self._show(seconds)

    def _show(self, seconds: float) -> None:
        self.passed += seconds
        took = time.monotonic() - self.began
        left = took * (self.seconds / self.passed - 1) if self.passed else self.seconds / self.workers
        counts = f"sources {self.made[True]}/{self.total[True]}, runs {self.made[False]}/{self.total[False]}"
        self.bar.set_description_str(f"{counts}, {duration(max(0.0, left))} left", refresh=False)
        self.bar.update(min(seconds, self.bar.total - self.bar.n))


def duration(seconds: float) -> str:
    """Return a time as a person would say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
