"""Networks in training: one by PyTorch's own optimiser, or many of one shape side by side.

`Alone` and `Abreast` offer the same to the loop: a step, with its losses, and their state.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import nn

from ..data.images import Sample
from ..nets.taps import train_mode
from ..specs import Recipe
from . import processes
from .feed import Batch
from .optim import optimiser, parameter_groups

Loss = Callable[[nn.Module, Batch, Recipe], torch.Tensor]
GAIN = 1.1  # a larger pack must train images so many times faster
GROWTH = 4  # times that the next pack that is tried is as large
STREAMS = 16  # of networks that train side by side on a GPU
ALIGNED = 32  # numbers: every parameter starts at a multiple of so many


@dataclass(frozen=True, eq=False)
class Trainee:
    """A network to train in place, and all that its training depends on.

    Attributes
    ----------
    net : Module
        On the device of the sample. Frozen layers stay as they are.
    sample : Sample
        uint8 images on the device; batches are gathered from them by index.
    recipe : Recipe
        With a single learning rate.
    seed : int
        Of the order and the augmentation, drawn on the CPU, so the same on every device; and of dropout, drawn on the device.
    multiples : dict of Module to float
        Learning rates of parts of the network as multiples of the recipe's.
    whole : Module, optional
        The network whose last part `net` is, where the rest is frozen: the sample then holds activations instead of pixels.
    """

    net: nn.Module
    sample: Sample
    recipe: Recipe
    seed: int
    multiples: dict[nn.Module, float] = field(default_factory=dict)
    whole: nn.Module | None = None

    @property
    def trained(self) -> nn.Module:
        """The network that training leaves, from pixels to logits."""
        return self.whole or self.net


class Alone:
    """One network in training, by PyTorch's own optimiser; over several processes if there are."""

    def __init__(self, trainee: Trainee, loss: Loss) -> None:
        self.net, self.recipe, self.loss = trainee.net, trainee.recipe, loss
        self.net.to(memory_format=torch.channels_last)
        train_mode(self.net)
        self.sgd = optimiser(parameter_groups(self.net, self.recipe, trainee.multiples), self.recipe)
        self.model = processes.shared(self.net)

    def step(self, batch: Batch, factor: float) -> torch.Tensor:
        """Go one step down, with the learning rates at `factor` of their peaks; return the loss of the batch, shape (1,)."""
        value = lowered(self.loss, self.model, batch, self.recipe)
        for group in self.sgd.param_groups:
            group["lr"] = group["peak"] * factor
        self.sgd.zero_grad(set_to_none=True)
        value.backward()
        self.sgd.step()
        return value.detach()[None]

    def state(self) -> dict[str, Any]:
        """Return what the next step depends on."""
        return {"net": self.net.state_dict(), "sgd": self.sgd.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where `state` was taken."""
        self.net.load_state_dict(state["net"])
        self.sgd.load_state_dict(state["sgd"])

    def finish(self) -> None:
        """Nothing is left to do: the network was trained in place."""


class Abreast:
    """K networks of one shape in training, side by side: on a GPU each in a stream of its own.

    All trainable parameters are views of one matrix, so that a step of the optimiser, SGD with Nesterov's momentum, is a handful
    of operations however many networks there are, and none of its numbers is the host's. Learning rates, decay and momentum
    are each network's own.
    """

    def __init__(self, trainees: Sequence[Trainee], loss: Loss) -> None:
        self.loss, self.recipe, self.trained = loss, trainees[0].recipe, [t.net for t in trainees]
        self.nets = [copy.deepcopy(net).to(memory_format=torch.channels_last) for net in self.trained]
        for net in self.nets:
            train_mode(net)
        self.weights = [[p for p in net.parameters() if p.requires_grad] for net in self.nets]
        sizes = [-(-p.numel() // ALIGNED) * ALIGNED for p in self.weights[0]]
        device = trainees[0].sample.labels.device
        self.flat, self.slope, self.velocity = (torch.zeros(len(trainees), sum(sizes), device=device) for _ in range(3))
        self.slopes = []
        for row, slope, weights in zip(self.flat, self.slope, self.weights, strict=True):
            for p, piece, its in zip(weights, row.split(sizes), slope.split(sizes), strict=True):
                p.data = shaped(piece, p.shape).copy_(p.data)
                self.slopes.append(shaped(its, p.shape))
        rates = [parameter_rates(t, sizes) for t in trainees]
        self.peaks, self.decay = (torch.stack(each).to(device) for each in zip(*rates, strict=True))
        self.momentum = torch.tensor([[t.recipe.momentum] for t in trainees], device=device)
        self.streams = [torch.cuda.Stream(device) for _ in range(min(STREAMS, len(trainees)))] if device.type == "cuda" else []

    def step(self, batch: Batch, factor: float | torch.Tensor) -> torch.Tensor:
        """Go one step down, with the learning rates at `factor` of their peaks; return every network's loss, shape (K,)."""
        count = len(self.nets)
        images, labels = batch.images.unflatten(0, (count, -1)), batch.labels.unflatten(0, (count, -1))
        losses, slopes = [], []
        with side_by_side(self.streams) as lanes:
            for k, (net, weights) in enumerate(zip(self.nets, self.weights, strict=True)):
                with lanes(k):
                    losses.append(lowered(self.loss, net, Batch(images[k], labels[k]), self.recipe))
                    slopes += torch.autograd.grad(losses[-1], weights, materialize_grads=True)
        with torch.no_grad():
            torch._foreach_copy_(self.slopes, slopes)
            self.slope.addcmul_(self.decay, self.flat)
            self.velocity.mul_(self.momentum).add_(self.slope)
            self.slope.addcmul_(self.momentum, self.velocity).mul_(self.peaks)
            self.flat.addcmul_(self.slope, torch.as_tensor(factor, dtype=torch.float32, device=self.flat.device), value=-1)
            return torch.stack(losses)

    def state(self) -> dict[str, Any]:
        """Return what the next step depends on."""
        return {"flat": self.flat, "velocity": self.velocity, "buffers": [dict(net.named_buffers()) for net in self.nets]}

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where `state` was taken."""
        self.flat.copy_(state["flat"])
        self.velocity.copy_(state["velocity"])
        for net, buffers in zip(self.nets, state["buffers"], strict=True):
            for name, buffer in net.named_buffers():
                buffer.copy_(buffers[name])

    @torch.no_grad()
    def finish(self) -> None:
        """Put what was learned into the networks, which until now are as they were."""
        for net, trained in zip(self.nets, self.trained, strict=True):
            for learned, value in zip(values_of(net), values_of(trained), strict=True):
                value.copy_(learned)


def values_of(net: nn.Module) -> Iterator[torch.Tensor]:
    """Return all parameters and buffers of a network."""
    return chain(net.parameters(), net.buffers())


def lowered(loss: Loss, net: nn.Module, batch: Batch, recipe: Recipe) -> torch.Tensor:
    """Return a loss, computed in the recipe's precision."""
    with torch.autocast(batch.labels.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        return loss(net, batch, recipe)


def shaped(piece: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Return the first numbers of a vector as a tensor of `shape`; kernels of convolutions in channels_last layout."""
    piece = piece[: shape.numel()]
    if len(shape) != 4:
        return piece.view(shape)
    out, before, height, width = shape
    return piece.view(out, height, width, before).permute(0, 3, 1, 2)


def parameter_rates(trainee: Trainee, sizes: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the peak learning rate and the decay of all trainable parameters, each said `sizes` times."""
    groups = parameter_groups(trainee.net, trainee.recipe, trainee.multiples)
    found = {id(p): (g["peak"], g["weight_decay"]) for g in groups for p in g["params"]}
    each = [found[id(p)] for p in trainee.net.parameters() if p.requires_grad]
    return tuple(torch.tensor(column).repeat_interleave(torch.tensor(sizes)) for column in zip(*each, strict=True))


@contextmanager
def side_by_side(streams: Sequence[torch.cuda.Stream]) -> Iterator[Callable[[int], AbstractContextManager]]:
    """Yield what makes part number k of some work run beside the others, where there are streams; then all parts are waited for."""
    if not streams:
        yield lambda k: nullcontext()
        return
    here = torch.cuda.current_stream(streams[0].device)
    for stream in streams:
        stream.wait_stream(here)
    yield lambda k: torch.cuda.stream(streams[k % len(streams)])
    for stream in streams:
        here.wait_stream(stream)


def team(trainees: Sequence[Trainee], loss: Loss, captured: bool) -> Alone | Abreast:
    """Return networks ready for training, whose steps are to be captured or not."""
    return Abreast(trainees, loss) if captured or len(trainees) > 1 else Alone(trainees[0], loss)


def best_size(trainees: Sequence[Trainee], seconds: Callable[[Sequence[Trainee]], float]) -> int:
    """Find out how many of `trainees` to train at once: more as long as images pass faster and memory lasts.

    Parameters
    ----------
    trainees : sequence of Trainee
        Of one shape; copies of them are used.
    seconds : callable
        From trainees to the seconds that a step of them takes.
    """
    best, rate, size = 1, 0.0, 1
    while size <= len(trainees):
        try:
            now = size / seconds([copy.deepcopy(t, {id(t.sample): t.sample}) for t in trainees[:size]])
        except torch.OutOfMemoryError:
            break
        if now < rate * GAIN:
            break
        best, rate, size = size, now, size * GROWTH
    return best


def step_seconds(trainees: Sequence[Trainee], fit: Callable[[Sequence[Trainee], int], Any], steps: int = 20) -> float:
    """Return the seconds of a step of `trainees`, without those that it takes to begin."""
    device = trainees[0].sample.labels.device

    def took(count: int) -> float:
        began = time.perf_counter()
        fit(trainees, count)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    took(steps // 4)
    begin = took(steps // 4)
    return max(took(steps + steps // 4) - begin, 1e-6) / steps
