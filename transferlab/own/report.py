"""The page of a training on a person's own images: how good the network is, where it errs, how to use it."""

import json
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from ..data.opened import Item
from ..data.pictures import address
from ..errors import UserError, check
from ..paths import write_atomically
from .page import page, wilson

IN_MATRIX = 30  # classes; of more, the pairs that are confused most often are shown
CONFUSED, MISTAKES, MISTAKE = 20, 12, 176  # pairs; pictures, and their side in px
BINS, CURVE = 10, 150  # of probabilities; points of the training curve
ANSWER = ["path", "class", "predicted", "probability"]


def write(folder: Path | str) -> Path:
    """Write ``report.html`` into a folder that holds ``metrics.json`` and, for most of the page, ``predictions.csv``.

    Parameters
    ----------
    folder : Path or str
        ``metrics.json`` must have ``accuracy``, ``n`` and ``classes``; what else it lacks the page lacks too.
        ``predictions.csv`` has a row for each test image: ``path``, ``class``, ``predicted``, ``probability``. Paths
        are those of files, or below the ``folder`` of ``metrics.json``; images are shown where they are still at hand.

    Returns
    -------
    Path
        Of the page.

    Raises
    ------
    UserError
        If one of these files cannot be read, or lacks what it must have.
    """
    folder = Path(folder)
    told, answers = _metrics(folder / "metrics.json"), _answers(folder / "predictions.csv")
    images, n = str(told.get("folder") or folder), told["n"]
    rates = [row for row in told.get("rates") or [] if row["validation_accuracy"] is not None]  # that did not diverge
    values = {
        "told": defaultdict(lambda: None, told),
        "name": Path(images).name or images,
        "images": images,
        "place": str(folder),
        "interval": wilson(round(told["accuracy"] * n), n),
        "curve": _curve(told.get("losses") or []),
        "chosen": max(rates, key=lambda row: row["validation_accuracy"])["rate"] if rates else None,
        "classes": _classes(told, answers),
        "answers": len(answers),
    }
    if len(answers):
        wrong = answers[answers["class"] != answers["predicted"]]
        values |= {"usual": answers["class"].value_counts(normalize=True).iloc[0], "mistakes": _mistakes(wrong, images)}
        values |= {"calibration": _calibration(answers), "matrix": _matrix(told["classes"], answers)}
        confused, of = wrong[["class", "predicted"]].value_counts().head(CONFUSED), answers["class"].value_counts()
        values["confused"] = [(*pair, count, of[pair[0]]) for pair, count in confused.items()]
    write_atomically(folder / "report.html", page("report.jinja", **values))
    return folder / "report.html"


def _metrics(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as e:
        raise UserError(f"metrics (={path}): cannot be read ({getattr(e, 'strerror', None) or e})") from e
    missing = [key for key in ("accuracy", "n", "classes") if not isinstance(told, dict) or key not in told]
    check(not missing, "metrics", path, f"must have {', '.join(missing)}")
    return told


def _answers(path: Path) -> pd.DataFrame:
    """Return the predictions, a row a test image; none where there is no such file."""
    if not path.is_file():
        return pd.DataFrame(columns=ANSWER)
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(ANSWER[:3], str), keep_default_na=False)  # a class may be NA
        return table[ANSWER].astype({"probability": float})
    except (OSError, ValueError, KeyError) as e:
        raise UserError(f"predictions (={path}): must have columns {', '.join(ANSWER)} ({e})") from e


def _curve(losses: list[float]) -> dict[str, Any] | None:
    """Return the training curve as points in a square of 100, means of neighbours where there are many."""
    values = np.array(losses, float)
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return None
    means = [part.mean() for part in np.array_split(values, min(CURVE, len(values)))]
    top, xs = max(means) * 1.05 or 1.0, np.linspace(0, 100, len(means))
    points = " ".join(f"{x:.1f},{100 - 100 * y / top:.1f}" for x, y in zip(xs, means, strict=True))
    return {"points": points, "top": top, "first": means[0], "last": means[-1]}


def _classes(told: dict[str, Any], answers: pd.DataFrame) -> list[dict[str, Any]]:
    """Return for each class how many of its test images were right, and what its others were taken for."""
    right = answers["class"].eq(answers["predicted"])
    sizes, shares = (right.groupby(answers["class"]).agg(what) for what in ("size", "mean"))
    known = told.get("per_class") or {name: {"n": sizes[name], "accuracy": shares[name]} for name in sizes.index}
    found = []
    for name, of in known.items():
        others = answers.loc[~right & (answers["class"] == name), "predicted"].value_counts().head(2)
        taken = ", ".join(f"{other} ({count})" for other, count in others.items())
        interval = wilson(round(of["accuracy"] * of["n"]), of["n"]) if of["n"] else (0.0, 1.0)
        found.append({"name": name, "interval": interval, "taken": taken, **of})
    return found


def _matrix(classes: list[str], answers: pd.DataFrame) -> dict[str, list[int]] | None:
    """Return how often each class was taken for which; none for many classes."""
    counts = pd.crosstab(answers["class"], answers["predicted"]).reindex(index=classes, columns=classes, fill_value=0)
    return {name: counts.loc[name].tolist() for name in classes} if len(classes) <= IN_MATRIX else None


def _calibration(answers: pd.DataFrame) -> dict[str, Any]:
    """Return how often answers of some probability are right, and the expected calibration error (ECE)."""
    table = answers.assign(right=answers["class"].eq(answers["predicted"]).astype(float), said=answers["probability"])
    bins = table.groupby((table["said"] * BINS).astype(int).clip(0, BINS - 1))[["said", "right"]]
    means, sizes = bins.mean(), bins.size()
    error = float((sizes * (means["said"] - means["right"]).abs()).sum() / len(table))
    rows = [(at / BINS, (at + 1) / BINS, sizes[at], *means.loc[at]) for at in means.index]
    return {"rows": rows, "error": error, "said": table["said"].mean(), "right": table["right"].mean()}


def _mistakes(wrong: pd.DataFrame, folder: str) -> list[dict[str, Any]]:
    """Return the wrong answers that the network was surest of, with their pictures where these are at hand."""
    found = wrong.sort_values(["probability", "path"], ascending=[False, True]).head(MISTAKES).to_dict("records")
    for row in found:
        here = Path(row["path"]).absolute()
        place, row["picture"] = here if here.is_file() else Path(folder, row["path"]), ""
        with suppress(UserError):
            picture = Item(row["path"], 0, place.read_bytes).image()
            row["picture"] = address(ImageOps.fit(picture, (MISTAKE, MISTAKE), Image.Resampling.BOX))
        if place.is_relative_to(folder):
            row["path"] = place.relative_to(folder).as_posix()
    return found
