"""Features kept on disk: each image goes through a frozen network once, for all layers, trials, seeds and processes.

A file holds what one network makes of all images of one stored split at one size: a float32 tensor (images, units) for every
layer that can be read, maps averaged over their positions. It is mapped into memory, so that all processes share one copy
of what they read, and a trial takes its own images' rows. Networks trained here are told apart by `source_key`, weights by their
fingerprint: all seeds share the features of the same weights.

The folder is a cache: files may be deleted at any time. While it is made, a file needs twice its size in memory.
"""

from __future__ import annotations

import json
import time
import warnings
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from ..data.images import Sample, load
from ..errors import DiskError, choose
from ..nets.taps import taps
from ..paths import write_atomically
from ..serial import canonical, digest
from ..specs import Trial, Weights, source_key
from ..train.predict import BATCH, features

LIMIT = 2 << 30  # bytes; a larger file is not made: trials then read their own images, each time
POLL = 0.2  # seconds after which a file that another process is making is looked for again


class FeatureCache:
    """A folder of features that any number of processes may share.

    Parameters
    ----------
    folder : Path
    claim : callable
        As `Store.claim`: from a key to a context that yields whether nobody else has it.
    """

    def __init__(self, folder: Path, claim: Callable[[str], AbstractContextManager[bool]]) -> None:
        self.folder, self.claim = folder, claim

    def read(self, trial: Trial, sample: Sample, tap: str, network: Callable[[], nn.Module], device: torch.device) -> torch.Tensor:
        """Return a sample's activations at a tap, as `features` does.

        Parameters
        ----------
        trial : Trial
        sample : Sample
            Of the trial's target, not yet on the device.
        tap : str
        network : callable
            Returns the trial's network on `device`; called only if features must be computed.
        device : torch.device

        Returns
        -------
        Tensor of float32, shape (n, units)
            On `device`.

        Raises
        ------
        UserError
            If the network has no such tap.
        """
        about = {"network": network_name(trial), "images": trial.target.images.to_dict(), "size": trial.target.size}
        about["split"] = next(s for s, part in load(trial.target.images, trial.target.size).splits.items() if part.pixels is sample.pixels)
        key = digest(canonical(about))
        path = self.folder / f"{key}.safetensors"
        while (found := look(path, tap, len(sample.pixels))) is None:
            with self.claim(f"features-{key}") as mine:
                if not mine:
                    time.sleep(POLL)
                elif look(path, tap, len(sample.pixels), warn=True) is None:  # nobody made it in the meantime
                    net = network()
                    names = list(taps(net))
                    choose("layer", tap, names)
                    try:
                        kept = write(path, net, names, sample.pixels, about, device)
                    except DiskError:  # a cache is not worth a study
                        kept = False
                    if not kept:
                        return features(net, sample.to(device), [tap])[tap]
        return found[sample.rows].to(device)


def network_name(trial: Trial) -> str | dict:
    """Return what tells the trial's source network from others."""
    if isinstance(trial.source, Weights):
        return {"weights": trial.source.fingerprint, "backbone": trial.backbone.to_dict()}
    return source_key(trial)


def look(path: Path, tap: str, count: int, warn: bool = False) -> torch.Tensor | None:
    """Return the features of all `count` images at a tap, mapped from a file, or ``None`` if it is missing or damaged.

    Raises
    ------
    UserError
        If the file is whole and has no such tap.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            sums = json.loads(file.metadata()["sums"])
            found = file.get_tensor(choose("layer", tap, sums))
    except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError) as e:
        found, why = None, " ".join(str(e).split())
    else:
        whole = len(found) == count and checksum(found) == sums[tap]
        found, why = (found, "") if whole else (None, "its content is not what was written")
    if found is None and warn:
        warnings.warn(f"features (={path}): damaged ({why}); they are computed again", stacklevel=2)
    return found


def write(path: Path, net: nn.Module, names: list[str], pixels: torch.Tensor, about: dict, device: torch.device) -> bool:
    """Write the features of a split at all taps, or return ``False`` if they are too many."""
    found: dict[str, torch.Tensor] = {}
    for rows in torch.arange(len(pixels)).split(BATCH):
        read = features(net, Sample(pixels, rows, rows, 1).to(device), names)
        if not found:
            if 4 * len(pixels) * sum(value.shape[1] for value in read.values()) > LIMIT:
                return False
            found = {tap: torch.empty(len(pixels), value.shape[1]) for tap, value in read.items()}
        for tap, value in read.items():
            found[tap][rows] = value.cpu()
    sums = {tap: checksum(value) for tap, value in found.items()}
    write_atomically(path, save(found, {"sums": json.dumps(sums), "about": canonical(about)}))
    return True


def checksum(values: torch.Tensor) -> int:
    """Return the CRC-32 of a tensor's bytes."""
    return zlib.crc32(values.contiguous().numpy())
