"""Long training that survives its process: now and then, everything that the next step depends on goes to a file."""

import io
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from ..paths import write_atomically
from .feed import Feed
from .pack import Alone, Together

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

    def load(self) -> dict[str, Any] | None:
        """Return what was kept, or ``None``; a file that somebody damaged is told, and training starts anew."""
        try:
            return torch.load(self.path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except Exception as e:
            why = (str(e) or type(e).__name__).splitlines()[0]
            warnings.warn(f"checkpoint (={self.path}): cannot be read ({why}); starting anew", stacklevel=2)
            return None

    def due(self) -> bool:
        """Whether it is time to write."""
        return time.monotonic() - self.last >= self.every

    def keep(self, nets: Alone | Together, drawn: list[dict], losses: torch.Tensor, step: int) -> None:
        """Write everything that step number `step` depends on; the old file stays until the new one is whole.

        Parameters
        ----------
        nets : Alone or Together
        drawn : list of dict
            The feed's state before the block of steps that `step` belongs to.
        losses : Tensor, shape (K, steps)
        step : int
            The next one.

        Raises
        ------
        UserError
            If the file cannot be written.
        """
        state = {"nets": nets.state(), "feed": drawn, "losses": losses, "step": step, "random": _random(losses)}
        file = io.BytesIO()
        torch.save(state, file)
        write_atomically(self.path, file.getvalue())
        self.last = time.monotonic()

    def resume(self, nets: Alone | Together, feed: Feed, losses: torch.Tensor) -> int:
        """Put what was kept back into place, and return the step to go on with: 0 if nothing was kept."""
        state = self.load()
        if state is None:
            return 0
        nets.restore(state["nets"])
        feed.restore(state["feed"])
        losses.copy_(state["losses"])
        torch.set_rng_state(state["random"][0])
        if losses.device.type == "cuda":
            torch.cuda.set_rng_state(state["random"][1], losses.device)
        return state["step"]

    def clear(self) -> None:
        """Remove the file: what the run was for is on record."""
        self.path.unlink(missing_ok=True)


def _random(losses: torch.Tensor) -> list[torch.Tensor]:
    """Return the states of the random generators that dropout draws from."""
    return [torch.get_rng_state()] + ([torch.cuda.get_rng_state(losses.device)] if losses.device.type == "cuda" else [])
