"""The steps of training: one after another as Python says them, or captured once on a GPU and replayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from ..data.augment import Draws

if TYPE_CHECKING:
    from .fit import Training

WARM = 2  # steps before one is captured: libraries choose their kernels and set themselves up

Action = Callable[[], None]


class EagerStepper:
    """Does every step as it comes."""

    def __init__(self, training: Training) -> None:
        self.trainer, self.feed, self.losses = training.trainer, training.feed, training.losses

    def start(self, block: list[Draws]) -> None:
        """Begin a block of steps."""
        self.block = block

    def go(self, i: int, step: int) -> None:
        """Do step `i` of the block, number `step` of all."""
        self.losses[:, step] = self.trainer.step(self.feed.batch(self.block, i), step)


class GraphStepper(EagerStepper):
    """Does a few steps as they come, captures one as a CUDA graph and replays it: nothing of it waits for the host.

    Draws, and where in training it is, the graph reads from the device. Steps that somebody watches are done as they
    come.
    """

    def __init__(self, training: Training) -> None:
        super().__init__(training)
        self.device, self.generators = self.losses.device, training.dropout
        self.watched = {step for run in training.runs for watcher in run.watchers for step in watcher.steps}
        self.i, self.step = (torch.zeros(1, dtype=torch.int64, device=self.device) for _ in range(2))
        self.block, self.replay, self.done = [], self._step, 0

    def start(self, block: list[Draws]) -> None:
        """As `EagerStepper.start`."""
        self.block = self.block or block
        for ours, new in zip(self.block, block, strict=True):
            for its, values in zip(ours.parts, new.parts, strict=True):
                its[: len(values)].copy_(values)

    def go(self, i: int, step: int) -> None:
        """As `EagerStepper.go`."""
        if step in self.watched:
            super().go(i, step)
            return
        self.i.fill_(i)
        self.step.fill_(step)
        if self.done == WARM:
            self.replay = captured(self._step, self.device, self.generators)
        self.replay()
        self.done += 1

    def _step(self) -> None:
        found = self.trainer.step(self.feed.batch(self.block, self.i), self.step)
        self.losses.index_copy_(1, self.step, found[:, None])


def captured(action: Action, device: torch.device, generators: Sequence[torch.Generator]) -> Action:
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
