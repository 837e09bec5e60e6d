"""The one training loop, for one network or for many of one shape at once."""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..data.augment import BLOCK
from ..errors import check
from .checkpoint import Checkpoint
from .dropout import own_dropout
from .feed import Feed
from .run import Run
from .steppers import EagerStepper, GraphStepper
from .trainers import PackedTrainer, SingleTrainer, side_streams

FASTER = 1.1  # a larger pack must train images so many times faster
LARGER = 4  # times that the next pack that is tried is as large


class Diverged(Exception):
    """The loss stopped being a number; `step` says when it was noticed."""

    def __init__(self, step: int) -> None:
        super().__init__(f"the loss was no longer finite by step {step}")
        self.step = step


@dataclass(frozen=True)
class Fitted:
    """What training gives beside the network.

    Attributes
    ----------
    losses : Tensor of float32, shape (steps taken,)
        The training loss of every step, on the CPU; of a run that diverged, not finite from some step on (`finite`).
    snapshots : dict of int to dict of str to Tensor
        By number of steps, the state of the whole network after them, on the CPU.
    """

    losses: torch.Tensor
    snapshots: dict[int, dict[str, torch.Tensor]]


def fit(run: Run, checkpoint: Checkpoint | None = None) -> Fitted:
    """Train a network in place.

    Parameters
    ----------
    run : Run
    checkpoint : Checkpoint, optional
        Where a long run keeps its state now and then, and goes on from.

    Raises
    ------
    Diverged
        If the loss stops being finite; looked at after every block of steps, so that no step waits for the device.
    """
    (fitted,) = fit_together([run], checkpoint)
    finite(fitted.losses)
    return fitted


def fit_together(runs: Sequence[Run], checkpoint: Checkpoint | None = None) -> list[Fitted]:
    """Train K networks in place, at once.

    Parameters
    ----------
    runs : sequence of Run, length K
        On one device, with as many streams; networks of one shape; recipes that differ in learning rate, decay and
        momentum only; the same `stop` and `gradient_scale`. For K > 1 copies of the networks are trained, and put into
        place when that is over.
    checkpoint : Checkpoint, optional

    Returns
    -------
    list of Fitted, length K
        A network that diverged does not touch the others. When all have, training ends with the block.
    """
    alike = len({run.gradient_scale for run in runs}) == 1  # where epochs differ, `work.train` halves the pack
    check(alike, "gradient_scale", runs[0].gradient_scale, "must be the same of all that train together")
    first, device, scale = runs[0], runs[0].device, runs[0].gradient_scale
    devices = [device] if device.type == "cuda" else []
    # the default stream cannot be captured
    with torch.random.fork_rng(devices), side_streams([torch.cuda.Stream(d) for d in devices]) as stream, stream(0):
        torch.manual_seed(first.seed)  # of what objectives may draw
        training = Training(runs)
        trainer, feed, losses = training.trainer, training.feed, training.losses
        with own_dropout(trainer.nets, training.dropout):
            step = checkpoint.resume(training) if checkpoint else 0
            training.take_snapshots(step)
            while step < first.last:
                start, before = step - step % BLOCK, feed.state()
                block = feed.block(min(BLOCK, first.recipe.steps - start))
                training.stepper.start(block)
                while step < min(start + BLOCK, first.last):
                    if scale and step % scale.every == 0:
                        which = scale.which(step - start, len(block[0].index))
                        trainer.rescale(feed.batch(block, i) for i in which)
                    training.stepper.go(step - start, step)
                    step += 1
                    training.take_snapshots(step)
                    if checkpoint and checkpoint.due():
                        checkpoint.keep(training.state(step, before if step % BLOCK else feed.state()))
                if not losses[:, start:step].isfinite().all(1).any():
                    break
        trainer.finish()
    return [Fitted(row, found) for row, found in zip(losses[:, :step].cpu(), training.snapshots, strict=True)]


