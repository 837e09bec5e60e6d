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
from ..methods import FineTune
from ..paths import writable, write_atomically
from ..run.devices import pick_device, provenance
from ..specs.serial import canonical, positive
from ..train.read import predict
from . import exported
from .arranged import Arranged, arranged, as_files, open_any
from .fitting import TRIED, Fitting, Found, widened
from .networks import OWN, start

HANDED = ("auto", "finetune", "probe", "grow")
BORROW = "needs a source set to borrow from, and hours: see the chapter does_borrowing_help"


class FineTuner:
    """Learns to tell a person's own images apart.

    Parameters
    ----------
    method : {"auto", "finetune", "probe", "grow"}
        ``probe``: a linear classifier on what the pretrained network makes of the images; ``finetune``: all layers are
        trained; ``grow``: the book's own network is widened and trained; ``auto``: the better of the first two on
        validation images.
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
        Tell on standard error what is found, line by line.

    Attributes
    ----------
    classes_ : ndarray
        The classes, as they were given.
    model_ : exported.Model
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
        """Learn from images.

        What was done before is found in the store: after a stop the same call goes on.

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
        self._check()
        device = pick_device(self.device)
        lab = Lab(device=self.device, workers=1, threads=torch.get_num_threads(), quiet=None if self.verbose else True)
        opened, classes = open_any(X, y)
        begin = start(self.network, self.weights, self.size, self.seed, device)
        grows, finds = self.method == "grow", self.method in ("auto", "probe")
        check(not grows or begin.name == OWN, "method", "grow", f"widens the book's own network; take network {OWN}")
        began = time.monotonic()
        images = arranged(opened, self.seed, self.skip_unreadable)
        counts = ", ".join(f"{split} {len(items)}" for split, items in images.opened.splits.items())
        for words in (f"{len(classes)} classes: {counts}", f"{begin.note}, at {begin.size} px", *images.notes):
            self._say(words)
        fitting = Fitting(images, begin, lab, self.seed, self._say)
        fitting.began = began
        found = [] if grows else [fitting.probe()]
        for probe in found:
            self._say(f"probe: {_percent(probe)} ({time.monotonic() - began:.0f} s)")
        plan: dict[str, Any] = {}
        if self.method != "probe":
            method = widened(begin) if grows else FineTune
            plan = fitting.plan(method, self.minutes, self.steps, self.rates)
            check(bool(plan["rates"]) or finds, "minutes", self.minutes, "too few: " + getattr(fitting, "short", ""))
            if plan["rates"]:
                found.append(fitting.tuned(method, plan, self.minutes))
                rates = ", ".join(f"{row['rate']:g}" for row in fitting.rates)
                chosen = f"rate {found[-1].trial.recipe.lr:g} of {rates}, {plan['steps']} steps at {plan['size']} px"
                self._say(f"{found[-1].name}: {_percent(found[-1])} ({chosen}; {time.monotonic() - began:.0f} s)")
            else:
                self._say(f"no fine-tuning: {fitting.short}")
        best = max(found if self.method == "auto" else found[-1:], key=lambda one: one.rank(images.balanced))
        if len(found) > 1 and self.method == "auto":
            self._say(f"handed out: {best.name}, the better one on validation images")
        self.classes_ = classes
        self._finish(X, begin, images, fitting, found, best, plan)
        self.metrics_["seconds"] = round(time.monotonic() - began, 1)
        return self

    def _check(self) -> None:
        """Check the parameters, which the constructor only stores."""
        check(self.method != "borrow", "method", "borrow", f"{BORROW}; must be one of {', '.join(HANDED)}")
        choose("method", self.method, HANDED)
        number = isinstance(self.minutes, int | float) and self.minutes > 0
        check(number, "minutes", self.minutes, "must be a number above 0")
        check(isinstance(self.seed, int) and self.seed >= 0, "seed", self.seed, "must be a whole number, 0 or more")
        for name in ("steps", "rates", "size"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))
        check((self.rates or 1) <= len(TRIED), "rates", self.rates, f"must be {len(TRIED)} at most")

    def _say(self, words: str) -> None:
        if self.verbose:
            print(words, file=sys.stderr, flush=True)

    def _finish(self, X: Any, begin, images: Arranged, fitting: Fitting, found: list[Found], best: Found, plan) -> None:
        """Ask the network about the test images, and put together what is to be written."""
        test, names, size = fitting.sample(best.trial, "test"), images.opened.classes, best.trial.target.size
        logits = predict(best.net, test).cpu()
        labels, told, chances = test.labels.cpu(), logits.argmax(1), logits.double().softmax(1).amax(1)
        right = told == labels
        places = [item.place for item in images.opened.splits["test"]]
        rows = zip(places, labels.tolist(), told.tolist(), chances.tolist(), strict=True)
        self.predictions_ = [(place, names[a], names[b], f"{p:.6f}") for place, a, b, p in rows]
        each = {c: right[labels == i] for i, c in enumerate(names)}
        folder = os.path.abspath(X) if isinstance(X, str | Path) else None
        record = best.record
        self.metrics_ = scores(logits, labels) | {
            "split": "test",
            "images": {split: len(items) for split, items in images.opened.splits.items()},
            "classes": list(names),
            "per_class": {c: {"n": len(r), "accuracy": round(r.double().mean().item(), 5)} for c, r in each.items()},
            "validation": best.validation,
            "probe": {one.name: one.validation for one in found}.get("probe"),
            "rates": fitting.rates,
            "losses": fitting.losses(best),
            "changed": dict(zip(record.get("changed_layers", ()), record.get("relative_change", ()), strict=True)),
            "method": best.name,
            "network": begin.name,
            "size": size,
            "steps": plan.get("steps"),
            "balanced": images.balanced,
            "notes": images.notes,
            "folder": folder,
            "command": self._command(folder, plan),
            "versions": {"transferlab": __version__} | provenance(fitting.context.device),
        }
        more = {
            "recipe": best.trial.method.canonical,
            "made": self.made(X),
            "labels": json.dumps(self.classes_.tolist()),
        }
        more |= {"widened": str(best.trial.method.units[0])} if self.method == "grow" else {}
        about = exported.described(begin.name, begin.backbone, size, names, **more)
        self.model_ = exported.Model(best.net, about)

    def made(self, X: Any) -> str:
        """Return what tells this call from others: folder and parameters."""
        return canonical([os.path.abspath(X) if isinstance(X, str | Path) else None, self._given()])

    def _given(self) -> dict[str, Any]:
        """Return the parameters that are not the usual ones, but for what is only shown."""
        usual = FineTuner().get_params()
        return {name: v for name, v in self.get_params().items() if v != usual[name] and name != "verbose"}

    def _command(self, folder: str | None, plan: dict[str, Any]) -> str | None:
        """Return the command that repeats this, whatever the time; there is none for files and pixels."""
        if folder is None:
            return None
        given = self._given() | ({"steps": plan["steps"], "rates": len(plan["rates"])} if plan.get("rates") else {})
        words = [
            f"--{name.replace('_', '-')}" + ("" if v is True else f" {shlex.quote(str(v))}")
            for name, v in given.items()
        ]
        return " ".join(("transferlab finetune", shlex.quote(folder), *words))

    # ----------------------------------------------------------------------------------------------- what was learned

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probabilities of the classes, float64 of shape (N, classes); `X` as in `fit`, folders with all
        images below them in the order of their names.

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
        return self.classes_[self.predict_proba(X).argmax(1)]

    def score(self, X: Any, y: Sequence | None = None) -> float:
        """Return the share of images whose class is told; a folder says its labels itself."""
        if isinstance(X, str | Path):
            opened, names = open_any(X, y)
            items = [item for its in opened.splits.values() for item in its]
            X, y = [item.place for item in items], names[[item.label for item in items]]
        check(y is not None and len(y) == len(X), "y", y is not None and len(y), "must be one label for each image")
        return float(np.mean(self.predict(X) == np.asarray(y)))

    def save(self, folder: str | Path) -> Path:
        """Write the network, what is known of it, and what it says of each test image; return the folder.

        Raises
        ------
        UserError
            If nothing was fitted, or the folder cannot be written.
        """
        check(hasattr(self, "model_"), "FineTuner", "not fitted", "call fit first")
        folder = writable("folder", Path(folder))
        if why := exported.write_model(folder, self.model_):
            self._say(why)
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
        self = cls(device=device)
        self.model_ = exported.read_model(Path(folder), pick_device(device))
        self.classes_ = np.array(json.loads(self.model_.about["labels"]))
        path = Path(folder) / exported.METRICS
        self.metrics_ = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        return self


def _percent(found: Found) -> str:
    v = found.validation
    return f"{100 * v['accuracy']:.1f}% of {v['n']} validation images"
