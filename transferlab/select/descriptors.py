"""What an image looks like at a low level: per channel of a filter bank a histogram over bins of equal mass.

Ge and Yu (2017), sec. 3.2, as their released code has it where the paper is silent. For comparison what it looks like
to a network as a whole. Images are the centre crops that are stored, so a descriptor is always the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..data.images import Sample
from ..errors import UserError, check
from ..nets.build import head_of
from ..nets.taps import kept_inputs
from ..specs import DeepFeatures, Gabor, Selection
from ..train.read import batches
from .search import Nearest, NearestByAngle, NearestByDivergence

POOLED = 1 << 30  # bytes of pooled responses that are sorted at once
AT_A_TIME = 1 << 24  # responses that are put into bins at once
CELLS = 2000  # of the released walk


class GaborBank(nn.Module):
    """The filters that a `Gabor` describes: grey images (N, 3, H, W) to one layer of responses (N, channels, H, W)."""

    grey = True

    def __init__(self, spec: Gabor) -> None:
        super().__init__()
        ratio = (spec.lowest / spec.highest) ** (1 / max(1, spec.scales - 1))
        kernels = (gabor(spec, spec.highest * ratio**scale).float() for scale in range(spec.scales))
        self.kernels = nn.ParameterList(nn.Parameter(kernel, requires_grad=False) for kernel in kernels)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        grey, reach = images[:, :1], [[kernel.shape[-1] // 2] * 4 for kernel in self.kernels]
        padded = [F.pad(grey, ends, mode="reflect") for ends in reach]
        return [torch.cat([F.conv2d(*each) for each in zip(padded, self.kernels, strict=True)], 1)]


def gabor(spec: Gabor, frequency: float) -> torch.Tensor:
    """Return the filters of one frequency, float64 (2 orientations, 1, side, side): real parts, then imaginary ones."""
    deviation = spec.width / frequency
    reach = round(spec.extent * deviation)
    y, x = torch.meshgrid(*[torch.arange(-reach, reach + 1).double()] * 2, indexing="ij")
    window = torch.exp(-(x**2 + y**2) / (2 * deviation**2))
    angles = torch.arange(spec.orientations).double()[:, None, None] * math.pi / spec.orientations
    phases = 2 * math.pi * frequency * (x * angles.cos() + y * angles.sin())
    real, imaginary = window * phases.cos(), window * phases.sin()
    real -= window * real.sum((1, 2), keepdim=True) / window.sum()
    return torch.cat([real, imaginary])[:, None] / window.sum()


class Enough(Exception):
    """What is read of a network is there; the rest of it need not run."""


class FirstTwo(nn.Module):
    """The first two convolutions that a network executes: images to two layers of responses (N, channels, H, W).

    Parameters
    ----------
    net : Module
    relu : bool
        Behind the ReLU that follows each of them.
    """

    def __init__(self, net: nn.Module, relu: bool) -> None:
        super().__init__()
        self.net, self.relu, self.awaited, self.read = net, relu, False, []
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.ReLU | nn.ReLU6):
                module.register_forward_hook(self._see)

    def _see(self, module: nn.Module, _: Any, output: torch.Tensor) -> None:
        convolution = isinstance(module, nn.Conv2d)
        if self.awaited if self.relu and not convolution else convolution and not self.relu:
            self.read.append(output.clone())  # what follows may work in place
        self.awaited = convolution
        if len(self.read) == 2:
            raise Enough

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        self.read, self.awaited = [], False
        try:
            self.net(images)
        except Enough:
            return self.read
        wanted = "two convolutions, each with a ReLU behind it" if self.relu else "two convolutions"
        raise UserError(f"network (={type(self.net).__name__}): has to begin with {wanted}, as modules of their own")


@torch.inference_mode()
def responses(bank: nn.Module, sample: Sample) -> Iterator[list[torch.Tensor]]:
    """Yield the responses to some images after others, by layer: float32 (images, channels, positions)."""
    for images in batches(bank, replace(sample, grey=getattr(bank, "grey", False))):
        yield [value.float().flatten(2) for value in bank(images)]


def ordered(values: torch.Tensor) -> torch.Tensor:
    """Return values sorted along the last dimension."""
    if values.device.type == "cpu":  # many times as fast as PyTorch's own
        return torch.from_numpy(np.sort(values.contiguous().numpy()))
    return values.contiguous().sort().values


def quantile_edges(pooled: torch.Tensor, bins: int) -> torch.Tensor:
    """Return the inner edges of bins of equal mass, exactly: order statistics of each row, (rows, bins - 1).

    A bin begins at its lower edge. Equal responses are all in one bin; those that are as many as several bins' worth
    leave the others empty.
    """
    count = pooled.shape[1]
    at = torch.arange(1, bins, device=pooled.device) * count // bins
    return ordered(pooled)[:, at].contiguous()


def walk_edges(pooled: torch.Tensor, bins: int) -> torch.Tensor:
    """Return the inner edges that the released code finds, (rows, bins - 1).

    It counts over 2,000 cells of equal width and adds their shares up. Where these come to m bins' worth or more (m
    whole), what was walked since the last edge is cut into m bins of equal width, and what is over is forgotten. The
    bins that are left at the end share what is left of the range (``feature_statistics_layer.cpp``).
    """
    rows = []
    for values in pooled:
        low, high = values.min().item(), values.max().item()
        width = (high - low) / CELLS
        cells = ((values.double() - low) / (width or 1)).long().clamp(0, CELLS - 1)
        shares = (torch.bincount(cells, minlength=CELLS).double() / (len(values) + 1)).tolist()
        edges, start, share = [], low, 0.0
        for number, part in enumerate(shares, start=1):
            share += part
            if parts := int(share * bins):
                end = low + width * number
                edges += [start + (end - start) * n / parts for n in range(1, parts + 1)]
                start, share = end, 0.0
        left = bins - len(edges)
        rows.append((edges + [start + (high - start) * n / left for n in range(1, left + 1)])[:-1])
    return torch.tensor(rows, dtype=pooled.dtype, device=pooled.device)


def counted(values: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """Return how many responses (n, channels, positions) fall into each bin: int32 (n, channels * bins)."""
    below = torch.searchsorted(ordered(values), edges.expand(len(values), -1, -1).contiguous(), out_int32=True)
    below = F.pad(below, (1, 1))
    below[..., -1] = values.shape[2]
    return below.diff(dim=2).flatten(1)


@dataclass(frozen=True, eq=False)
class Histograms:
    """How images become concatenated histograms, kept as counts in the smallest integers that hold them.

    Attributes
    ----------
    bank : Module
    edges : sequence of Tensor, each (channels, bins - 1)
        Of each layer. What lies beyond a target's own responses falls into the bins at the ends.
    positions : sequence of int
        Of each layer's maps.
    """

    bank: nn.Module
    edges: Sequence[torch.Tensor]
    positions: Sequence[int]

    @classmethod
    def fitted(cls, selection: Selection, bank: nn.Module, sample: Sample) -> Histograms:
        """Return histograms whose bins have equal mass in a sample, whose responses are pooled, some channels at once.

        Raises
        ------
        UserError
            If a response is no finite number.
        """
        find = {"quantiles": quantile_edges, "walk": walk_edges}[selection.binning]
        shapes, edges = [value.shape[1:] for value in next(responses(bank, sample))], []
        for layer, (channels, positions) in enumerate(shapes):
            parts = []
            for those in torch.arange(channels).split(max(1, POOLED // (4 * len(sample.rows) * positions))):
                pooled = [value[layer][:, those].transpose(0, 1).flatten(1) for value in responses(bank, sample)]
                parts.append(find(torch.cat(pooled, 1), selection.bins))
            edges.append(torch.cat(parts))
            finite = bool(edges[-1].isfinite().all())
            check(finite, "selection", selection.kind, "responds with what is no finite number")
        return cls(bank, edges, [positions for _, positions in shapes])

    @property
    def shares(self) -> torch.Tensor:
        """What a count stands for, float32 (dimensions,): one over the number of positions."""
        return self._spread([1 / count for count in self.positions])

    @property
    def weights(self) -> torch.Tensor:
        """Weight of each dimension, float32 (dimensions,): layers weigh alike, as do the channels of one.

        With two layers 0.5 / channels, as in the released code.
        """
        return self._spread([1 / len(self.edges) / len(edges) for edges in self.edges])

    def _spread(self, values: Sequence[float]) -> torch.Tensor:
        sizes = [edges.numel() + len(edges) for edges in self.edges]
        return torch.tensor(values).repeat_interleave(torch.tensor(sizes))

    def nearest(self, target: torch.Tensor, k: int) -> Nearest:
        """Return what finds the `k` nearest of each of a target's histograms."""
        return NearestByDivergence(target, k, self.shares, self.weights)

    def of(self, sample: Sample) -> Iterator[torch.Tensor]:
        """Yield the histograms of some images after others, integers (images, dimensions)."""
        most = max(self.positions)
        kind = torch.uint8 if most < 1 << 8 else torch.int16 if most < 1 << 15 else torch.int32
        some = max(1, AT_A_TIME // sum(len(e) * n for e, n in zip(self.edges, self.positions, strict=True)))
        for layers in responses(self.bank, sample):
            for parts in zip(*(value.split(some) for value in layers), strict=True):
                yield torch.cat([counted(*each).to(kind) for each in zip(parts, self.edges, strict=True)], 1)


@dataclass(frozen=True, eq=False)
class Directions:
    """How images become what the head of a network reads, at length 1."""

    net: nn.Module

    @torch.inference_mode()
    def of(self, sample: Sample) -> Iterator[torch.Tensor]:
        """Yield the directions of some images after others, float32 (images, dimensions).

        Raises
        ------
        UserError
            If one is no finite number.
        """
        read: list[torch.Tensor] = []
        with kept_inputs(head_of(self.net)[2], read.append):
            for images in batches(self.net, sample):
                self.net(images)
                found = F.normalize(read.pop().float().flatten(1), dim=1)
                finite = bool(found.isfinite().all())
                check(finite, "network", type(self.net).__name__, "responds with no finite number")
                yield found

    def nearest(self, target: torch.Tensor, k: int) -> Nearest:
        """Return what finds the `k` nearest of each of a target's directions."""
        return NearestByAngle(target, k)


def descriptors(selection: Selection, size: int, context: Any, sample: Sample) -> Histograms | Directions:
    """Return how images become descriptors; bins are those of a sample."""
    if isinstance(selection, Gabor):
        return Histograms.fitted(selection, GaborBank(selection).to(context.device), sample)
    net = context.load(selection.network, size)
    if isinstance(selection, DeepFeatures):
        return Directions(net)
    return Histograms.fitted(selection, FirstTwo(net, bool(selection.relu)), sample)
