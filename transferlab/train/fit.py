"""The one training loop, for one network or for many of one shape at once."""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from ..data.augment import BLOCK
from ..data.images import Sample
from ..specs import Recipe
from . import processes
from .checkpoint import Checkpoint
from .feed import Batch, Feed
from .pack import Loss, Trainee, best_size, step_seconds, team
from .steps import Captured, Stepwise, apart


class Diverged(Exception):
    """The loss stopped being a number; `step` says when it was noticed."""

    def __init__(self, step: int) -> None:
        super().__init__(f"the loss was no longer finite by step {step}")
        self.step = step


def cross_entropy(net: nn.Module, batch: Batch, recipe: Recipe) -> torch.Tensor:
    """Return the mean cross-entropy of a batch, labels smoothed as the recipe says."""
    return F.cross_entropy(net(batch.images), batch.labels, label_smoothing=recipe.label_smoothing)


def fit(
    net: nn.Module,
    sample: Sample,
    recipe: Recipe,
    seed: int,
    multiples: dict[nn.Module, float] | None = None,
    loss: Loss = cross_entropy,
    checkpoint: Checkpoint | None = None,
) -> torch.Tensor:
    """Train a network in place.

    Parameters
    ----------
    net, sample, recipe, seed, multiples
        As in `Trainee`.
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
    return finite(fit_together([Trainee(net, sample, recipe, seed, multiples or {})], loss, checkpoint)[0])


def fit_together(trainees: Sequence[Trainee], loss: Loss = cross_entropy, checkpoint: Checkpoint | None = None) -> torch.Tensor:
    """Train K networks in place, at once.

    Parameters
    ----------
    trainees : sequence of Trainee, length K
        On one device; networks of one shape; recipes that differ in learning rate, decay and momentum only.
    loss : callable
        From network, batch and recipe to a scalar. For K > 1 it is given copies of the networks, which stay as they
        are until training is over.
    checkpoint : Checkpoint, optional

    Returns
    -------
    Tensor of float32, shape (K, steps)
        Of a network that diverged, no longer finite from some step on (`finite`); the others are not touched by that. When
        all have diverged, training ends with the block.
    """
    recipe, device = trainees[0].recipe, trainees[0].sample.labels.device
    feed = Feed([t.sample for t in trainees], recipe, [t.seed for t in trainees])
    losses = torch.zeros(len(trainees), recipe.steps, device=device)
    draws = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with draws, apart(device):
        captured = may_be_captured(device, loss)
        nets = team(trainees, loss, captured)
        torch.manual_seed(trainees[0].seed + processes.number())  # of dropout
        step = checkpoint.resume(nets, feed, losses) if checkpoint else 0
        pace = (Captured if captured else Stepwise)(nets, feed, recipe, losses)
        while step < recipe.steps:
            first, before = step - step % BLOCK, feed.state()
            block = feed.block(min(BLOCK, recipe.steps - first))
            pace.start(block, step - first, step)
            for i in range(step - first, len(block.index)):
                pace.go(i, step)
                step += 1
                if checkpoint and processes.number() == 0 and checkpoint.due():
                    state = before if step % BLOCK else feed.state()
                    checkpoint.keep(nets, state, losses, step)
            processes.mean(losses[:, first:step])
            if not losses[:, first:step].isfinite().all(1).any():
                break
        nets.finish()
    return losses.cpu()


def may_be_captured(device: torch.device, loss: Loss) -> bool:
    """Whether a step does the same each time: a loss of one's own may look at the network that it was made for, or count."""
    return device.type == "cuda" and processes.count() == 1 and loss is cross_entropy


def finite(losses: torch.Tensor) -> torch.Tensor:
    """Return the losses of one network, shape (steps,).

    Raises
    ------
    Diverged
        If they stopped being finite.
    """
    good = losses.isfinite()
    if not good.all():
        raise Diverged(min(len(losses), (int(good.int().argmin()) // BLOCK + 1) * BLOCK))
    return losses


def pack_size(trainees: Sequence[Trainee]) -> int:
    """Find out, in a few seconds, how many of `trainees` to train at once on their device."""

    def run(some: Sequence[Trainee], steps: int) -> None:
        fit_together([replace(t, recipe=replace(t.recipe, steps=steps)) for t in some])

    return best_size(trainees, lambda some: step_seconds(some, run))