class Training:
    """K runs on their way: all that a checkpoint holds."""

    def __init__(self, runs: Sequence[Run]) -> None:
        device = runs[0].device
        self.runs, self.feed = runs, Feed(runs)
        self.losses = torch.zeros(len(runs), runs[0].recipe.steps, device=device)
        captured = may_be_captured(runs, self.feed)
        self.trainer = PackedTrainer(runs) if captured or len(runs) > 1 else SingleTrainer(runs[0])
        self.dropout = [torch.Generator(device).manual_seed(r.seed) for r in runs]
        self.generators = [*self.dropout, torch.default_generator]
        self.generators += [torch.cuda.default_generators[device.index]] if device.type == "cuda" else []
        self.snapshots: list[dict[int, dict[str, torch.Tensor]]] = [{} for _ in runs]
        self.stepper = GraphStepper(self) if captured else EagerStepper(self)

    def take_snapshots(self, step: int) -> None:
        """Keep the networks that are wanted after so many steps."""
        for run, net, kept in zip(self.runs, self.trainer.nets, self.snapshots, strict=True):
            if step in run.snapshots:
                state = run.trained.state_dict() | net.state_dict()
                kept[step] = {name: value.to("cpu", copy=True) for name, value in state.items()}

    def state(self, step: int, drawn: list[dict] | None = None) -> dict[str, Any]:
        """Return everything that step number `step` depends on, and what was found before.

        Parameters
        ----------
        step : int
            The next one.
        drawn : list of dict, optional
            The feed's state before the block of steps that `step` belongs to; by default its present one.
        """
        watchers, random = (
            [[w.state() for w in r.watchers] for r in self.runs],
            [g.get_state() for g in self.generators],
        )
        parts = {"trainer": self.trainer.state(), "feed": drawn or self.feed.state(), "watchers": watchers}
        return parts | {"losses": self.losses, "step": step, "random": random, "snapshots": self.snapshots}

    def restore(self, state: dict[str, Any]) -> int:
        """Go back to where `state` was taken; return the step to go on with."""
        self.trainer.restore(state["trainer"])
        self.feed.restore(state["feed"])
        self.losses.copy_(state["losses"])
        for generator, kept in zip(self.generators, state["random"], strict=True):
            generator.set_state(kept)
        for run, kept in zip(self.runs, state["watchers"], strict=True):
            for watcher, its in zip(run.watchers, kept, strict=True):
                watcher.restore(its)
        self.snapshots = state["snapshots"]
        return state["step"]


def may_be_captured(runs: Sequence[Run], feed: Feed) -> bool:
    """Whether every step has the device do the same, and nothing waits for the host."""
    return runs[0].device.type == "cuda" and feed.on_device and all(r.objective.capturable for r in runs)


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


def pack_size(runs: Sequence[Run]) -> int:
    """Find out, in a few seconds, how many of `runs` to train at once on their device.

    More as long as images pass faster and memory lasts; copies are trained.
    """
    best, rate, size = 1, 0.0, 1
    while size <= len(runs):
        try:
            now = size / step_seconds(runs[:size])
        except torch.OutOfMemoryError:
            break
        if now < rate * FASTER:
            break
        best, rate, size = size, now, size * LARGER
    return best


def step_seconds(runs: Sequence[Run], steps: int = 20) -> float:
    """Return the seconds of a step of copies of `runs`, without those that it takes to begin."""
    plain = {"lr_multipliers": {}, "snapshots": (), "watchers": (), "gradient_scale": None, "stop": None}

    def took(count: int) -> float:
        copies = [replace(r, net=copy.deepcopy(r.net), recipe=replace(r.recipe, steps=count), **plain) for r in runs]
        began = time.perf_counter()
        fit_together(copies)  # it waits for the device at its end
        return time.perf_counter() - began

    # the first one sets libraries up
    _, begin, whole = (took(count) for count in (steps // 4, steps // 4, steps // 4 + steps))
    return max(whole - begin, 1e-6) / steps
