"""Batches for one training run or for many at once: one gather from images that stay where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from ..data.augment import Draws, Sampler, crop_flip, normalise
from ..data.images import Sample
from ..specs import Recipe
from . import processes


@dataclass(frozen=True)
class Batch:
    """What one step of one run sees: images (B, 3, H, W), or activations of frozen layers, and labels (B,)."""

    images: torch.Tensor
    labels: torch.Tensor


class Feed:
    """Draws the batches of K runs of one batch size, each from its own sample and by its own seed.

    Where several processes train together, each draws everything and sees its part.

    Parameters
    ----------
    samples : sequence of Sample, length K
        On one device, of one image size. Samples of the same images share them in memory.
    recipe : Recipe
        For the batch size and the augmentation.
    seeds : sequence of int, length K

    Raises
    ------
    UserError
        If a sample has no images.
    """

    def __init__(self, samples: Sequence[Sample], recipe: Recipe, seeds: Sequence[int]) -> None:
        self.pad = samples[0].pixels.shape[1] // 8 if recipe.augment == "crop-flip" else 0
        self.samplers = [Sampler(len(s.labels), recipe.batch, self.pad, seed) for s, seed in zip(samples, seeds, strict=True)]
        pools = {s.pixels.data_ptr(): s.pixels for s in samples}
        starts = dict(zip(pools, _starts(map(len, pools.values())), strict=True))
        self.pixels = _joined(pools.values())
        self.rows = _joined(s.rows + starts[s.pixels.data_ptr()] if len(pools) > 1 else s.rows for s in samples)
        self.labels = _joined(s.labels for s in samples)
        self.starts = _starts(len(s.labels) for s in samples)
        self.part = processes.part(recipe.batch)

    def block(self, steps: int) -> Draws:
        """Return the random part of the next steps, the runs side by side: shape (steps, K * batch) and so on."""
        drawn = [s.block(steps).part(self.part) for s in self.samplers]
        index = [d.index + start if start else d.index for d, start in zip(drawn, self.starts, strict=True)]
        drawn = Draws(*(torch.cat(part, 1) for part in (index, [d.shift for d in drawn], [d.mirror for d in drawn])))
        return drawn.to(self.labels.device)

    def batch(self, drawn: Draws, step: int | torch.Tensor) -> Batch:
        """Return one step's images, augmented and normalised, and labels, of all runs one after another."""
        one = drawn.at(step)
        rows = self.rows[one.index]
        pixels = crop_flip(self.pixels, rows, one.shift, one.mirror) if self.pad else self.pixels[rows]
        return Batch(normalise(pixels) if pixels.dtype == torch.uint8 else pixels, self.labels[one.index])

    def state(self) -> list[dict[str, torch.Tensor]]:
        """Return what the next block depends on."""
        return [s.state() for s in self.samplers]

    def restore(self, state: list[dict[str, torch.Tensor]]) -> None:
        """Go back to where `state` was taken."""
        for sampler, kept in zip(self.samplers, state, strict=True):
            sampler.restore(kept)


def _joined(parts) -> torch.Tensor:
    parts = list(parts)
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _starts(lengths) -> list[int]:
    return list(accumulate(lengths, initial=0))[:-1]
