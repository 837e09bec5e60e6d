"""A training as a value: the network, the images and everything else that it depends on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..data.images import Sample
from ..errors import check
from ..nets.build import head_of
from ..specs.recipe import Recipe
from .objectives import CrossEntropy, Objective
from .optim import RelativeGradientNorm


@dataclass(frozen=True, eq=False)
class Stream:
    """Where images come from.

    Attributes
    ----------
    sample : Sample
    seed : int
        Of the order and the augmentation, drawn on the CPU, so the same on every device.
    table : Tensor of int64, shape (n, K), optional
        Of a second stream: for each of the n images of the first, positions in this sample, -1 behind their end. With
        each image that the first draws one of its row is drawn, uniformly. Without a table it draws its own epochs.
    """

    sample: Sample
    seed: int
    table: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class Run:
    """A network to train in place, and all that its training depends on.

    Attributes
    ----------
    net : Module
        On the device that trains it. Frozen layers stay as they are.
    streams : tuple of Stream
        One, or two: the second's images come as `Batch.second`.
    recipe : Recipe
        With a single learning rate.
    seed : int
        Of dropout.
    lr_multipliers : dict of Module to float or sequence of float
        Learning rates of parts of the network as multiples of the recipe's, one or one a step. Where it is 0 at a step,
        the part rests: it neither moves nor decays, and gathers no momentum.
    objective : Objective
    snapshots : collection of int
        Numbers of steps after which the network is kept.
    watchers : tuple
        What looks at the network while it is trained, before some steps change it. Each has the numbers of these
        `steps` and a dict `found`; ``bind(net)`` gives it the whole network that is really trained, ``look(step)``
        returns the context in which the loss of a step is computed, and ``state()`` what ``restore(state)`` goes back
        to, of plain values and tensors.
    whole : Module, optional
        The network whose last part `net` is, where the rest is frozen: samples then hold activations instead of pixels.
    gradient_scale : RelativeGradientNorm, optional
        Multipliers of tensors that are found anew now and then, on top of `lr_multipliers`.
    stop : int, optional
        Steps to take, if not all: they are those of the full training.
    known : mapping of str to float
        Numbers for the record that are known before the first step, such as how many images there are.
    """

    net: nn.Module
    streams: tuple[Stream, ...]
    recipe: Recipe
    seed: int
    lr_multipliers: dict[nn.Module, float | Sequence[float]] = field(default_factory=dict)
    objective: Objective = field(default_factory=CrossEntropy)
    snapshots: Collection[int] = ()
    watchers: tuple[Any, ...] = ()
    whole: nn.Module | None = None
    gradient_scale: RelativeGradientNorm | None = None
    stop: int | None = None
    known: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        steps = self.recipe.steps
        check(0 < self.last <= steps, "stop", self.stop, f"must be 1 to {steps}, the recipe's steps")
        for step in self.snapshots:
            check(0 <= step <= self.last, "snapshots", step, f"must be 0 to {self.last}, the steps that are taken")
        for m in self.lr_multipliers.values():
            count = steps if isinstance(m, float | int) else len(m)
            check(count == steps, "lr_multipliers", count, f"must be one, or {steps}, the recipe's steps")
        labels = self.streams[0].sample.labels
        several, count = labels.ndim == 2, len(labels)
        linear = not several or head_of(self.trained)[2].weight.ndim == 2
        check(linear, "task", "multi-label", "wants a head that is a linear layer, without a ReLU behind it")
        for table, size in ((s.table, len(s.sample.labels)) for s in self.streams[1:] if s.table is not None):
            check(len(table) == count, "table", len(table), f"must have a row for each of the {count} images")
            filled = bool((table[:, :1] >= 0).all()) and int(table.max()) < size
            check(filled, "table", tuple(table.shape), f"every row must name images, from 0 to {size - 1}")

    @property
    def trained(self) -> nn.Module:
        """The network that training leaves, from pixels to logits."""
        return self.whole or self.net

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.net.parameters()).device

    @property
    def last(self) -> int:
        """The number of steps that are taken."""
        return self.recipe.steps if self.stop is None else self.stop
