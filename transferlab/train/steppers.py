"""The steps of training: one after another as Python says them, or captured once on a GPU and replayed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ..data.augment import Draws
from .feed import Feed
from .trainers import Trainer

WARM = 2  # steps before one is captured: libraries choose their kernels and set themselves up


class EagerStepper:
    """Does every step as it comes."""

    def __init__(self, trainer: Trainer, feed: Feed, losses: torch.Tensor) -> None:
        self.trainer, self.feed, self.losses = trainer, feed, losses

    def start(self, block: list[Draws], i: int, step: int) -> None:
        """Begin a block of steps at its step `i`, which is number `step` of all."""
        self.block = block

    def go(self, i: int, step: int) -> None:
        """Do step `i` of the block, number `step` of all."""
        self.losses[:, step] = self.trainer.step(self.feed.batch(self.block, i), step)


class GraphStepper(EagerStepper):
    """Does a few steps as they come, captures one as a CUDA graph and replays it: nothing of it waits for the host.

    Where in training it is, the graph reads from the device, and counts on.

    Parameters
    ----------
    trainer, feed, losses
    generators : sequence of Generator
        Those that steps draw from.
    watched : collection of int
        Steps that somebody looks at: they are done as they come.
    """

    def __init__(self, *parts: Any, generators: Sequence[torch.Generator], watched: Collection[int]) -> None:
        super().__init__(*parts)
        device = self.losses.device
        self.generators, self.watched = generators, watched
        self.i, self.step = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2))
        self.block: list[Draws] | None = None
        self.replay: Callable[[], None] | None = None
        self.done = 0

    def start(self, block: list[Draws], i: int, step: int) -> None:
        """As `EagerStepper.start`."""
        self.block = self.block or block
        for ours, new in zip(self.block, block, strict=True):
            for its, values in zip(ours.parts, new.parts, strict=True):
                its[: len(values)].copy_(values)
        self.i.fill_(i)
        self.step.fill_(step)

    def go(self, i: int, step: int) -> None:
        """As `EagerStepper.go`; the numbers are known on the device."""
        if step in self.watched:
            super().go(i, step)
            self._count()
            return
        if self.done == WARM:
            self.replay = captured(self._step, self.losses.device, self.generators)
        (self.replay or self._step)()
        self.done += 1

    def _step(self) -> None:
        found = self.trainer.step(self.feed.batch(self.block, self.i), self.step)
        self.losses.index_copy_(1, self.step, found[:, None])
        self._count()

    def _count(self) -> None:
        self.i += 1
        self.step += 1


def captured(
    action: Callable[[], None], device: torch.device, generators: Sequence[torch.Generator]
) -> Callable[[], None]:
    """Return what does again what `action` has the device do, not done yet; `action` itself if that waits."""
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    try:
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream(device)):
            action()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return action
    return graph.replay


@contextmanager
def side_stream(device: torch.device) -> Iterator[None]:
    """Work in a stream beside the default one, which cannot be captured."""
    if device.type != "cuda":
        yield
        return
    here, stream = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    stream.wait_stream(here)
    with torch.cuda.stream(stream):
        yield
    here.wait_stream(stream)
