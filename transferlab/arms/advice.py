"""What to do with a task, from tasks on which every way was measured; and how good that would have been for these.

The form was chosen by reasoning, before any regret was computed; nothing in it is tuned. A classifier on frozen
features is cheap, so a task's own is known. What else a *setting* would reach is told as log odds over that, which the
ceiling at 100% does not bend as it bends points. Tasks that are alike count more: those with as many classes and images
a class, of whose labels the source's head knows as much, and which frozen features tell apart as well. With so few
families the nearest alone would be chance, and all alike would be no advice: a Gaussian kernel as wide as tasks usually
differ stands between.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit, logit, stdtrit

from ..errors import check
from ..specs import Trial, catalog
from ..specs.selection import images_of
from .factors import CLASS_MEAN, FEW, VALIDATED, family

FROZEN, FROM_SCRATCH = "frozen", "from scratch"  # settings beside those of fine-tuning
FEWEST_FAMILIES = 3
CLOSEST = 0.5  # percent: log odds are taken no nearer to none and all
TOO_FEW = 0.1  # degrees of freedom below which there is no interval


def odds(percent: Any) -> Any:
    """Return the log odds of accuracies in percent."""
    return logit(np.clip(percent, CLOSEST, 100 - CLOSEST) / 100)


def described(classes: int, images: int, leep: float, frozen: float) -> dict[str, float]:
    """Return what tells how alike two tasks are.

    Parameters
    ----------
    classes, images : int
        Labelled images in all, but for those of the test.
    leep : float
        Score of the source's head, in nats.
    frozen : float
        Accuracy of a classifier on frozen features, percent of validation images.
    """
    known = 1 + leep / np.log(classes)  # 0: the head says nothing of the labels; 1: all
    sizes = {"classes": np.log(classes), "images a class": np.log(images / classes)}
    return sizes | {"labels known": known, "frozen": float(odds(frozen))}


def size_of(trial: Trial) -> dict[str, int]:
    """Return the number of classes of a trial's target, and of its images but for those of the test."""
    images, part = trial.target.images, trial.target.subset
    classes = part.classes or catalog.pinned(images.name)["classes"]
    if part.per_class:
        return {"classes": classes, "images": classes * part.per_class}
    splits = catalog.pinned(images.name)["splits"]
    return {"classes": classes, "images": sum(images_of(images, s) for s in splits if s != "test")}


class Cases(NamedTuple):
    """Tasks that were measured: how each is (a row a target), and percent of validation and test images by (target,
    seed) and setting, cheaper settings first.
    """

    about: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame


def cases(records: pd.DataFrame) -> Cases:
    """Return the cases in a study's records, as its factors ``setting``, ``classes`` and ``images`` tell them.

    What diverged has learned nothing: 0.
    """
    rows = records[records["setting"].notna()]
    order = sorted(dict.fromkeys(rows["setting"]), key=lambda setting: setting != FROZEN)
    tables = [
        rows.fillna({value: 0.0}).pivot(index=["target", "seed"], columns="setting", values=value)[order]
        for value in (VALIDATED, CLASS_MEAN)
    ]
    known = records[records["setting"].isna()].groupby("target", sort=False)[["classes", "images", "leep"]].mean()
    known["frozen"] = early(tables[0])[FROZEN].groupby("target").mean()
    about = {target: described(**row) for target, row in known.iterrows()}
    return Cases(pd.DataFrame.from_dict(about, orient="index").rename_axis("target"), *tables)


