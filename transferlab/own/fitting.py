"""What a person's own images allow within some minutes: the probe, then fine-tuning at the best of a few rates."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import nn

from ..data.images import Sample
from ..errors import UserError, check
from ..lab import Lab
from ..measure import WeightChange
from ..methods import FineTune, Grow, Probe
from ..nets.build import new_head
from ..nets.sites import REPRESENTATION
from ..paths import write_atomically
from ..run.context import Context
from ..run.devices import pick_device, threads_set
from ..run.progress import duration
from ..specs import ImageSet, Method, Recipe, Target, Trained, Trial, catalog
from ..specs.serial import canonical, digest
from ..store import OK
from ..train.fit import step_seconds
from ..train.read import inputs_of
from ..train.solvers import logistic
from .arranged import Arranged
from .networks import OWN, Start

TRIED = (0.016, 0.004, 0.064)  # learning rates; the first one alone, if there is no time for all
TRAINING, IN_ALL = 0.8, 0.9  # of the time: training; and training with what was before it
EPOCHS, FEWEST, LONGEST, PLENTY = 5, 50, 400, (60, 300)  # epochs and steps: that a run needs, and that are enough
TIMED = 4  # steps that say how long one takes
SMALLER = 64  # px, where there is no time for the usual size
BATCHES = {"cpu": 32, "cuda": 64}
SEEN = 200  # images that say how large a classifier's answers are


class Found(NamedTuple):
    """A network that may be handed out: how it was made, and what is on record of that."""

    name: str
    net: nn.Module
    trial: Trial
    record: dict[str, Any]

    @property
    def validation(self) -> dict[str, float]:
        """How good it is on validation images."""
        names = ("accuracy", "mean_class_accuracy", "log_loss", "n")
        return {name: self.record[f"validation_{name}"] for name in names}

    def rank(self, balanced: bool) -> tuple[float, float]:
        """Return what is larger for a better one: where classes differ in size, each counts alike."""
        return self.validation["mean_class_accuracy" if balanced else "accuracy"], -self.validation["log_loss"]


class Fitting:
    """Finds networks for images.

    Parameters
    ----------
    images : Arranged
    begin : Start
    lab : Lab
    seed : int
    say : callable
        Takes a line that tells what was found.
    """

    def __init__(self, images: Arranged, begin: Start, lab: Lab, seed: int, say: Callable[[str], object]) -> None:
        self.images, self.begin, self.lab, self.seed, self.say = images, begin, lab, seed, say
        self.began, self.context = time.monotonic(), Context(pick_device(lab.device), lab.store)
        self.set = ImageSet(images.name, catalog.pinned(images.name)["fingerprint"])
        self.rates: list[dict[str, Any]] = []

    def trial(self, method: Method, size: int | None = None) -> Trial:
        """Return a trial of a method on the images."""
        measures = (WeightChange(),) if method.kind == FineTune.kind else ()
        target = Target(self.set, size or self.begin.size)
        return Trial(target, method, self.begin.backbone, self.seed, self.begin.source, measures)

    def sample(self, trial: Trial, split: str) -> Sample:
        """Return the images of a split."""
        return self.context.sample(trial.target, split, self.seed)

    def probe(self) -> Found:
        """Return the network under a new head: softmax regression on what it reads, the penalty chosen on validation.

        Raises
        ------
        UserError
            If the network cannot be used.
        """
        trial = self.trial(Probe(REPRESENTATION, solver="logistic"))
        record = self._run(trial)
        check(record["status"] == OK, "network", self.begin.name, record["status"])
        net, train = self.context.network(trial), self.sample(trial, "train")
        read = self.context.features(trial, train, REPRESENTATION)
        with threads_set(self.lab.threads):
            weights, biases = logistic(read, train.labels, train.classes, (record["strength"],))
        head = new_head(net, train.classes, 0).to(self.context.device)
        with torch.no_grad():
            head.weight.copy_(weights[0].T.reshape(head.weight.shape))
            head.bias.copy_(biases[0])
            if head.weight.ndim > 2:  # the ReLU behind it is to cut nothing off; what all classes share changes nothing
                some = replace(train, rows=train.rows[:SEEN], labels=train.labels[:SEEN])
                head.bias += 2 * head(inputs_of(net, head, some)).abs().max()
        return Found("probe", net, trial, record)

    def plan(self, method: Callable[[Recipe], Method], minutes: float, steps: int | None, rates: int | None) -> dict:
        """Return how many ``steps`` and which ``rates`` fit into the minutes, at which ``size``: none, if none do.

        A few steps are timed. What was found is kept: the same call goes on with the same trials.
        """
        asked = [self.set.fingerprint, self.begin.backbone.key, self.begin.source.key, self.begin.size, self.seed]
        key = digest(
            canonical([*asked, method(Recipe(1, 1, 1.0)).key, minutes, steps, rates, self.context.device.type])
        )
        self.plan_file = self.lab.store.root / "own" / f"{key}.plan.json"
        if self.plan_file.is_file():
            return json.loads(self.plan_file.read_text("utf-8"))
        kind, size, count = self.context.device.type, self.begin.size, len(self.images.opened.splits["train"])
        batch = min(BATCHES.get(kind, 64), max(8, count // 4))
        epoch, plan = math.ceil(count / batch), {"batch": batch, "size": size}
        if steps:
            return self._keep(plan | {"steps": steps, "rates": TRIED[: rates or len(TRIED)]})
        timed = self.trial(method(self._recipe(TIMED, batch, TRIED[0]))).prepare(self.context)
        with threads_set(self.lab.threads):
            step = step_seconds([timed], TIMED)
        judged = sum(len(self.images.opened.splits[split]) for split in ("validation", "test")) / (3 * batch)
        spent, least = time.monotonic() - self.began, min(max(FEWEST, EPOCHS * epoch), LONGEST)
        room = min(TRAINING * 60 * minutes, IN_ALL * 60 * minutes - spent)
        for side in (size, SMALLER) if kind == "cpu" and size > SMALLER and self.begin.name != OWN else (size,):
            each = step * (side / size) ** 2
            one, runs = each * (least + judged), rates or len(TRIED)
            runs = runs if room >= runs * one else int(room >= one)
            if runs:
                fit = int(room / runs / each - judged)
                few = 10 ** max(0, len(str(fit)) - 2)
                plan |= {"size": side, "steps": max(least, min(fit // few * few, max(PLENTY[0] * epoch, PLENTY[1])))}
                return self._keep(plan | {"rates": TRIED[:runs]})
        need = math.ceil(max(one / TRAINING, (one + spent) / IN_ALL) / 60)
        self.short = f"one run of {least} steps at {side} px takes {duration(one)} here; give --minutes {need}"
        return plan | {"rates": []}

    def _keep(self, plan: dict) -> dict:
        write_atomically(self.plan_file, json.dumps(plan))
        return plan

    def _recipe(self, steps: int, batch: int, lr: float) -> Recipe:
        return Recipe(steps, batch, lr, precision="bf16" if self.context.device.type == "cuda" else "float32")

    def tuned(self, method: Callable[[Recipe], Method], plan: dict, minutes: float) -> Found:
        """Return the network trained at the rate that is best on validation images; `rates` has what each came to.

        Raises
        ------
        UserError
            If no training came to its end.
        """
        made: list[Found] = []
        for at, lr in enumerate(plan["rates"]):
            began = time.monotonic()
            trial = self.trial(method(self._recipe(plan["steps"], plan["batch"], lr)), plan["size"])
            record = self._run(trial, keep=True)
            ok = record["status"] == OK
            self.rates.append({"rate": lr, "validation_accuracy": record.get("validation_accuracy")})
            self.rates[-1] |= {} if ok else {"status": record["status"]}
            if ok:
                made.append(Found(method(Recipe(1, 1, 1.0)).kind, None, trial, record))
            now = time.monotonic()
            if plan["rates"][at + 1 :] and now - self.began + (now - began) > 60 * minutes:
                self.say(f"no time is left for rates {', '.join(map(str, plan['rates'][at + 1 :]))}")
                self._keep(plan | {"rates": plan["rates"][: at + 1]})
                break
        if not made:
            raise UserError(f"training (={self.begin.name}): {self.rates[0]['status']}")
        best = max(made, key=lambda found: found.rank(self.images.balanced))
        self.rates.sort(key=lambda row: row["rate"])
        return best._replace(net=self.context.load(Trained(best.trial), plan["size"]))

    def losses(self, found: Found) -> list[float]:
        """Return the training losses of a network, in a few points; none of a probe."""
        path = self.lab.store.file(Trained(found.trial)) if found.trial.trains else None
        if path is None or not path.is_file():
            return []
        with safe_open(path, "pt") as file:
            return json.loads(file.metadata()["curve"])

    def _run(self, trial: Trial, keep: bool = False) -> dict[str, Any]:
        """Return what is on record of a trial, run if it is not, and its status."""
        self.lab.run([trial], keep=keep)
        record = self.lab.record(trial)
        return record["metrics"] | {"status": record["status"]}


def widened(begin: Start) -> Callable[[Recipe], Method]:
    """Return growing: half as many units as it has are added to a network's last hidden layer."""
    return lambda recipe: Grow(recipe, "widen", (begin.backbone.hidden[-1] // 2,))
