"""What a trained network says and thinks about images, without gradients."""

from collections.abc import Sequence

import torch
from torch import nn

from ..data.augment import normalise
from ..data.images import Sample
from ..nets.taps import Reader

BATCH = 250


@torch.inference_mode()
def predict(net: nn.Module, sample: Sample) -> torch.Tensor:
    """Return the logits of a sample, not augmented, as float32 of shape (N, classes) on the sample's device."""
    net.to(memory_format=torch.channels_last).eval()
    return torch.cat([net(normalise(sample.pixels[rows])).float() for rows in sample.rows.split(BATCH)])


def pooled(value: torch.Tensor) -> torch.Tensor:
    """Return activations as vectors: maps (N, C, H, W) and token sequences (N, T, C) averaged, vectors as they are."""
    if value.ndim == 3:
        return value.mean(1)
    return value.flatten(2).mean(2) if value.ndim > 2 else value


@torch.inference_mode()
def features(net: nn.Module, sample: Sample, taps: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return activations of a sample at taps, each image read once for all of them.

    Returns
    -------
    dict of str to Tensor of float32, shape (N, units)
        Maps are averaged over their positions, tokens over the sequence.

    Raises
    ------
    UserError
        If the network has no such tap.
    """
    net.to(memory_format=torch.channels_last).eval()
    parts: dict[str, list[torch.Tensor]] = {tap: [] for tap in taps}
    with Reader(net, tuple(taps)) as reader:
        for rows in sample.rows.split(BATCH):
            net(normalise(sample.pixels[rows]))
            for tap, value in reader.read.items():
                parts[tap].append(pooled(value.float()))
    return {tap: torch.cat(values) for tap, values in parts.items()}
