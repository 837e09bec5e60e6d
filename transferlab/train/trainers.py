"""Networks in training: one by PyTorch's own optimiser, or many of one shape side by side.

Both trainers offer the same to the loop: a step, with its losses, and their state.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import nn

from ..nets.taps import train_mode
from ..specs.recipe import Recipe
from . import processes
from .feed import Batch
from .objectives import Loss
from .optim import factor, multipliers, optimiser, parameter_groups, relative_norms
from .run import Run, Watcher

FASTER = 1.1  # a larger pack must train images so many times faster
LARGER = 4  # times that the next pack that is tried is as large
STREAMS = 16  # of networks that train side by side on a GPU
ALIGNED = 32  # numbers: every parameter starts at a multiple of so many

Gradients = Sequence[torch.Tensor | None]  # of one network's trainable parameters, or of several one after another


class SingleTrainer:
    """One network in training, by PyTorch's own optimiser; over several processes if there are."""

    def __init__(self, run: Run) -> None:
        net, self.recipe, self.watchers = run.net, run.recipe, run.watchers
        net.to(memory_format=torch.channels_last)
        train_mode(net)
        self.nets, self.weights = [net], [trainable(net)]
        groups = parameter_groups(net, run.recipe, run.lr_multipliers, each=run.gradient_scale is not None)
        self.sgd, self.peaks = optimiser(groups, run.recipe), [group["peak"] for group in groups]
        self.loss = run.objective.bind(net, run.recipe, processes.shared(net))
        for watcher in run.watchers:
            watcher.bind(run.trained)

    def step(self, batch: Batch, step: int) -> torch.Tensor:
        """Take step number `step`; return the loss of the batch, shape (1,)."""
        value = self._backward(batch, step)
        share = factor(self.recipe, step)
        for group in self.sgd.param_groups:
            group["lr"] = group["peak"] * share
            if group["factors"]:
                group["lr"] *= group["factors"][step]
                if not group["factors"][step]:
                    for p in group["params"]:
                        p.grad = None
        self.sgd.step()
        return value.detach()[None]

    def gradients(self, batch: Batch) -> list[Gradients]:
        """Return the gradients of the trainable parameters of each network, without a step."""
        self._backward(batch)
        return [[p.grad for p in self.weights[0]]]

    def _backward(self, batch: Batch, step: int | None = None) -> torch.Tensor:
        with watched(self.watchers, step):
            value = autocast_loss(self.loss, batch, self.recipe)
        self.sgd.zero_grad(set_to_none=True)
        value.backward()
        return value

    def scale(self, values: torch.Tensor) -> None:
        """Set multipliers, shape (1, parameters), of the peak rates of all trainable parameters."""
        for group, peak, value in zip(self.sgd.param_groups, self.peaks, values[0].tolist(), strict=True):
            group["peak"] = peak * value

    def state(self) -> dict[str, Any]:
        """Return what the next step depends on."""
        return {"net": self.nets[0].state_dict(), "sgd": self.sgd.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where `state` was taken."""
        self.nets[0].load_state_dict(state["net"])
        self.sgd.load_state_dict(state["sgd"])

    def finish(self) -> None:
        """Nothing is left to do: the network was trained in place."""


class PackedTrainer:
    """K networks of one shape in training, side by side: on a GPU each in a stream of its own.

    All trainable parameters are views of one matrix, so that a step of the optimiser, SGD with Nesterov's momentum, is
    a handful of operations however many networks there are, and none of its numbers is the host's. Learning rates,
    decay and momentum are each network's own.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        recipe, device, count = runs[0].recipe, runs[0].device, len(runs)
        self.recipe, self.trained, self.watchers = recipe, [r.net for r in runs], [r.watchers for r in runs]
        # watchers want the frozen front, too
        copies = [copy.deepcopy((r.net, r.trained if r.watchers else None)) for r in runs]
        self.nets = [net.to(memory_format=torch.channels_last) for net, _ in copies]
        for net in self.nets:
            train_mode(net)
        self.weights = [trainable(net) for net in self.nets]
        sizes = [-(-p.numel() // ALIGNED) * ALIGNED for p in self.weights[0]]
        self.flat, self.slope, self.velocity = (torch.zeros(count, sum(sizes), device=device) for _ in range(3))
        self.slopes = []
        for row, slope, weights in zip(self.flat, self.slope, self.weights, strict=True):
            for p, piece, its in zip(weights, row.split(sizes), slope.split(sizes), strict=True):
                p.data = shaped(piece, p.shape).copy_(p.data)
                self.slopes.append(shaped(its, p.shape))
        owner = torch.arange(len(sizes), dtype=torch.int32).repeat_interleave(torch.tensor(sizes))
        self.owner = owner.to(device)  # of each number its parameter
        peaks, decay, factors = zip(*map(parameter_rates, runs), strict=True)
        self.base, decay = (torch.tensor(each, device=device) for each in (peaks, decay))
        self.peaks, self.decay = self._spread(self.base), self._spread(decay)
        self.scales = torch.ones_like(self.base)
        self.factors = None  # (steps, K, parameters)
        if any(chain(*factors)):
            steps = [[each or [1.0] * recipe.steps for each in its] for its in factors]
            self.factors = torch.tensor(steps, device=device).permute(2, 0, 1).contiguous()
        self.shares = torch.tensor([factor(recipe, step) for step in range(recipe.steps)], device=device)
        self.momentum = torch.tensor([[r.recipe.momentum] for r in runs], device=device)
        self.reached: dict[tuple[bool, ...], torch.Tensor | None] = {(True,) * len(self.slopes): None}
        lanes = min(STREAMS, count) if device.type == "cuda" else 0
        self.streams = [torch.cuda.Stream(device) for _ in range(lanes)]
        self.losses = [r.objective.bind(net, r.recipe) for r, net in zip(runs, self.nets, strict=True)]
        for run, (_, whole) in zip(runs, copies, strict=True):
            for watcher in run.watchers:
                watcher.bind(whole)

    def step(self, batch: Batch, step: int | torch.Tensor) -> torch.Tensor:
        """Take step number `step`, which may be on the device, shape (1,); return every network's loss, shape (K,)."""
        losses, gradients = self._backward(batch, step if isinstance(step, int) else None)
        now = (lambda t: t[step]) if isinstance(step, int) else (lambda t: t.index_select(0, step)[0])
        with torch.no_grad():
            self._descend(list(chain(*gradients)), now)
            return torch.stack(losses)

    def gradients(self, batch: Batch) -> list[Gradients]:
        """As `SingleTrainer.gradients`."""
        return self._backward(batch)[1]

    def _backward(self, batch: Batch, step: int | None = None) -> tuple[list[torch.Tensor], list[Gradients]]:
        losses, gradients = [], []
        with side_by_side(self.streams) as lanes:
            for k, part in enumerate(batch.split(len(self.nets))):
                with lanes(k):
                    with watched(self.watchers[k], step):
                        losses.append(autocast_loss(self.losses[k], part, self.recipe))
                    gradients.append(torch.autograd.grad(losses[-1], self.weights[k], allow_unused=True))
        return losses, gradients

    def _descend(self, gradients: Gradients, now: Callable[[torch.Tensor], torch.Tensor]) -> None:
        pairs = [(s, g) for s, g in zip(self.slopes, gradients, strict=True) if g is not None]
        torch._foreach_copy_(*map(list, zip(*pairs, strict=True)))
        moves, peaks = self._reached(gradients), self.peaks
        if self.factors is not None:
            share = self._spread(now(self.factors))
            moves, peaks = share.bool() if moves is None else moves & share.bool(), peaks * share
        self.slope.addcmul_(self.decay, self.flat)
        if moves is None:
            self.velocity.mul_(self.momentum).add_(self.slope)
        else:
            self.velocity.copy_(torch.where(moves, self.velocity * self.momentum + self.slope, self.velocity))
        self.slope.addcmul_(self.momentum, self.velocity).mul_(peaks)
        if moves is not None:
            self.slope.masked_fill_(~moves, 0)
        self.flat.addcmul_(self.slope, now(self.shares), value=-1)

    def _reached(self, gradients: Gradients) -> torch.Tensor | None:
        """Return which numbers the objectives reach, shape (K, numbers), made once for each set; ``None`` for all."""
        which = tuple(g is not None for g in gradients)
        if which not in self.reached:
            self.reached[which] = self._spread(torch.tensor(which, device=self.flat.device).view(len(self.nets), -1))
        return self.reached[which]

    def _spread(self, values: torch.Tensor) -> torch.Tensor:
        """Return values of parameters, shape (K, parameters), for each of their numbers."""
        return values.index_select(1, self.owner)

    def scale(self, values: torch.Tensor) -> None:
        """As `SingleTrainer.scale`, shape (K, parameters); in place, so that a captured step sees it."""
        self.scales.copy_(values)
        self.peaks.copy_(self._spread(self.base * self.scales))

    def state(self) -> dict[str, Any]:
        """Return what the next step depends on."""
        buffers = [dict(net.named_buffers()) for net in self.nets]
        return {"flat": self.flat, "velocity": self.velocity, "scales": self.scales, "buffers": buffers}

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where `state` was taken."""
        self.flat.copy_(state["flat"])
        self.velocity.copy_(state["velocity"])
        self.scale(state["scales"])
        for net, buffers in zip(self.nets, state["buffers"], strict=True):
            for name, buffer in net.named_buffers():
                buffer.copy_(buffers[name])

    @torch.no_grad()
    def finish(self) -> None:
        """Put what was learned into the networks, which until now are as they were."""
        for net, trained in zip(self.nets, self.trained, strict=True):
            for learned, value in zip(values_of(net), values_of(trained), strict=True):
                value.copy_(learned)


Trainer = SingleTrainer | PackedTrainer


def rescale(trainer: Trainer, batches: Iterable[Batch]) -> None:
    """Set the multipliers of `RelativeGradientNorm`, from the gradients of some batches; networks stay as they are."""
    buffers = [b for net in trainer.nets for b in net.buffers()]
    before = [b.clone() for b in buffers]
    ratios = []
    for batch in batches:
        pairs = zip(trainer.weights, trainer.gradients(batch), strict=True)
        ratios.append(torch.stack([relative_norms(*pair) for pair in pairs]))
    for buffer, value in zip(buffers, before, strict=True):
        buffer.copy_(value)
    found = zip(trainer.nets, torch.stack(ratios).mean(0), strict=True)
    trainer.scale(torch.stack([multipliers(*each) for each in found]))


def trainable(net: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that are trained, in order."""
    return [p for p in net.parameters() if p.requires_grad]


def values_of(net: nn.Module) -> Iterator[torch.Tensor]:
    """Return all parameters and buffers of a network."""
    return chain(net.parameters(), net.buffers())


def autocast_loss(loss: Loss, batch: Batch, recipe: Recipe) -> torch.Tensor:
    """Return a loss, computed in the recipe's precision."""
    with torch.autocast(batch.labels.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        return loss(batch)


@contextmanager
def watched(watchers: Sequence[Watcher], step: int | None) -> Iterator[None]:
    """Have those look that want to see a step."""
    with ExitStack() as stack:
        for watcher in watchers:
            if step in watcher.steps:
                stack.enter_context(watcher.look(step))
        yield


def shaped(piece: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Return the first numbers of a vector as a tensor of `shape`; kernels of convolutions in channels_last layout."""
    piece = piece[: shape.numel()]
    if len(shape) != 4:
        return piece.view(shape)
    out, before, height, width = shape
    return piece.view(out, height, width, before).permute(0, 3, 1, 2)


def parameter_rates(run: Run) -> tuple[list[float], list[float], list[Sequence[float] | None]]:
    """Return peak learning rate, decay and factors of all trainable parameters."""
    groups = parameter_groups(run.net, run.recipe, run.lr_multipliers, each=True)
    return tuple([g[name] for g in groups] for name in ("peak", "weight_decay", "factors"))


@contextmanager
def side_by_side(streams: Sequence[torch.cuda.Stream]) -> Iterator[Callable[[int], AbstractContextManager]]:
    """Yield what makes part k of some work run beside the others, where there are streams; then wait for all parts."""
    if not streams:
        yield lambda k: nullcontext()
        return
    here = torch.cuda.current_stream(streams[0].device)
    for stream in streams:
        stream.wait_stream(here)
    yield lambda k: torch.cuda.stream(streams[k % len(streams)])
    for stream in streams:
        here.wait_stream(stream)


def trainer_of(runs: Sequence[Run], captured: bool) -> Trainer:
    """Return networks ready for training, whose steps are to be captured or not."""
    return PackedTrainer(runs) if captured or len(runs) > 1 else SingleTrainer(runs[0])


def best_size(runs: Sequence[Run], seconds: Callable[[Sequence[Run]], float]) -> int:
    """Find out how many of `runs` to train at once: more as long as images pass faster and memory lasts.

    Parameters
    ----------
    runs : sequence of Run
        Of one shape; copies of them are used.
    seconds : callable
        From runs to the seconds that a step of them takes.
    """
    best, rate, size = 1, 0.0, 1
    while size <= len(runs):
        try:
            now = size / seconds([copied(r) for r in runs[:size]])
        except torch.OutOfMemoryError:
            break
        if now < rate * FASTER:
            break
        best, rate, size = size, now, size * LARGER
    return best


def copied(run: Run) -> Run:
    """Return a run of a copy of the network, on the same images."""
    return copy.deepcopy(run, {id(each): each for each in (*run.streams, run.objective)})


def step_seconds(runs: Sequence[Run], fit: Callable[[Sequence[Run], int], Any], steps: int = 20) -> float:
    """Return the seconds of a step of `runs`, without those that it takes to begin."""
    device = runs[0].device

    def took(count: int) -> float:
        began = time.perf_counter()
        fit(runs, count)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    took(steps // 4)
    begin = took(steps // 4)
    return max(took(steps + steps // 4) - begin, 1e-6) / steps
