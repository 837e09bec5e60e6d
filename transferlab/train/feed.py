"""Batches for one training run or for many at once: one gather from images that stay where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..data.augment import Draws, Sampler, crop_flip, crop_flip_boxes, luma, normalise
from ..specs.recipe import Recipe

if TYPE_CHECKING:
    from .run import Run, Stream


@dataclass(frozen=True)
class Batch:
    """What one step of one run sees: images (B, 3, H, W), or activations of frozen layers, and labels (B,), or as
    `Sample.labels` has them.

    With a second stream also its images and labels, B of them, each drawn with the one in its place.
    """

    images: torch.Tensor
    labels: torch.Tensor
    second: Batch | None = None

    def split(self, count: int) -> list[Batch]:
        """Return the batches of `count` runs, which are one after another here."""
        second = self.second.split(count) if self.second else [None] * count
        return [Batch(*each) for each in zip(self.images.chunk(count), self.labels.chunk(count), second, strict=True)]


class Pool:
    """The images of the same stream of K runs, and what draws them.

    Parameters
    ----------
    streams : sequence of Stream, length K
        Of one image size. Where images stay on the host, they are gathered there.
    recipe : Recipe
        For the batch size and the augmentation.
    device : torch.device
        Where batches go.
    """

    def __init__(self, streams: Sequence[Stream], recipe: Recipe, device: torch.device) -> None:
        samples, self.device = [s.sample for s in streams], device
        self.on_device = all(s.pixels.device == device for s in samples)
        self.where = device if self.on_device else torch.device("cpu")
        self.pad = samples[0].pixels.shape[1] // 8 if recipe.augment == "crop-flip" else 0
        self.samplers = [Sampler(len(s.sample.labels), recipe.batch, self.pad, s.seed, s.table) for s in streams]
        self.images = [(s.pixels.to(self.where), s.grey) for s in samples]
        if len({(pixels.data_ptr(), grey) for pixels, grey in self.images}) == 1:  # one gather for all
            del self.images[1:]
        self.rows = torch.cat([s.rows.to(self.where) for s in samples])
        self.labels = torch.cat([s.labels.to(self.where) for s in samples])
        counts = torch.tensor([len(s.labels) for s in samples])
        self.starts = (counts.cumsum(0) - counts).repeat_interleave(recipe.batch)

    def block(self, drawn: Sequence[Draws]) -> Draws:
        """Return the draws of the runs side by side: shape (steps, K * batch) and so on."""
        parts = zip(*(d.parts for d in drawn), strict=True)
        index, shift, mirror = (torch.cat(each, 1) for each in parts)
        return Draws(index + self.starts, shift, mirror).to(self.where)

    def batch(self, drawn: Draws, step: int | torch.Tensor, second: Batch | None = None) -> Batch:
        """Return one step's images, augmented and normalised, and labels, of all runs one after another."""
        one, parts = drawn.at(step), []
        pieces = (t.chunk(len(self.images)) for t in (self.rows[one.index], one.shift, one.mirror))
        for (pixels, grey), rows, shift, mirror in zip(self.images, *pieces, strict=True):
            its = crop_flip(pixels, rows, shift, mirror) if self.pad else pixels[rows]
            parts.append(luma(its) if grey else its)
        images = (torch.cat(parts) if len(parts) > 1 else parts[0]).to(self.device, non_blocking=True)
        labels = self.labels[one.index]
        if self.pad and labels.ndim == 3:
            labels = crop_flip_boxes(labels, one.shift, one.mirror, images.shape[2])
        labels = labels.to(self.device, non_blocking=True)
        return Batch(normalise(images) if images.dtype == torch.uint8 else images, labels, second)


class Feed:
    """Draws the batches of K runs of one batch size and one number of streams, each by its own seeds.

    Raises
    ------
    UserError
        If a sample has no images.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        recipe, device = runs[0].recipe, runs[0].device
        self.pools = [Pool(streams, recipe, device) for streams in zip(*(r.streams for r in runs), strict=True)]
        self.samplers = [sampler for pool in self.pools for sampler in pool.samplers]
        self.on_device = all(pool.on_device for pool in self.pools)

    def block(self, steps: int) -> list[Draws]:
        """Return the random part of the next steps, for each stream."""
        drawn = [[s.block(steps) for s in self.pools[0].samplers]]
        for pool in self.pools[1:]:
            drawn.append([s.block(steps, first.index) for s, first in zip(pool.samplers, drawn[0], strict=True)])
        return [pool.block(each) for pool, each in zip(self.pools, drawn, strict=True)]

    def batch(self, block: Sequence[Draws], step: int | torch.Tensor) -> Batch:
        """Return the batch of one step of a block, of all runs."""
        batch = None
        for pool, drawn in zip(reversed(self.pools), reversed(block), strict=True):
            batch = pool.batch(drawn, step, batch)
        return batch

    def state(self) -> list[dict[str, torch.Tensor]]:
        """Return what the next block depends on."""
        return [s.state() for s in self.samplers]

    def restore(self, state: list[dict[str, torch.Tensor]]) -> None:
        """Go back to where `state` was taken."""
        for sampler, kept in zip(self.samplers, state, strict=True):
            sampler.restore(kept)
