"""What a trained network says and thinks about images, without gradients."""

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ..data.augment import luma, normalise
from ..data.images import Sample
from ..errors import choose
from ..nets.detector import detections
from ..nets.taps import kept_inputs, reading
from ..specs.serial import positive

BATCH = 250
PIXELS = ("pixels", "colours")


def batches(net: nn.Module, sample: Sample) -> Iterator[torch.Tensor]:
    """Yield a sample's images as a network takes them, on its device, not augmented, and make the network ready."""
    net.to(memory_format=torch.channels_last).eval()
    device = next(net.parameters()).device
    # what a core's cache holds of large images; on a CPU that is twice as fast
    count = BATCH if device.type == "cuda" else max(8, min(BATCH, BATCH * 32**2 // sample.pixels.shape[1] ** 2))
    # the pixels may be too many for the network's device
    for rows in sample.rows.to(sample.pixels.device).split(count):
        images = sample.pixels[rows].to(device)
        yield normalise(luma(images) if sample.grey else images)


@torch.inference_mode()
def predict(net: nn.Module, sample: Sample) -> torch.Tensor:
    """Return the logits of a sample, not augmented, as float32 of shape (N, classes) on the network's device."""
    return torch.cat([net(images).float() for images in batches(net, sample)])


@torch.inference_mode()
def detected(net: nn.Module, sample: Sample) -> list[dict[str, torch.Tensor]]:
    """Return what a detector finds in each image of a sample, not augmented: see `nets.detector.detections`."""
    return [one for images in batches(net, sample) for one in detections(net, images)]


def pooled(value: torch.Tensor, grid: int | None = 1, pool: str = "mean") -> torch.Tensor:
    """Return activations as vectors: maps (N, C, H, W) pooled to `grid` x `grid` positions, which follow each other
    channel by channel, token sequences (N, T, C) pooled, vectors as they are; without a grid all as they are.
    """
    if value.ndim == 2 or grid is None:
        return value
    if value.ndim == 3:
        return value.mean(1) if pool == "mean" else value.amax(1)
    if grid == 1 and pool == "mean":
        return value.flatten(2).mean(2)
    return (F.adaptive_avg_pool2d if pool == "mean" else F.adaptive_max_pool2d)(value, grid).flatten(1)


@torch.inference_mode()
def read(net: nn.Module, sample: Sample, taps: Sequence[str], grid: int | None = 1, pool: str = "mean") -> dict:
    """Return activations of a sample at taps, each image read once for all of them.

    Parameters
    ----------
    net : Module
    sample : Sample
    taps : sequence of str
        As in `nets.taps.taps`.
    grid : int, optional
        Maps are pooled to so many positions in each direction; ``None`` leaves them, and tokens, as they are.
    pool : {"mean", "max"}

    Returns
    -------
    dict of str to Tensor of float32, shape (N, units), or (N, channels * grid * grid) for maps
        On the network's device.

    Raises
    ------
    UserError
        If the network has no such tap.
    """
    choose("pool", pool, ("mean", "max"))
    if grid is not None:
        positive("grid", grid)
    parts: dict[str, list[torch.Tensor]] = {tap: [] for tap in taps}
    with reading(net, taps) as found:
        for images in batches(net, sample):
            net(images)
            for tap, value in found.items():
                parts[tap].append(pooled(value.float(), grid, pool))
    return {tap: torch.cat(values) for tap, values in parts.items()}


def without_network(sample: Sample, what: str) -> torch.Tensor:
    """Return what images are without any network, as float32 (N, units): ``pixels``, thumbnails of 16 x 16 colours, or
    ``colours``, the share of the image in each of 4 x 4 x 4 bins of red, green and blue.
    """
    choose("what", what, PIXELS)
    found, places = [], torch.tensor([16, 4, 1])
    for rows in sample.rows.to(sample.pixels.device).split(BATCH):
        images = sample.pixels[rows].cpu()
        if what == "pixels":
            found.append(F.adaptive_avg_pool2d(images.permute(0, 3, 1, 2).float() / 255, 16).flatten(1))
        else:
            bins = ((images >> 6).long() * places).sum(3).flatten(1)
            share = torch.full(bins.shape, 1 / bins.shape[1])
            found.append(torch.zeros(len(bins), 64).scatter_add_(1, bins, share))
    return torch.cat(found)


@torch.no_grad()
def inputs_of(net: nn.Module, module: nn.Module, sample: Sample) -> torch.Tensor:
    """Return what a module of a network is given for a sample's images, not augmented: float32, one row an image."""
    parts: list[torch.Tensor] = []
    with kept_inputs(module, parts.append):
        for images in batches(net, sample):
            net(images)
    return torch.cat(parts).float()
