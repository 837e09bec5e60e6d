"""The synthetic world with a few images a class, for tests that look at values and not at how well a network does; and
how such tests run a trial: as `Lab` does, in this process.
"""

import functools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import save
from torch import nn

from transferlab.data import images, synthetic
from transferlab.lab import Lab
from transferlab.nets.build import head_of
from transferlab.paths import write_atomically
from transferlab.run import work
from transferlab.run.context import Context
from transferlab.run.queue import Job
from transferlab.specs import Artefact, Trial
from transferlab.store import Store
from transferlab.train.checkpoint import Checkpoint
from transferlab.train.fit import Fitted
from transferlab.train.run import Run
from transferlab.train.trainers import SingleTrainer

CPU = torch.device("cpu")
WORLD = {  # images a class
    "source": {"train": 4, "validation": 1, "test": 2},
    "target": {"train": 5, "validation": 1, "test": 2},
}


@pytest.fixture(scope="module", autouse=True)
def small_world():
    """Every test of the module that imports this fixture sees the small world."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setenv("TRANSFERLAB_CACHE", folder)  # where the whole world is not kept
        shrink_world(patch)
        yield


def shrink_world(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(synthetic, "PER_CLASS", WORLD)
    patch.setattr(images, "synthetic_set", functools.cache(images.synthetic_set.__wrapped__))


def context(root: Path) -> Context:
    return Context(CPU, Store(root))


def give(root: Path, made: Artefact, net: nn.Module) -> None:
    """Put a network, unrounded, where a store at `root` keeps what a source trained."""
    state = {name: value.detach().contiguous() for name, value in net.state_dict().items()}
    about = {"made": made.canonical, "classes": str(len(head_of(net)[2].weight)), "curve": "[]", "seconds": "0"}
    write_atomically(Store(root).file(made), save(state, about))


def run(root: Path, trial: Trial, net: nn.Module | None = None, **lab: Any) -> dict[str, Any]:
    """Return what is on record of a trial that ended well, run in a store at `root`; `net` stands in for the source."""
    if net is not None:
        give(root, trial.start, net)
    Lab(root, workers=1, device="cpu", quiet=True, **lab).run([trial])
    record = Store(root).get(trial.key)
    assert record["status"] == "ok", record["status"]
    return record["metrics"]


class Seen(NamedTuple):
    """A training that came to its end."""

    job: Job
    run: Run
    fitted: Fitted


def killed_at(number: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Kill the training that comes as it begins its step of this number, once; every step leaves a checkpoint.

    Returns
    -------
    list of int
        The steps that were begun, as they are.
    """
    step, begun = SingleTrainer.step, []

    def counted(self, batch, at):
        begun.append(at)
        if len(begun) == number + 1:
            raise KeyboardInterrupt
        return step(self, batch, at)

    monkeypatch.setattr(SingleTrainer, "step", counted)
    monkeypatch.setattr(work, "Checkpoint", functools.partial(Checkpoint, every=0))
    return begun


@contextmanager
def trainings() -> Iterator[list[Seen]]:
    """Yield the trainings that end meanwhile, networks in the state that these left."""
    found: list[Seen] = []
    really = work.measure
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "measure", lambda *given: (found.append(Seen(*given[:3])), really(*given))[1])
        yield found
