"""Networks in training: one as it is, or many of one shape, stacked, as a single batched computation.

`Alone` and `Together` offer the same to the loop: the losses of a step, the step itself, and their state.
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from ..data.images import Sample
from ..nets.taps import train_mode
from ..specs import Recipe
from . import processes
from .feed import Batch
from .optim import optimiser, parameter_groups

Loss = Callable[[nn.Module, Batch, Recipe], torch.Tensor]
GAIN = 1.1  # a larger pack must train images so many times faster


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

    def losses(self, batch: Batch) -> torch.Tensor:
        """Return the loss of a batch, shape (1,)."""
        return self.loss(self.model, batch, self.recipe)[None]

    def step(self, losses: torch.Tensor, factor: float) -> None:
        """Go one step down, with the learning rates at `factor` of their peaks."""
        for group in self.sgd.param_groups:
            group["lr"] = group["peak"] * factor
        self.sgd.zero_grad(set_to_none=True)
        losses.sum().backward()
        self.sgd.step()

    def state(self) -> dict[str, Any]:
        """Return what the next step depends on."""
        return {"net": self.net.state_dict(), "sgd": self.sgd.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where `state` was taken."""
        self.net.load_state_dict(state["net"])
        self.sgd.load_state_dict(state["sgd"])

    def finish(self) -> None:
        """Nothing is left to do: the network was trained in place."""


class Together:
    """K networks of one shape in training, as one: parameters stacked, every layer one batched operation.

    All trainable parameters are one matrix (K, parameters), so that a step of the optimiser is a handful of operations
    however many networks there are. Learning rates, decay and momentum are each network's own.
    """

    def __init__(self, trainees: Sequence[Trainee], loss: Loss) -> None:
        self.nets, self.loss, self.recipe = [t.net for t in trainees], loss, trainees[0].recipe
        for net in self.nets:
            train_mode(net)
        self.model = copy.deepcopy(self.nets[0]).to("meta")
        stacked, self.buffers = stack_module_state(self.nets)
        trained = {n: p for n, p in stacked.items() if p.requires_grad}
        self.frozen = {n: p for n, p in stacked.items() if not p.requires_grad}
        self.shapes = {n: p.shape[1:] for n, p in trained.items()}
        self.sizes = [p[0].numel() for p in trained.values()]
        self.flat = torch.cat([p.detach().flatten(1) for p in trained.values()], 1).requires_grad_()
        self.velocity = torch.zeros_like(self.flat)
        self.peaks, self.decay = (torch.stack(rows) for rows in zip(*map(self._rates, trainees), strict=True))
        self.momentum = torch.tensor([[t.recipe.momentum] for t in trainees], device=self.flat.device)

    def _rates(self, trainee: Trainee) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the peak learning rate and the decay of every trainable parameter, shape (parameters,)."""
        groups = parameter_groups(trainee.net, trainee.recipe, trainee.multiples)
        found = {id(p): (g["peak"], g["weight_decay"]) for g in groups for p in g["params"]}
        each = [found[id(p)] for p in trainee.net.parameters() if p.requires_grad]
        sizes = torch.tensor(self.sizes)
        return tuple(torch.tensor(column).repeat_interleave(sizes).to(self.flat.device) for column in zip(*each, strict=True))

    def _parameters(self) -> dict[str, torch.Tensor]:
        parts = self.flat.split(self.sizes, 1)
        return self.frozen | {n: p.unflatten(1, shape) for (n, shape), p in zip(self.shapes.items(), parts, strict=True)}

    def losses(self, batch: Batch) -> torch.Tensor:
        """Return every network's loss of its part of a batch, shape (K,)."""
        count = len(self.nets)

        def one(parameters: dict, buffers: dict, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return self.loss(lambda x: functional_call(self.model, (parameters, buffers), (x,)), Batch(images, labels), self.recipe)

        images, labels = batch.images.unflatten(0, (count, -1)), batch.labels.unflatten(0, (count, -1))
        return vmap(one, randomness="different")(self._parameters(), self.buffers, images, labels)

    @torch.no_grad()
    def step(self, losses: torch.Tensor, factor: float) -> None:
        """Go one step down, with the learning rates at `factor` of their peaks: SGD with Nesterov's momentum."""
        (slope,) = torch.autograd.grad(losses, self.flat, torch.ones_like(losses))
        slope.addcmul_(self.decay, self.flat)
        self.velocity.mul_(self.momentum).add_(slope)
        self.flat.addcmul_(self.peaks, slope.addcmul_(self.momentum, self.velocity), value=-factor)

    def state(self) -> dict[str, Any]:
        """Return what the next step depends on."""
        return {"flat": self.flat.detach(), "velocity": self.velocity, "buffers": self.buffers}

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where `state` was taken."""
        self.flat.copy_(state["flat"])
        self.velocity.copy_(state["velocity"])
        for name, kept in state["buffers"].items():
            self.buffers[name].copy_(kept)

    @torch.no_grad()
    def finish(self) -> None:
        """Put what was learned into the networks."""
        learned = {n: p.detach() for n, p in self._parameters().items()} | self.buffers
        for k, net in enumerate(self.nets):
            for name, value in (*net.named_parameters(), *net.named_buffers()):
                value.copy_(learned[name][k])


def team(trainees: Sequence[Trainee], loss: Loss) -> Alone | Together:
    """Return networks ready for training."""
    return Alone(trainees[0], loss) if len(trainees) == 1 else Together(trainees, loss)


def best_size(trainees: Sequence[Trainee], seconds: Callable[[Sequence[Trainee]], float]) -> int:
    """Find out how many of `trainees` to train at once: double as long as images pass faster and memory lasts.

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
        best, rate, size = size, now, size * 2
    return best


def step_seconds(trainees: Sequence[Trainee], fit: Callable[[Sequence[Trainee]], Any], steps: int = 20) -> float:
    """Return the seconds of a step of `trainees`, after some steps to warm up."""
    device = trainees[0].sample.labels.device

    def took(count: int) -> float:
        began = time.perf_counter()
        fit(trainees, count)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    took(steps // 4)
    return took(steps) / steps