def early(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the first four seeds, which choose."""
    seeds = table.index.get_level_values("seed")
    return table[seeds.isin(sorted({*seeds})[:FEW])]


class Advice(NamedTuple):
    """A setting, its log odds over the frozen features' with half their 95% interval, and ``distance`` and ``weight``
    of the tasks that it rests on, nearest first.
    """

    setting: str
    ahead: float
    half: float
    near: pd.DataFrame


def expected(advice: Advice, frozen: float) -> tuple[float, float, float]:
    """Return the accuracy to expect and its 95% interval, in percent, where frozen features have `frozen`."""
    middle = float(odds(frozen)) + advice.ahead
    return tuple(100 * float(expit(middle + side * advice.half)) for side in (0, -1, 1))


def nearness(about: pd.DataFrame, task: pd.Series) -> pd.DataFrame:
    """Return ``distance`` and ``weight`` of tasks, nearest first.

    A distance is the root mean square over descriptions, each in standard deviations over the tasks; a weight falls
    with it as a Gaussian does, and the tasks of a family share one.
    """
    spread = about.std(ddof=0)
    squared = ((about - task) / spread.where(spread > 0)).pow(2).mean(axis=1).fillna(0)  # all alike: as near
    of = about.index.map(family)
    weight = np.exp((squared.min() - squared) / 2) / of.map(of.value_counts())
    near = pd.DataFrame({"distance": squared**0.5, "weight": weight / weight.sum()}, about.index)
    return near.sort_values("distance", kind="stable")


def advise(known: Cases, task: pd.Series) -> Advice:
    """Return the setting with the highest weighted mean on validation images, and what test images make of it.

    The interval is that of one more task, by Student's t: from the weighted variance over tasks and repetitions, with
    as many families as the weights are worth.

    Parameters
    ----------
    known : Cases
    task : Series
        As `described`.

    Raises
    ------
    UserError
        If there are fewer than three families.
    """
    near = nearness(known.about, task)
    weight = near["weight"].reindex(known.about.index)
    families = weight.groupby(weight.index.map(family)).sum()
    rule = f"must be {FEWEST_FAMILIES} or more to give advice from"
    check(len(families) >= FEWEST_FAMILIES, "families of measured tasks", len(families), rule)
    frozen = odds(known.validation[FROZEN])
    seen, asked = (odds(table).sub(frozen, axis=0) for table in (early(known.validation), known.test))
    ahead = seen.groupby("target").mean().mul(weight, axis=0).sum()
    setting = ahead.idxmax()  # of equals the first
    found = asked[setting].dropna()
    each = weight.reindex(found.index, level="target") / found.groupby("target").transform("size")
    mean, worth = float((each * found).sum()), 1 / float((families**2).sum())
    free = worth - 1
    if free < TOO_FEW:
        return Advice(setting, mean, np.inf, near)
    variance = float((each * (found - mean) ** 2).sum()) * worth / free
    return Advice(setting, mean, float(stdtrit(free, 0.975)) * (variance * (1 + 1 / worth)) ** 0.5, near)


def constant(known: Cases) -> str:
    """Return the one setting that is best on the mean of families, by validation images."""
    means = early(known.validation).groupby("target").mean()
    return means.groupby(means.index.map(family)).mean().mean().idxmax()


def tried_out(known: Cases, default: str) -> pd.DataFrame:
    """Return what the advice from all other families would have come to, a row a target and repetition.

    Returns
    -------
    DataFrame
        ``target``, ``family``, ``seed``; what was ``advised``, and the ``best`` setting and the best ``constant``, by
        validation images; ``reached`` by the advised setting, and ``expected``, ``low``, ``high`` (percent of test
        images); the regret, points by which the best setting is ahead, of ``advice``, ``constant``, ``default`` and
        ``frozen`` features as ``regret of …``.
    """
    rows = []
    for target, task in known.about.iterrows():
        others = [t for t in known.about.index if family(t) != family(target)]
        others = Cases(*(table.loc[others] for table in known))
        advice, test = advise(others, task), known.test.loc[target]
        ways = {"advice": advice.setting, "constant": constant(others), "default": default, "frozen": FROZEN}
        best = early(known.validation.loc[[target]]).mean().idxmax()
        about = {"target": target, "family": family(target), "advised": advice.setting, "best": best}
        for seed, got in test.iterrows():
            told = expected(advice, known.validation.loc[(target, seed), FROZEN])
            told = dict(zip(("expected", "low", "high"), told, strict=True)) | {"reached": got[advice.setting]}
            regret = {f"regret of {way}": got[best] - got[setting] for way, setting in ways.items()}
            rows.append(about | {"constant": ways["constant"], "seed": seed} | told | regret)
    return pd.DataFrame(rows)
