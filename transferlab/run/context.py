"""What a method may ask for: the device, images, networks, features and other artefacts."""

import itertools
import json
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from ..data.images import Sample, load, source_sample, target_sample
from ..errors import DiskError, UserError
from ..nets.build import build, pretrained
from ..nets.taps import taps
from ..nets.weights import fit_state
from ..paths import write_atomically
from ..seeds import stream
from ..specs import Artefact, Backbone, Duplicates, Features, Neighbours, Pretrained, Target, Trained, Trial
from ..store import Store
from ..train.read import BATCH, PIXELS, pooled, read, without_network
from ..train.run import Run, Stream

CURVE_POINTS = 16
LIMIT = 2 << 30  # bytes of features; more are not kept: trials then read their own images, each time
LOOK_AGAIN = 0.2  # seconds after which what another process is making is looked for again


@dataclass(frozen=True)
class Context:
    """What trials are run with.

    Attributes
    ----------
    device : torch.device
    store : Store
    blank : bool
        Networks come as they are built, their weights not read: enough to know their structure.
    rules : mapping of str to str, optional
        Hash of the rule of each claim that the trials are for.
    """

    device: torch.device
    store: Store
    blank: bool = False
    rules: Mapping[str, str] | None = None

    def sample(self, target: Target, split: str, seed: int) -> Sample:
        """Return the images of a target that a trial trains on, validates on or is tested on, on the device."""
        return target_sample(target, split, seed).to(self.device)

    def fresh(self, backbone: Backbone, size: int, classes: int, seed: int) -> nn.Module:
        """Return a network with random weights."""
        return build(backbone, size, classes, seed).to(self.device)

    def pretraining(self, made: Pretrained) -> Run:
        """Return the training of a fresh network on a source."""
        sample = source_sample(made.source, made.seed).to(self.device)
        weights, order = stream(made.seed, "source weights"), stream(made.seed, "source order")
        net = self.fresh(made.backbone, made.source.size, sample.classes, weights)
        return Run(net, (Stream(sample, order),), made.source.recipe, order)

    # --------------------------------------------------------------------------------------------------------- networks

    def network(self, trial: Trial) -> nn.Module:
        """Return the network that a trial starts from, fresh from its file, with the head that it had.

        Raises
        ------
        UserError
            If the file is damaged.
        """
        return self.load(trial.start, trial.target.size)

    def load(self, made: Pretrained | Trained, size: int) -> nn.Module:
        """Return a network of its own, all of it ready to be trained; `size` is that of the images if the weights are
        given.
        """
        if made.given:
            return pretrained(made.source, made.backbone, size).to(self.device)
        state, about = ({}, {"classes": 2}) if self.blank else self._file(made)
        if isinstance(made, Trained):  # built as the trial built it
            net = made.trial.prepare(replace(self, blank=True)).trained
        else:
            net = build(made.backbone, made.source.size, int(about["classes"]), seed=0).to(self.device)
        if state:
            fit_state(net, state, str(self.store.file(made)))
        net.requires_grad_(True)
        for module in net.modules():
            module.frozen = module.stochastic = False
        return net

    def _file(self, made: Artefact) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        path = self.store.file(made)
        try:
            with safe_open(path, "pt") as file:
                state = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118  (the file is no mapping)
                about = file.metadata()
        except FileNotFoundError:
            raise
        except (SafetensorError, OSError) as e:
            raise UserError(f"{made.kept} (={path}): cannot be read ({e}); delete it and it is made again") from e
        return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}, about

    def about(self, made: Pretrained) -> dict[str, Any]:
        """Return what is known of a source's training: its losses, in a few points, and its seconds."""
        if made.given or made.kind != Pretrained.kind:
            return {}
        known = self._file(made)[1]
        return {"curve": json.loads(known["curve"]), "source_seconds": float(known["seconds"])}

    def keep(self, made: Artefact, tensors: dict[str, torch.Tensor], about: dict[str, str] | None = None) -> dict:
        """Write an artefact's file, and return what is put on record: nothing."""
        if tensors:  # else they were too many
            kept, about = {k: v.cpu().contiguous() for k, v in tensors.items()}, about or {}
            with suppress(*[DiskError] if made.kept == "arrays" else []):  # a cache is not worth a study
                write_atomically(self.store.file(made), save(kept, {"made": made.canonical} | about))
        return {}

    # --------------------------------------------------------------------------------------------------------- features

    def features(
        self, trial: Trial, sample: Sample, tap: str, grid: int | None = 1, pool: str | None = None
    ) -> torch.Tensor:
        """Return a sample's activations at a layer of the network that the trial starts from.

        Each image of a stored split goes through a network once, for all layers, trials, seeds and processes that share
        it.

        Parameters
        ----------
        trial : Trial
        sample : Sample
            Of the trial's target.
        tap : str
            Or what an image is without a network, of `PIXELS`.
        grid : int, optional
            Maps are averaged over grid x grid parts; ``None`` leaves them as they are.
        pool : {"max"}, optional
            The largest value of each part instead.

        Returns
        -------
        Tensor of float32, shape (n, units), or (n, channels, height, width)
            On the device.

        Raises
        ------
        UserError
            If the network has no such tap.
        """
        if tap in PIXELS:
            return without_network(sample, tap).to(self.device)
        maps = None if grid == 1 and not pool else tap
        found = self.arrays(Features(trial.start, sample.images, sample.size, sample.split, maps))
        if tap not in found:  # they were too many, or there is no such layer, as `read` will say
            return read(self.load(trial.start, trial.target.size), sample, [tap], grid, pool or "mean")[tap]
        value = found[tap][sample.rows.cpu()].to(self.device)
        return pooled(value, grid, pool or "mean") if maps else value

    def read(self, made: Features) -> dict[str, torch.Tensor]:
        """Return what a network makes of a stored split at all layers; nothing if that is too much to be kept."""
        net, pixels = self.load(made.network, made.size), load(made.images, made.size).splits[made.split].pixels
        wanted = [made.maps] if made.maps else list(taps(net))
        found: dict[str, torch.Tensor] = {}
        for rows in torch.arange(len(pixels)).split(BATCH):
            part = Sample(pixels, rows, rows, 1).to(self.device)
            for tap, value in read(net, part, wanted, None if made.maps else 1).items():
                if tap not in found:
                    found[tap] = torch.empty(len(pixels), *value.shape[1:])
                found[tap][rows] = value.cpu()
            if sum(value.nbytes for value in found.values()) > LIMIT:
                return {}
        return found

    def duplicates(self, made: Duplicates) -> dict[str, torch.Tensor]:
        """Return the images of a pool that look like a target's test images."""
        from ..select.duplicates import duplicates

        return duplicates(made)

    def neighbours(self, made: Neighbours) -> dict[str, torch.Tensor]:
        """Return the table of each target image's nearest images of a pool."""
        from ..select.selection import neighbours

        return neighbours(made, self)

    def arrays(self, made: Artefact) -> dict[str, torch.Tensor]:
        """Return an artefact's tensors by name, mapped from its file; made first if they are not there, or damaged."""
        while True:
            try:
                return self._file(made)[0]
            except FileNotFoundError:
                pass
            except UserError as e:
                warnings.warn(str(e).replace("delete it and it is made again", "it is made again"), stacklevel=2)
            with self.store.claim(made.key) as mine:
                if mine:
                    found = made.evaluate(self)
                    self.keep(made, found)
                    return found
            time.sleep(LOOK_AGAIN)


def curve(losses: torch.Tensor) -> list[float]:
    """Return the losses of a training in a few points."""
    points = torch.linspace(0, len(losses), CURVE_POINTS + 1).long()
    return [round(losses[a:b].mean().item(), 4) for a, b in itertools.pairwise(points) if b > a]
