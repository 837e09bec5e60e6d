"""Long training that survives its process: now and then, everything that the next step depends on goes to a file."""

from __future__ import annotations

import copy
import io
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from ..paths import write_atomically

if TYPE_CHECKING:
    from .fit import Training

EVERY = 60.0  # seconds


class Checkpoint:
    """One training run's file.

    Parameters
    ----------
    path : Path
    every : float
        Seconds between two writings; a run that ends sooner writes nothing.
    """

    def __init__(self, path: Path, every: float = EVERY) -> None:
        self.path, self.every, self.last = path, every, time.monotonic()

    def due(self) -> bool:
        """Whether it is time to write."""
        return time.monotonic() - self.last >= self.every

    def keep(self, state: dict[str, Any]) -> None:
        """Write a state of training; the old file stays until the new one is whole.

        Raises
        ------
        UserError
            If the file cannot be written.
        """
        file = io.BytesIO()
        torch.save(state, file)
        write_atomically(self.path, file.getvalue())
        self.last = time.monotonic()

    def resume(self, training: Training) -> int:
        """Put what was kept back into place, and return the step to go on with: 0 if nothing was kept.

        A file that cannot be used is told and removed, and training starts anew.
        """
        if not self.path.exists():
            return 0
        before = copy.deepcopy(training.state(0))
        try:
            return training.restore(torch.load(self.path, map_location="cpu", weights_only=True))
        except Exception as e:
            why = f"cannot be used ({type(e).__name__}); training starts anew"
            tqdm.write(f"checkpoint (={self.path}): {why}", file=sys.stderr)
            self.clear()
            return training.restore(before)

    def clear(self) -> None:
        """Remove the file: what the run was for is on record."""
        self.path.unlink(missing_ok=True)
