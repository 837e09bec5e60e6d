"""What a person's own images allow within some minutes: the probe, then fine-tuning at the best of a few rates."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from safetensors import safe_open
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import UserError, check
from ..lab import Lab
from ..measure import WeightChange
from ..methods import FineTune, Grow, Probe
from ..methods.probe import fitted_head
from ..nets.sites import REPRESENTATION
from ..paths import write_atomically
from ..run.context import Context
from ..run.devices import pick_device, threads_set
from ..run.progress import duration
from ..specs import ImageSet, Method, Recipe, Target, Trained, Trial, catalog
from ..specs.serial import canonical, digest
from ..store import OK
from ..train.fit import step_seconds
from .arranged import Arranged
from .networks import BOOKS_OWN, Start

TRIED = (0.016, 0.004, 0.064)  # learning rates of the book's own network, the first alone where there is time for one
GENTLE = (0.0005, 0.002, 0.000125)  # and of others, whose BatchNorm keeps its statistics: at another size they are none
TRAINING, IN_ALL = 0.8, 0.9  # of the time: training, and training with what was before it
EPOCHS, FEWEST_STEPS, LONGEST, PLENTY = 5, 50, 400, (60, 300)  # epochs and steps: that a run needs, and that are enough
TIMED = 4  # steps that say how long one takes
SMALLER = 64  # px, where there is no time for the usual size


class Found(NamedTuple):
    """A network that may be handed out: how it was made, and what is on record of that."""

    trial: Trial
    record: dict[str, Any]
    net: nn.Module | None = None

    @property
    def validation(self) -> dict[str, float]:
        """How good it is on validation images."""
        names = ("accuracy", "mean_class_accuracy", "log_loss", "n")
        return {name: self.record[f"validation_{name}"] for name in names}

    def rank(self, balanced: bool) -> tuple[float, float]:
        """Return what is larger for a better one: each class counts alike where rare ones are drawn more often."""
        return self.validation["mean_class_accuracy" if balanced else "accuracy"], -self.validation["log_loss"]


class Fitting:
    """Finds networks for images within `minutes` from now; `say` is told what happens, line by line."""

    def __init__(
        self, images: Arranged, begin: Start, lab: Lab, seed: int, minutes: float, say: Callable[[str], object]
    ) -> None:
        self.images, self.begin, self.lab, self.seed, self.minutes, self.say = images, begin, lab, seed, minutes, say
        self.began, self.context = time.monotonic(), Context(pick_device(lab.device), lab.store)
        self.set = ImageSet(images.name, catalog.pinned(images.name)["fingerprint"])
        self.rates: list[dict[str, Any]] = []
        self.norms, self.tried = False, TRIED if begin.name == BOOKS_OWN else GENTLE

    def trial(self, method: Method, size: int | None = None, **more: Any) -> Trial:
        """Return a trial of a method on the images."""
        target = Target(self.set, size or self.begin.size)
        return Trial(target, method, self.begin.backbone, self.seed, self.begin.source, **more)

    def run(self, trial: Trial, keep: bool = False) -> Found:
        """Return what is on record of a trial, which is run if it is not, and its status."""
        self.lab.run([trial], keep=keep)
        record = self.lab.record(trial)
        return Found(trial, record["metrics"] | {"status": record["status"]})

    def probe(self) -> Found:
        """Return the network under a head that is softmax regression, its penalty chosen on validation images.

        Raises
        ------
        UserError
            If the network cannot be used.
        """
        found = self.run(self.trial(Probe(REPRESENTATION, solver="logistic")))
        check(found.record["status"] == OK, "network", self.begin.name, found.record["status"])
        net = self.context.network(found.trial)
        self.norms = any(isinstance(module, _BatchNorm) for module in net.modules())
        with threads_set(self.lab.threads):
            fitted_head(found.trial, self.context, net, found.record["strength"])
        return found._replace(net=net)

    def method(self, lr: float, steps: int, batch: int, strength: float | None) -> Method:
        """Return fine-tuning that starts from a probe of this strength; without one, growing by half the last layer."""
        recipe = Recipe(steps, batch, lr, precision="bf16" if self.context.device.type == "cuda" else "float32")
        if strength is None:
            return Grow(recipe, "widen", (self.begin.backbone.hidden[-1] // 2,))
        kept = "statistics" if self.norms and self.tried == GENTLE else None
        return FineTune(recipe, head_lr=1.0, probe=strength, batch_norm=kept)

    def plan(self, strength: float | None, steps: int | None, rates: int | None) -> dict[str, Any]:
        """Return how many steps at which rates and ``size`` fit into the time; ``why`` no rates, if none do.

        A few steps are timed. What fits is kept: the same call goes on with the same trials.
        """
        kind, size, parts = self.context.device.type, self.begin.size, self.images.splits
        asked = (self.set.fingerprint, self.begin.backbone.key, self.begin.source.key, size, self.seed, self.minutes)
        key = digest(canonical([*asked, steps, rates, kind, strength]))
        self.kept = self.lab.store.root / "own" / f"{key}.plan.json"
        if self.kept.is_file():
            return json.loads(self.kept.read_text("utf-8"))
        batch = min(64 if kind == "cuda" else 32, max(8, len(parts["train"]) // 4))
        if steps:
            return self._keep({"steps": steps, "rates": self.tried[:rates], "batch": batch, "size": size})
        timed = self.trial(self.method(self.tried[0], TIMED, batch, strength)).prepare(self.context)
        with threads_set(self.lab.threads):
            step = step_seconds([timed], TIMED)
        epoch, judged = (
            math.ceil(len(parts["train"]) / batch),
            (len(parts["validation"]) + len(parts["test"])) / 3 / batch,
        )
        spent, least = time.monotonic() - self.began, min(max(FEWEST_STEPS, EPOCHS * epoch), LONGEST)
        room = min(TRAINING * 60 * self.minutes, IN_ALL * 60 * self.minutes - spent)
        for side in (size, SMALLER) if kind == "cpu" and size > SMALLER and self.begin.name != BOOKS_OWN else (size,):
            each = step * (side / size) ** 2
            one, runs = each * (least + judged), rates or len(self.tried)
            if runs := runs if room >= runs * one else int(room >= one):
                fit = int(room / runs / each - judged)
                fit = max(least, min(fit - fit % 10, max(PLENTY[0] * epoch, PLENTY[1])))
                return self._keep({"steps": fit, "rates": self.tried[:runs], "batch": batch, "size": side})
        need = math.ceil(max(one / TRAINING, (one + spent) / IN_ALL) / 60)
        return {"why": f"one run of {least} steps at {side} px takes {duration(one)} here; give {need} minutes"}

    def _keep(self, plan: dict[str, Any]) -> dict[str, Any]:
        write_atomically(self.kept, json.dumps(plan))
        return plan

    def tuned(self, plan: dict[str, Any], strength: float | None) -> Found:
        """Return the network trained at the rate that is best on validation images; `rates` has what each came to.

        Raises
        ------
        UserError
            If no training came to its end.
        """
        made: list[Found] = []
        for at, lr in enumerate(plan["rates"], 1):
            began, method = time.monotonic(), self.method(lr, plan["steps"], plan["batch"], strength)
            measures = () if strength is None else (WeightChange(),)
            found = self.run(self.trial(method, plan["size"], measures=measures), keep=True)
            good = {"validation_accuracy": found.record.get("validation_accuracy"), "status": found.record["status"]}
            self.rates = sorted([*self.rates, {"rate": lr} | good], key=lambda row: row["rate"])
            made += [found] if found.record["status"] == OK else []
            now = time.monotonic()
            if plan["rates"][at:] and 2 * now - began - self.began > 60 * self.minutes:
                self.say(f"no time is left for rates {', '.join(map(str, plan['rates'][at:]))}")
                self._keep(plan | {"rates": plan["rates"][:at]})
                break
        if not made:
            raise UserError(f"training (={self.begin.name}): {self.rates[0]['status']}")
        best = max(made, key=lambda found: found.rank(self.images.balanced))
        return best._replace(net=self.context.load(Trained(best.trial), plan["size"]))

    def losses(self, found: Found) -> list[float]:
        """Return the training losses of a network, in a few points; none of a probe."""
        if not found.trial.trains:
            return []
        with safe_open(self.lab.store.file(Trained(found.trial)), "pt") as file:
            return json.loads(file.metadata()["curve"])
