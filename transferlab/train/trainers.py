"""Networks in training: one by PyTorch's own optimiser, or many of one shape side by side."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.optim.sgd import sgd

from ..nets.taps import train_mode
from .feed import Batch
from .optim import factor, multipliers, parameter_groups, relative_norms
from .run import Run

STREAMS = 16  # of networks that train side by side on a GPU
ALIGNED = 32  # numbers: every parameter starts at a multiple of so many

Gradients = Sequence["torch.Tensor | None"]  # of one network's trainable parameters


class Trainer:
    """K networks in training: what both kinds of trainers share.

    Attributes
    ----------
    nets : list of Module, length K
        Those that are really trained.
    weights : list of list of Parameter
        Their trainable parameters, in order.
    """

    def __init__(self, runs: Sequence[Run], nets: list[nn.Module]) -> None:
        self.runs, self.nets = runs, nets
        for net in nets:
            train_mode(net.to(memory_format=torch.channels_last))
        self.weights = [[p for p in net.parameters() if p.requires_grad] for net in nets]

    def bind(self, wholes: Sequence[nn.Module]) -> None:
        """Give networks to their objectives, and whole ones, from the pixels on, to their watchers."""
        self.losses = []
        for run, net, whole in zip(self.runs, self.nets, wholes, strict=True):
            self.losses.append(run.objective.bind(net, run.recipe))
            for watcher in run.watchers:
                watcher.bind(whole)

    def loss(self, k: int, batch: Batch, step: int | None = None) -> torch.Tensor:
        """Return the loss of network `k`, in its recipe's precision; those look that want to see the step."""
        run = self.runs[k]
        with ExitStack() as stack:
            for watcher in run.watchers:
                if step in watcher.steps:
                    stack.enter_context(watcher.look(step))
            with torch.autocast(batch.labels.device.type, torch.bfloat16, enabled=run.recipe.precision == "bf16"):
                return self.losses[k](batch)

    def rescale(self, batches: Iterable[Batch]) -> None:
        """Set the multipliers of `RelativeGradientNorm` by the gradients of batches; networks stay as they are."""
        before = [(buffer, buffer.clone()) for net in self.nets for buffer in net.buffers()]
        ratios = [torch.stack(list(map(relative_norms, self.weights, self.backward(each)[1]))) for each in batches]
        for buffer, value in before:
            buffer.copy_(value)
        self.scale(torch.stack(list(map(multipliers, self.nets, torch.stack(ratios).mean(0)))))

    def state(self) -> dict[str, Any]:
        """Return what the next step depends on."""
        return {"nets": [net.state_dict() for net in self.nets]}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where `state` was taken."""
        for net, kept in zip(self.nets, state["nets"], strict=True):
            net.load_state_dict(kept)

    def finish(self) -> None:
        """Put what was learned into the networks of the runs: those of a pack are until now as they were."""
        for run, net in zip(self.runs, self.nets, strict=True):
            run.net.load_state_dict(net.state_dict())


class SingleTrainer(Trainer):
    """One network in training, by PyTorch's own SGD.

    Its functional form: the class imports all of TorchDynamo, which takes a process as long as half of torch does.
    """

    def __init__(self, run: Run) -> None:
        super().__init__([run], [run.net])
        self.groups = parameter_groups(run.net, run.recipe, run.lr_multipliers, each=run.gradient_scale is not None)
        self.peaks = [group["peak"] for group in self.groups]
        self.velocity: dict[nn.Parameter, torch.Tensor | None] = dict.fromkeys(self.weights[0])
        self.bind([run.trained])

    @torch.no_grad()
    def step(self, batch: Batch, step: int) -> torch.Tensor:
        """Take step number `step`; return the loss of the batch, shape (1,)."""
        losses, _ = self.backward(batch, step)
        recipe = self.runs[0].recipe
        share, look = factor(recipe, step), {"momentum": recipe.momentum, "nesterov": recipe.momentum > 0}
        for group in self.groups:
            times = group["factors"][step] if group["factors"] else 1.0
            if moved := [p for p in group["params"] if times and p.grad is not None]:
                buffers = [self.velocity[p] for p in moved]
                rate = {"lr": group["peak"] * share * times, "weight_decay": group["weight_decay"]}
                sgd(moved, [p.grad for p in moved], buffers, **rate, **look, dampening=0.0, maximize=False)
                self.velocity.update(zip(moved, buffers, strict=True))
        return losses[0].detach()[None]

    @torch.enable_grad()
    def backward(self, batch: Batch, step: int | None = None) -> tuple[list[torch.Tensor], list[Gradients]]:
        """Return each network's loss, and the gradients of its trainable parameters."""
        value = self.loss(0, batch, step)
        for p in self.velocity:
            p.grad = None
        value.backward()
        return [value], [[p.grad for p in self.velocity]]

    def scale(self, values: torch.Tensor) -> None:
        """Set multipliers, shape (1, parameters), of the peak rates of all trainable parameters."""
        for group, peak, value in zip(self.groups, self.peaks, values[0].tolist(), strict=True):
            group["peak"] = peak * value

    def state(self) -> dict[str, Any]:
        """As `Trainer.state`."""
        return super().state() | {"velocity": [*self.velocity.values()], "peaks": [g["peak"] for g in self.groups]}

    def restore(self, state: dict[str, Any]) -> None:
        """As `Trainer.restore`."""
        super().restore(state)
        kept = zip(self.velocity, state["velocity"], strict=True)  # checkpoints are read on the CPU
        self.velocity = {p: v if v is None else v.to(p.device) for p, v in kept}
        for group, peak in zip(self.groups, state["peaks"], strict=True):
            group["peak"] = peak


