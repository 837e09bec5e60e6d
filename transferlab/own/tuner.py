"""The classifier that learns from a person's own images, with scikit-learn's habits."""

import inspect
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..data.files import walk
from ..errors import UserError, check, choose
from ..lab import Lab
from ..measure.metrics import scores
from ..paths import writable, write_atomically
from ..run.devices import pick_device, provenance
from ..specs.serial import positive
from ..train.read import predict
from . import exported
from .arranged import Arranged, arranged, as_files, open_any
from .fitting import TRIED, Fitting, Found
from .networks import BOOKS_OWN, Start, start

HANDED_OUT = ("auto", "finetune", "probe", "grow")
BORROW = "needs a source set to borrow from, and hours: see the chapter does_borrowing_help"


class FineTuner:
    """Learns to tell a person's own images apart.

    Parameters
    ----------
    method : {"auto", "finetune", "probe", "grow"}
        ``probe``: a linear classifier on what the pretrained network makes of the images; ``finetune``: from there on
        all layers are trained; ``grow``: the book's own network is widened and trained; ``auto``: the better of the
        first two on validation images.
    minutes : float
        That it may take.
    network : str, optional
        A classification network of torchvision, or ``own``, the book's; by default ``mobilenet_v2``, or the book's own
        where its weights cannot be had.
    weights : str, optional
        A file of its weights; by default they are looked for, and downloaded.
    size : int, optional
        Side in pixels to which images are brought; by default 128, and 224 on a GPU.
    seed : int
        Of the splits, the initialisation and the order.
    device : str
        ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` ...
    skip_unreadable : bool
        Leave unreadable images out.
    steps, rates : int, optional
        Steps of each run, and how many learning rates are tried, instead of what the time allows.
    verbose : bool
        Tell on standard error what is found.

    Attributes
    ----------
    classes_ : ndarray
        The classes, as they were given.
    metrics_ : dict
        What is written as ``metrics.json``.
    """

    def __init__(
        self,
        method: str = "auto",
        minutes: float = 10,
        network: str | None = None,
        weights: str | None = None,
        size: int | None = None,
        seed: int = 0,
        device: str = "auto",
        skip_unreadable: bool = False,
        steps: int | None = None,
        rates: int | None = None,
        verbose: bool = False,
    ) -> None:
        self.method, self.minutes, self.network, self.weights = method, minutes, network, weights
        self.size, self.seed, self.device, self.skip_unreadable = size, seed, device, skip_unreadable
        self.steps, self.rates, self.verbose = steps, rates, verbose

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **given: Any) -> "FineTuner":
        """Set parameters by name, and return the tuner."""
        for name, value in given.items():
            setattr(self, choose("parameter", name, self.get_params()), value)
        return self

    def fit(self, X: Any, y: Sequence | None = None) -> "FineTuner":
        """Learn from images, and return the tuner. What was done before is in the store: after a stop it goes on.

        Parameters
        ----------
        X : str or Path, or list of str or Path, or ndarray of uint8, shape (N, H, W, 3)
            A folder of labelled images (all that ``folder:PATH`` may be), files, or pixels.
        y : sequence, length N, optional
            Labels of files or pixels.

        Raises
        ------
        UserError
            If parameters or images are not what they must be, or there is too little time.
        """
        check(self.method != "borrow", "method", "borrow", f"{BORROW}; must be one of {', '.join(HANDED_OUT)}")
        choose("method", self.method, HANDED_OUT)
        for name in ("steps", "rates", "size"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))
        check((self.rates or 1) <= len(TRIED), "rates", self.rates, f"must be {len(TRIED)} at most")
        check(self.minutes > 0, "minutes", self.minutes, "must be above 0")
        check(self.seed >= 0, "seed", self.seed, "must be 0 or more")
        began, quiet = time.monotonic(), None if self.verbose else True
        lab = Lab(device=self.device, workers=1, threads=torch.get_num_threads(), quiet=quiet)
        opened, self.classes_ = open_any(X, y)
        begin = start(self.network, self.weights, self.size, self.seed, pick_device(self.device).type)
        grows = self.method == "grow"
        check(
            not grows or begin.name == BOOKS_OWN,
            "method",
            "grow",
            f"widens the book's own network; take network {BOOKS_OWN}",
        )
        images = arranged(opened, self.seed, self.skip_unreadable)
        counts = ", ".join(f"{len(items)} for {split}" for split, items in images.splits.items())
        for words in (f"{begin.note}, at {begin.size} px", f"{len(opened.classes)} classes; {counts}", *images.notes):
            self._say(words)
        fitting = Fitting(images, begin, lab, self.seed, self.minutes - (time.monotonic() - began) / 60, self._say)
        probe, plan, tuned = None if grows else fitting.probe(), {}, None
        if probe:
            self._say(f"probe: {_percent(probe)} ({time.monotonic() - began:.0f} s)")
        strength = probe and probe.record["strength"]
        if self.method != "probe":
            plan = fitting.plan(strength, self.steps, self.rates)
            check("rates" in plan or self.method == "auto", "minutes", self.minutes, f"too few: {plan.get('why')}")
            self._say(f"no fine-tuning: {plan['why']}" if "why" in plan else "")
        if "rates" in plan:
            tuned = fitting.tuned(plan, strength)
            rates = ", ".join(f"{row['rate']:g}" for row in fitting.rates)
            how = f"rate {tuned.trial.recipe.lr:g} of {rates}; {plan['steps']} steps at {plan['size']} px"
            self._say(f"{tuned.trial.method.kind}: {_percent(tuned)} ({how}; {time.monotonic() - began:.0f} s)")
        found = [one for one in (probe, tuned) if one]
        best = max(found, key=lambda one: one.rank(images.balanced)) if self.method == "auto" else found[-1]
        self._say(f"handed out: {best.trial.method.kind}, by validation images" if found[1:] else "")
        self._finish(X, opened.classes, begin, images, fitting, probe, best, plan)
        self.metrics_["seconds"] = round(time.monotonic() - began, 1)
        return self

    def _say(self, words: str) -> None:
        if self.verbose and words:
            print(words, file=sys.stderr, flush=True)

    def _finish(
        self, X: Any, names: Sequence[str], begin: Start, images: Arranged, fitting: Fitting, probe: Found | None,
        best: Found, plan: dict[str, Any],
    ) -> None:  # fmt: skip
        """Ask the network about the test images, and put together what is to be written."""
        folder = os.path.abspath(X) if isinstance(X, str | Path) else None
        test, record = fitting.context.sample(best.trial.target, "test", self.seed), best.record
        logits, labels = predict(best.net, test).cpu(), test.labels.cpu()
        told, chances = logits.argmax(1), logits.double().softmax(1).amax(1)
        places = [os.path.abspath(item.place) for item in images.splits["test"]]
        places = [p.removeprefix(f"{folder}{os.sep}") for p in places]
        rows = zip(places, labels.tolist(), told.tolist(), chances.tolist(), strict=True)
        self.predictions_ = [(place, names[a], names[b], f"{p:.6f}") for place, a, b, p in rows]
        right = {c: (told == labels)[labels == i].double() for i, c in enumerate(names)}
        done = {"steps": plan["steps"], "rates": len(plan["rates"])} if "rates" in plan else {}
        size = best.trial.target.size
        self.metrics_ = scores(logits, labels) | {
            "split": "test",
            "images": {split: len(items) for split, items in images.splits.items()},
            "classes": list(names),
            "per_class": {c: {"n": len(r), "accuracy": round(r.mean().item(), 5)} for c, r in right.items()},
            "validation": best.validation,
            "probe": probe and probe.validation,
            "rates": fitting.rates,
            "losses": fitting.losses(best),
            "changed": dict(zip(record.get("changed_layers", ()), record.get("relative_change", ()), strict=True)),
            "method": best.trial.method.kind,
            "network": begin.name,
            "size": size,
            "steps": plan.get("steps"),
            "balanced": images.balanced,
            "notes": images.notes,
            "folder": folder,
            "command": folder and self.command(folder, **done),
            "versions": {"transferlab": __version__} | provenance(fitting.context.device),
        }
        more = {"recipe": best.trial.method.canonical, "labels": json.dumps(self.classes_.tolist())}
        more |= {"made": self.command(folder)} if folder else {}
        more |= {"widened": str(best.trial.method.units[0])} if self.method == "grow" else {}
        self.model_ = exported.Model(best.net, exported.described(begin.name, begin.backbone, size, names, **more))

    def command(self, folder: str, **done: Any) -> str:
        """Return the command that does this to a folder; with what was `done`, it does not depend on the time."""
        usual = FineTuner().get_params() | {"verbose": self.verbose}
        words = ["transferlab finetune", shlex.quote(os.path.abspath(folder))]
        for name, value in ({n: v for n, v in self.get_params().items() if v != usual[n]} | done).items():
            words += [f"--{name.replace('_', '-')}"] + ([] if value is True else [shlex.quote(str(value))])
        return " ".join(words)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probabilities of the classes, float64 of shape (N, classes).

        Parameters
        ----------
        X
            As in `fit`; of a folder all images below it, by name.

        Raises
        ------
        UserError
            If nothing was fitted, or an image cannot be read.
        """
        check(hasattr(self, "model_"), "FineTuner", "not fitted", "call fit, or load, first")
        places = [f.place for f in walk(os.fspath(X)).pictures] if isinstance(X, str | Path) else as_files(X)
        found = [p for _, p in self.model_.probabilities(places)]
        if bad := [p for p in found if isinstance(p, UserError)]:
            raise bad[0]
        return np.array(found).reshape(-1, len(self.classes_))

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class of each image, shape (N,)."""
        chances = self.predict_proba(X)
        return self.classes_[chances.argmax(1)]

    def score(self, X: Any, y: Sequence | None = None) -> float:
        """Return the share of images that are told right; a folder says its labels itself."""
        if isinstance(X, str | Path):
            opened, names = open_any(X, y)
            items = [item for its in opened.splits.values() for item in its]
            X, y = [item.place for item in items], names[[item.label for item in items]]
        told = self.predict(X)
        check(y is not None and len(y) == len(told), "y", y is not None and len(y), f"must be {len(told)} labels")
        return float(np.mean(told == np.asarray(y)))

    def save(self, folder: str | Path) -> Path:
        """Write the network, what is known of it, and what it says of each test image; return the folder.

        Raises
        ------
        UserError
            If nothing was fitted, or the folder cannot be written.
        """
        check(hasattr(self, "model_"), "FineTuner", "not fitted", "call fit first")
        folder = writable("folder", Path(folder))
        self._say(exported.write_model(folder, self.model_))
        if hasattr(self, "predictions_"):
            rows = [("path", "class", "predicted", "probability"), *self.predictions_]
            write_atomically(folder / exported.PREDICTIONS, exported.table(rows))
        write_atomically(folder / exported.METRICS, json.dumps(self.metrics_, indent=1) + "\n")
        return folder

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto") -> "FineTuner":
        """Return a tuner with the network that `save` wrote: it can predict.

        Raises
        ------
        UserError
            If there is none, or it is of another version.
        """
        self, path = cls(device=device), Path(folder) / exported.METRICS
        self.model_ = exported.read_model(Path(folder), pick_device(device))
        self.classes_ = np.array(json.loads(self.model_.about["labels"]))
        self.metrics_ = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        return self


def _percent(found: Found) -> str:
    return f"{100 * found.validation['accuracy']:.1f}% of {found.validation['n']} validation images"
