"""The one training loop."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ..data.augment import BLOCK, Sampler, crop_flip, normalise
from ..data.images import Sample
from ..nets.taps import train_mode
from ..specs import Recipe
from .checkpoint import Checkpoint
from .optim import factor, optimiser, parameter_groups


class Diverged(Exception):
    """The loss stopped being a number; `step` says when it was noticed."""

    def __init__(self, step: int) -> None:
        super().__init__(f"the loss was no longer finite by step {step}")
        self.step = step


@dataclass(frozen=True)
class Batch:
    """What one step sees: images (B, 3, H, W), labels (B,)."""

    images: torch.Tensor
    labels: torch.Tensor


def cross_entropy(net: nn.Module, batch: Batch, recipe: Recipe) -> torch.Tensor:
    """Return the mean cross-entropy of a batch, labels smoothed as the recipe says."""
    return F.cross_entropy(net(batch.images), batch.labels, label_smoothing=recipe.label_smoothing)


def fit(
    net: nn.Module,
    sample: Sample,
    recipe: Recipe,
    seed: int,
    multiples: dict[nn.Module, float] | None = None,
    loss: Callable[[nn.Module, Batch, Recipe], torch.Tensor] = cross_entropy,
    checkpoint: Checkpoint | None = None,
) -> torch.Tensor:
    """Train a network in place.

    Parameters
    ----------
    net : Module
        On the device of the sample. Frozen layers stay as they are.
    sample : Sample
        uint8 images on the device; batches are gathered from them by index.
    recipe : Recipe
        With a single learning rate.
    seed : int
        Of the order and the augmentation, drawn on the CPU, so the same on every device; and of dropout, drawn on the device.
    multiples : dict of Module to float, optional
        Learning rates of parts of the network as multiples of the recipe's.
    loss : callable
        From network, batch and recipe to a scalar.
    checkpoint : Checkpoint, optional
        Where a long run keeps its state now and then, and goes on from.

    Returns
    -------
    Tensor of float32, shape (steps,)
        The training loss of every step, on the CPU.

    Raises
    ------
    Diverged
        If the loss stops being finite; looked at after every block of steps, so that no step waits for the device.
    """
    device = sample.labels.device
    net.to(memory_format=torch.channels_last)
    train_mode(net)
    sgd = optimiser(parameter_groups(net, recipe, multiples or {}), recipe)
    pad = sample.pixels.shape[1] // 8 if recipe.augment == "crop-flip" else 0
    sampler = Sampler(len(sample.labels), recipe.batch, pad, seed)
    losses = torch.zeros(recipe.steps, device=device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)  # of dropout, in the networks that have it
        step = checkpoint.resume(net, sgd, sampler, losses) if checkpoint else 0
        while step < recipe.steps:
            first, drawn = step - step % BLOCK, sampler.state()
            block = sampler.block(min(BLOCK, recipe.steps - first)).to(device)
            for i in range(step - first, len(block.index)):
                rows = sample.rows[block.index[i]]
                pixels = crop_flip(sample.pixels, rows, block.shift[i], block.mirror[i]) if pad else sample.pixels[rows]
                batch = Batch(normalise(pixels), sample.labels[block.index[i]])
                for group in sgd.param_groups:
                    group["lr"] = group["peak"] * factor(recipe, step)
                with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
                    value = loss(net, batch, recipe)
                sgd.zero_grad(set_to_none=True)
                value.backward()
                sgd.step()
                losses[step] = value.detach()
                step += 1
                if checkpoint and checkpoint.due():
                    checkpoint.keep(net, sgd, drawn, losses, step)
            if not losses[first:step].isfinite().all():
                raise Diverged(step)
    return losses.cpu()
