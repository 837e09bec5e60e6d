"""The steps of training: one after another as Python says them, or captured once on a GPU and replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ..data.augment import Draws
from ..specs import Recipe
from .feed import Feed
from .optim import factor
from .pack import Abreast, Alone

WARM = 2  # steps before one is captured: libraries choose their kernels and set themselves up


class Stepwise:
    """Does every step as it comes."""

    def __init__(self, nets: Alone | Abreast, feed: Feed, recipe: Recipe, losses: torch.Tensor) -> None:
        self.nets, self.feed, self.recipe, self.losses = nets, feed, recipe, losses

    def start(self, block: Draws, i: int, step: int) -> None:
        """Begin a block of steps at its step `i`, which is number `step` of all."""
        self.block = block

    def go(self, i: int, step: int) -> None:
        """Do step `i` of the block, number `step` of all."""
        self.losses[:, step] = self.nets.step(self.feed.batch(self.block, i), factor(self.recipe, step))


class Captured:
    """Does a few steps as they come, captures one as a CUDA graph and replays it: nothing of a step is Python or waits for the host.

    Where in training it is, the graph reads from the device, and counts on.
    """

    def __init__(self, nets: Abreast, feed: Feed, recipe: Recipe, losses: torch.Tensor) -> None:
        device = losses.device
        self.nets, self.feed, self.losses = nets, feed, losses
        self.factors = torch.tensor([factor(recipe, step) for step in range(recipe.steps)], device=device)
        self.i, self.step = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2))
        self.block: Draws | None = None
        self.replay: Callable[[], None] | None = None
        self.done = 0

    def start(self, block: Draws, i: int, step: int) -> None:
        """As `Stepwise.start`."""
        if self.block is None:
            self.block = block
        for ours, new in zip(self.block.parts, block.parts, strict=True):
            ours[: len(new)].copy_(new)
        self.i.fill_(i)
        self.step.fill_(step)

    def go(self, i: int, step: int) -> None:
        """As `Stepwise.go`; the numbers are known on the device."""
        if self.done == WARM:
            self.replay = captured(self._step, self.losses.device)
        (self.replay or self._step)()
        self.done += 1

    def _step(self) -> None:
        found = self.nets.step(self.feed.batch(self.block, self.i), self.factors.index_select(0, self.step))
        self.losses.index_copy_(1, self.step, found[:, None])
        self.i += 1
        self.step += 1


def captured(action: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Return what does again what `action` has the device do, without doing it yet; `action` itself where it waits for the host."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream(device)):
            action()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return action
    return graph.replay


@contextmanager
def apart(device: torch.device) -> Iterator[None]:
    """Work in a stream beside the default one, which cannot be captured."""
    if device.type != "cuda":
        yield
        return
    here, stream = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    stream.wait_stream(here)
    with torch.cuda.stream(stream):
        yield
    here.wait_stream(stream)
