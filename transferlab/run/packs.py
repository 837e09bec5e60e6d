"""How many networks of one shape train fastest together on a device: found out once, and noted in the store."""

import json
from collections.abc import Sequence
from contextlib import suppress

import torch

from ..errors import DiskError
from ..paths import write_atomically
from ..store import Store
from ..train.fit import pack_size
from ..train.run import Run
from .devices import provenance


class PackNotes:
    """The store's notes on packs: by shape and device, the best size and the number that it was found among.

    Parameters
    ----------
    store : Store
    shape : str
    device : torch.device
    """

    def __init__(self, store: Store, shape: str, device: torch.device) -> None:
        self.path, self.name = store.root / "packs.json", f"{shape} on {provenance(device)['device']}"
        try:
            self.notes: dict[str, tuple[int, int]] = json.loads(self.path.read_text())
        except (OSError, ValueError):
            self.notes = {}

    @property
    def known(self) -> int | None:
        """The best size, if a larger one was tried; else all may go."""
        size, among = self.notes.get(self.name, (0, 0))
        return size if size < among else None

    def best(self, runs: Sequence[Run]) -> int:
        """Return how many of `runs` to train together, tried out if it is not known."""
        size, among = self.notes.get(self.name, (0, 0))
        if not size or size == among < len(runs):  # never tried, or nothing larger was at hand
            size, among = pack_size(runs), len(runs)
            with suppress(DiskError):  # a note is not worth a study
                write_atomically(self.path, json.dumps(self.notes | {self.name: (size, among)}, indent=1) + "\n")
        return size