class PackedTrainer(Trainer):
    """K networks of one shape in training, side by side: on a GPU each in a stream of its own.

    All trainable parameters are views of one matrix, so that a step of the optimiser, SGD with Nesterov's momentum, is
    a handful of operations however many networks there are, and none of its numbers is the host's. Learning rates,
    decay and momentum are each network's own.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        recipe, device, count = runs[0].recipe, runs[0].device, len(runs)
        # watchers want the frozen front, too
        copies = [copy.deepcopy((r.net, r.trained if r.watchers else None)) for r in runs]
        super().__init__(runs, [net for net, _ in copies])
        sizes = [-(-p.numel() // ALIGNED) * ALIGNED for p in self.weights[0]]
        self.flat, self.slope, self.velocity = (torch.zeros(count, sum(sizes), device=device) for _ in range(3))
        self.slopes = []
        for row, slope, weights in zip(self.flat, self.slope, self.weights, strict=True):
            for p, values, its in zip(weights, row.split(sizes), slope.split(sizes), strict=True):
                self.slopes.append(its.as_strided(p.shape, p.stride()))
                p.data = values.as_strided(p.shape, p.stride()).copy_(p.data)
        # of each number its parameter
        self.owner = torch.arange(len(sizes), dtype=torch.int32).repeat_interleave(torch.tensor(sizes)).to(device)
        groups = [parameter_groups(r.net, r.recipe, r.lr_multipliers, each=True) for r in runs]
        self.base = torch.tensor([[g["peak"] for g in its] for its in groups], device=device)
        decay = torch.tensor([[g["weight_decay"] for g in its] for its in groups], device=device)
        self.peaks, self.decay, self.scales = self._spread(self.base), self._spread(decay), torch.ones_like(self.base)
        self.factors = None  # (steps, K, parameters)
        if any(g["factors"] for its in groups for g in its):
            steps = [[g["factors"] or [1.0] * recipe.steps for g in its] for its in groups]
            self.factors = torch.tensor(steps, device=device).permute(2, 0, 1).contiguous()
        self.shares = torch.tensor([factor(recipe, step) for step in range(recipe.steps)], device=device)
        self.momentum = torch.tensor([[r.recipe.momentum] for r in runs], device=device)
        self.reached: dict[tuple[bool, ...], torch.Tensor | None] = {(True,) * len(self.slopes): None}
        self.streams = [torch.cuda.Stream(device) for _ in range(min(STREAMS, count))] if device.type == "cuda" else []
        self.bind([whole for _, whole in copies])

    def step(self, batch: Batch, step: int | torch.Tensor) -> torch.Tensor:
        """Take step number `step`, which may be on the device, shape (1,); return every network's loss, shape (K,)."""
        losses, gradients = self.backward(batch, step if isinstance(step, int) else None)
        self._descend(list(chain(*gradients)), step)
        return torch.stack(losses).detach()

    def backward(self, batch: Batch, step: int | None = None) -> tuple[list[torch.Tensor], list[Gradients]]:
        """As `SingleTrainer.backward`."""
        losses, gradients = [], []
        with side_streams(self.streams) as stream:
            for k, part in enumerate(batch.split(len(self.nets))):
                with stream(k):
                    losses.append(self.loss(k, part, step))
                    gradients.append(torch.autograd.grad(losses[-1], self.weights[k], allow_unused=True))
        return losses, gradients

    @torch.no_grad()
    def _descend(self, gradients: Gradients, step: int | torch.Tensor) -> None:
        now = (lambda t: t[step]) if isinstance(step, int) else (lambda t: t.index_select(0, step)[0])
        pairs = [(s, g) for s, g in zip(self.slopes, gradients, strict=True) if g is not None]
        torch._foreach_copy_(*map(list, zip(*pairs, strict=True)))
        moves, peaks = self._reached(gradients), self.peaks
        if self.factors is not None:
            share = self._spread(now(self.factors))
            moves, peaks = share.bool() if moves is None else moves & share.bool(), peaks * share
        self.slope.addcmul_(self.decay, self.flat)
        before = None if moves is None else self.velocity.clone()
        self.velocity.mul_(self.momentum).add_(self.slope)
        self.slope.addcmul_(self.momentum, self.velocity).mul_(peaks)
        if moves is not None:
            self.velocity.copy_(torch.where(moves, self.velocity, before))
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
        """As `Trainer.state`."""
        return super().state() | {"velocity": self.velocity, "scales": self.scales}

    def restore(self, state: dict[str, Any]) -> None:
        """As `Trainer.restore`."""
        super().restore(state)
        self.velocity.copy_(state["velocity"])
        self.scale(state["scales"])


@contextmanager
def side_streams(streams: Sequence[torch.cuda.Stream]) -> Iterator[Callable[[int], AbstractContextManager]]:
    """Yield what makes part k of some work run beside the others, where there are streams; then wait for all parts."""
    here = torch.cuda.current_stream(streams[0].device) if streams else None
    for stream in streams:
        stream.wait_stream(here)
    yield lambda k: torch.cuda.stream(streams[k % len(streams)]) if streams else nullcontext()
    for stream in streams:
        here.wait_stream(stream)
