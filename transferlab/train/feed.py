"""Batches for one training run or for many at once: one gather from images that stay where they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from ..data.augment import Draws, Sampler, crop_flip, luma, normalise
from ..specs.recipe import Recipe
from . import processes

if TYPE_CHECKING:
    from .run import Run, Stream


@dataclass(frozen=True)
class Batch:
    """What one step of one run sees: images (B, 3, H, W), or activations of frozen layers, and labels (B,).

    With a second stream also its images and labels, B of them, each drawn with the one in its place.
    """

    images: torch.Tensor
    labels: torch.Tensor
    second: Batch | None = None

    def split(self, count: int) -> list[Batch]:
        """Return the batches of `count` runs, which are one after another here."""
        second = self.second.split(count) if self.second else [None] * count
        return [Batch(*each) for each in zip(self.images.chunk(count), self.labels.chunk(count), second, strict=True)]


class TableSampler:
    """Draws an image with each that another sampler draws: one of its row of a table, uniformly; and its augmentation.

    Parameters
    ----------
    table : Tensor of int64, shape (n, K)
        As in `Stream`.
    batch, pad, seed
        As in `Sampler`.
    """

    def __init__(self, table: torch.Tensor, batch: int, pad: int, seed: int) -> None:
        self.table, self.batch, self.pad = table.cpu(), batch, pad
        self.counts = (self.table >= 0).sum(1)
        self.generator = torch.Generator().manual_seed(seed)

    def block(self, steps: int, index: torch.Tensor) -> Draws:
        """Return the random part of the next steps, in which the other sampler drew `index`."""
        share = torch.rand(steps, self.batch, dtype=torch.float64, generator=self.generator)
        shift = torch.randint(-self.pad, self.pad + 1, (steps, self.batch, 2), generator=self.generator)
        mirror = torch.rand(steps, self.batch, generator=self.generator) < 0.5
        return Draws(self.table[index, (share * self.counts[index]).long()], shift, mirror)

    def state(self) -> dict[str, torch.Tensor]:
        """Return what the next block depends on."""
        return {"generator": self.generator.get_state()}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Go back to where `state` was taken."""
        self.generator.set_state(state["generator"])


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
        self.samplers = [
            Sampler(len(s.sample.labels), recipe.batch, self.pad, s.seed)
            if s.table is None
            else TableSampler(s.table, recipe.batch, self.pad, s.seed)
            for s in streams
        ]
        self.part = processes.part(recipe.batch)
        each = len(range(recipe.batch)[self.part])
        images = [(s.pixels.to(self.where), s.grey) for s in samples]
        one = len({(pixels.data_ptr(), grey) for pixels, grey in images}) == 1
        slices = [slice(None)] if one else [slice(k * each, (k + 1) * each) for k in range(len(samples))]
        self.images = [(*image, some) for image, some in zip(images, slices, strict=False)]
        self.rows, self.labels = (_joined(getattr(s, n).to(self.where) for s in samples) for n in ("rows", "labels"))
        self.starts = list(accumulate((len(s.labels) for s in samples), initial=0))[:-1]

    def block(self, drawn: Sequence[Draws]) -> Draws:
        """Return the draws of the runs side by side: shape (steps, K * batch) and so on."""
        parts = [d.part(self.part).parts for d in drawn]
        index, shift, mirror = zip(*parts, strict=True)
        index = [i + start if start else i for i, start in zip(index, self.starts, strict=True)]
        return Draws(*(torch.cat(each, 1) for each in (index, shift, mirror))).to(self.where)

    def batch(self, drawn: Draws, step: int | torch.Tensor, second: Batch | None = None) -> Batch:
        """Return one step's images, augmented and normalised, and labels, of all runs one after another."""
        one = drawn.at(step)
        rows, parts = self.rows[one.index], []
        for pixels, grey, some in self.images:
            its = rows[some]
            its = crop_flip(pixels, its, one.shift[some], one.mirror[some]) if self.pad else pixels[its]
            parts.append(luma(its) if grey else its)
        pixels, labels = (t.to(self.device, non_blocking=True) for t in (_joined(parts), self.labels[one.index]))
        return Batch(normalise(pixels) if pixels.dtype == torch.uint8 else pixels, labels, second)


class Feed:
    """Draws the batches of K runs of one batch size and one number of streams, each by its own seeds.

    Where several processes train together, each draws everything and sees its part.

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
        first = [s.block(steps) for s in self.pools[0].samplers]
        drawn = [first]
        for pool in self.pools[1:]:
            pairs = zip(pool.samplers, first, strict=True)
            drawn.append([s.block(steps, d.index) if isinstance(s, TableSampler) else s.block(steps) for s, d in pairs])
        return [pool.block(each) for pool, each in zip(self.pools, drawn, strict=True)]

    def batch(self, block: Sequence[Draws], step: int | torch.Tensor) -> Batch:
        """Return the batch of one step of a block, of all runs."""
        batch = None
        for pool, drawn in reversed(list(zip(self.pools, block, strict=True))):
            batch = pool.batch(drawn, step, batch)
        return batch

    def state(self) -> list[dict[str, torch.Tensor]]:
        """Return what the next block depends on."""
        return [s.state() for s in self.samplers]

    def restore(self, state: list[dict[str, torch.Tensor]]) -> None:
        """Go back to where `state` was taken."""
        for sampler, kept in zip(self.samplers, state, strict=True):
            sampler.restore(kept)


def _joined(parts: Iterable[torch.Tensor]) -> torch.Tensor:
    parts = list(parts)
    return torch.cat(parts) if len(parts) > 1 else parts[0]
