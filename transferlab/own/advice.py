"""Advice for a person's own images: which of the measured tasks they are like, and what was best on those.

Needs no image sets: what is known of the measured tasks is on record, and the book's own network is published.
"""

import math
import shlex
from typing import Any

import pandas as pd

from ..arms.advice import FROM_SCRATCH, FROZEN, advise, cases, described, expected, nearness
from ..arms.factors import CLASS_MEAN, VALIDATED
from ..arms.tuning import network
from ..chapters import chapter
from ..errors import check
from ..lab import Lab
from ..methods import Probe
from ..report.theme import names
from ..specs import ImageSet, Target, Trial, catalog
from .arranged import arranged, open_any
from .fitting import TRIED
from .networks import BOOKS_OWN, start

ADVISING, MEASURED = "how_good_is_our_advice", "cpu"  # the chapter, and the scale of its records
ASKED_THERE = ("how_fast", "how_far_is_a_task")  # chapters that made them
READER, PORTION_READ, READ_AT_PX = 0, 400, 28  # seed of the network that reads, images and px: as records were made
LEISURE = 2  # times the measured seconds that the command is given


def looked_at(folder: str, skip_unreadable: bool = False, device: str = "auto", quiet: bool = True) -> dict[str, Any]:
    """Read a folder's images once with the book's own network.

    Parameters
    ----------
    folder : str
        As `FineTuner.fit` takes it.
    skip_unreadable, device
        As in `FineTuner`.
    quiet : bool
        Show no progress.

    Returns
    -------
    dict
        ``classes``, ``images`` (but for those of the test), ``leep`` (nats), ``frozen`` (accuracy of a classifier on
        frozen features, percent of validation images, mean over classes) and ``notes``.

    Raises
    ------
    UserError
        If the images are not what they must be, or the network is not there.
    """
    from ..measure.transferability import leep
    from ..methods.distance import read_with_head, some_of
    from ..nets.build import with_head
    from ..run.context import Context
    from ..run.devices import pick_device

    opened, _ = open_any(folder)
    where = pick_device(device)
    begin = start(BOOKS_OWN, None, None, READER, where.type)
    images = arranged(opened, READER, skip_unreadable)
    target = Target(ImageSet(images.name, catalog.pinned(images.name)["fingerprint"]), begin.size)
    layer = network(MEASURED).last
    trial = Trial(target, Probe(layer, normalise=True), begin.backbone, READER, begin.source)
    lab = Lab(device=device, workers=1, quiet=quiet or None)
    lab.run([trial])
    context = Context(where, lab.store)
    parts = [context.sample(target, split, READER) for split in ("train", "validation")]
    count = min(PORTION_READ, sum(len(part.rows) for part in parts))
    sample = some_of(parts, count, min(READ_AT_PX, begin.size), READER).to(where)
    _, chances = read_with_head(with_head(context.network(trial)), sample, layer)
    return {
        "classes": len(opened.classes),
        "images": sum(len(images.splits[split]) for split in ("train", "validation")),
        "leep": leep(chances, sample.labels),
        "frozen": 100 * lab.record(trial)["metrics"][VALIDATED],
        "notes": images.notes,
    }


def advice(folder: str, **options: Any) -> dict[str, Any]:
    """Return what to do with a folder of images, and how good such advice was.

    Parameters
    ----------
    folder : str
    **options
        As in `looked_at`.

    Returns
    -------
    dict
        What `looked_at` found; ``nearest`` tasks with distance and weight; ``farther``, whether they are farther than
        measured tasks are from each other; the ``setting`` and the ``command``; the ``expected`` accuracy, ``low`` and
        ``high`` (percent); ``seconds`` of one training, and ``minutes`` for the command; ``given``: by how many points
        frozen features of a network that has seen ImageNet were ahead, and on how many tasks; ``how_good``, sentences;
        ``rests_on``.

    Raises
    ------
    UserError
        As `looked_at`, or if no records are published.
    """
    subject = chapter(ADVISING)
    study = subject.published(MEASURED)
    check(study is not None, "records", f"{ADVISING} at {MEASURED}", "none are published; run it first")
    found = looked_at(folder, **options)
    known, rows = cases(study.records), study.records
    task = pd.Series(described(*(found[name] for name in ("classes", "images", "leep", "frozen"))))
    told = advise(known, task)
    apart = [nearness(known.about, one)["distance"].iloc[1] for _, one in known.about.iterrows()]
    best, low, high = expected(told, found["frozen"])
    mine = rows[rows["setting"] == told.setting].groupby("target")
    given = rows[rows["part"] == "beside"].groupby("target")[CLASS_MEAN].mean() - mine[CLASS_MEAN].mean()
    seconds = float((mine["seconds"].mean() * told.near["weight"]).sum())
    trained = 1 if told.setting == FROZEN else len(TRIED)
    minutes = math.ceil(LEISURE * trained * seconds / 60)
    words = ["transferlab finetune", shlex.quote(folder), "--network", BOOKS_OWN, "--minutes", str(minutes)]
    words += ["--method", "probe" if told.setting == FROZEN else "finetune"]
    box = subject.short(study)
    return found | {
        "folder": folder,
        "nearest": [{"target": t, **row.round(3)} for t, row in told.near.iterrows()],
        "farther": bool(told.near["distance"].iloc[0] > max(apart)),
        "setting": told.setting,
        "command": " ".join(words),
        "expected": round(best, 1),
        "low": round(low, 1),
        "high": round(high, 1),
        "seconds": round(seconds, 1),
        "minutes": minutes,
        "given": {"points": round(given.mean(), 1), "ahead": int((given > 0).sum()), "of": len(given)},
        "how_good": [*box.said, f"So: {box.do}"],
        "rests_on": {"records": len(rows), "targets": len(known.about), "chapters": [ADVISING, *ASKED_THERE]},
    }


def lines(about: dict[str, Any]) -> list[str]:
    """Return advice in at most twelve lines."""
    near = ", ".join(f"{names(one['target'])} ({one['distance']:.1f})" for one in about["nearest"][:3])
    far = "; farther than measured tasks are from each other: trust it less" if about["farther"] else ""
    ways = {FROZEN: "keep the network as it is, and fit a classifier on its features"}
    ways |= {FROM_SCRATCH: "train from scratch: pretraining was worth nothing on such tasks"}
    rates = ", ".join(map(str, TRIED))
    do = ways.get(about["setting"], f"train all layers, {about['setting']} (finetune tries {rates})")
    best, low, high = (f"{about[name]:.0f}" for name in ("expected", "low", "high"))
    given, rests, once = about["given"], about["rests_on"], f"{about['seconds']:.0f} s"
    return [
        f"{about['folder']}: {about['images']:,} images to learn from, {about['classes']} classes; "
        f"frozen features tell {about['frozen']:.0f}% of validation images",
        f"nearest measured tasks, by distance: {near}{far}",
        f"do: {do}",
        f"type: {about['command']}",
        f"expect: {best}% of test images, 95% interval {low} to {high}%, mean over classes",
        f"time: {once} for one training on one core where it was measured; at most {about['minutes']} minutes in all",
        f"larger: frozen features of a network that has seen ImageNet were ahead of this on {given['ahead']} of "
        f"{given['of']} tasks, by {given['points']:.0f} points on average; leave out --network {BOOKS_OWN} to use one",
        f"how good such advice was, each family of tasks left out in turn: {about['how_good'][0]}",
        *about["how_good"][1:],
        f"rests on {rests['records']} records of {rests['targets']} tasks: {', '.join(rests['chapters'])}",
    ]
