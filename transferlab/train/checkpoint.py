"""Long training that survives its process: now and then, everything that the next step depends on goes to a file."""

import io
import sys
import time
from pathlib import Path

import torch
from tqdm.auto import tqdm

from ..paths import write_atomically
from .feed import Feed
from .pack import Abreast, Alone

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

    def keep(self, nets: Alone | Abreast, drawn: list[dict], losses: torch.Tensor, step: int) -> None:
        """Write everything that step number `step` depends on; the old file stays until the new one is whole.

        Parameters
        ----------
        nets : Alone or Abreast
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
        write_atomically(self.path, _saved(nets, drawn, losses, step).getvalue())
        self.last = time.monotonic()

    def resume(self, nets: Alone | Abreast, feed: Feed, losses: torch.Tensor) -> int:
        """Put what was kept back into place, and return the step to go on with: 0 if nothing was kept.

        A file that cannot be used is told and removed, and training starts anew.
        """
        if not self.path.exists():
            return 0
        before = _saved(nets, feed.state(), losses, 0)
        try:
            return _put_back(self.path, nets, feed, losses)
        except Exception as e:
            tqdm.write(f"checkpoint (={self.path}): cannot be used ({type(e).__name__}); training starts anew", file=sys.stderr)
            self.clear()
            return _put_back(before, nets, feed, losses)

    def clear(self) -> None:
        """Remove the file: what the run was for is on record."""
        self.path.unlink(missing_ok=True)


def _saved(nets: Alone | Abreast, drawn: list[dict], losses: torch.Tensor, step: int) -> io.BytesIO:
    state = {"nets": nets.state(), "feed": drawn, "losses": losses, "step": step, "random": _random(losses)}
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


def _put_back(file: Path | io.BytesIO, nets: Alone | Abreast, feed: Feed, losses: torch.Tensor) -> int:
    state = torch.load(file, map_location="cpu", weights_only=True)
    nets.restore(state["nets"])
    feed.restore(state["feed"])
    losses.copy_(state["losses"])
    torch.set_rng_state(state["random"][0])
    if losses.device.type == "cuda" and len(state["random"]) > 1:  # else it was kept on a CPU
        torch.cuda.set_rng_state(state["random"][1], losses.device)
    return state["step"]


def _random(losses: torch.Tensor) -> list[torch.Tensor]:
    """Return the states of the random generators that dropout draws from."""
    return [torch.get_rng_state()] + ([torch.cuda.get_rng_state(losses.device)] if losses.device.type == "cuda" else [])
