"""Arms of the chapters on fine-tuning itself (Li et al.), at every scale."""

from dataclasses import replace
from typing import Any

import pandas as pd

from ..errors import check
from ..methods import FineTune
from ..scales import scale as scale_of
from ..specs import OneOf
from .factors import CLASS_MEAN, FEW, VALIDATED, Network, networks, targets

OTHER_RATES = {"smoke": (0.005, 0.05, 0.5), "paper": (0.0001, 0.0004, 0.0016, 0.0064, 0.0256, 0.1)}
GRID = (0.001, 0.004, 0.016, 0.064, 0.256, 1.0)  # of cpu and gpu
THIRDS = ("objects and scenes", "flowers, paintings", "drawings, digits, cells")  # of the targets, nearest first
FIRST_FOUR = (0, 1, 2, 3)  # the seeds whose validation accuracy chooses


def network(scale: str) -> Network:
    """Return the network that is fine-tuned: our own, from the longest training on the source that there is."""
    return list(networks(scale).values())[-1]


def rates(scale: str) -> tuple[float, ...]:
    """Return the learning rates from one end, where little moves, to the other."""
    return OTHER_RATES.get(scale, GRID)


def searched(scale: str) -> float | OneOf:
    """Return the rates among which every variant chooses: those between the ends."""
    inside = rates(scale)[1:-1]
    return OneOf(*inside, seeds=FIRST_FOUR) if len(inside) > 1 else inside[0]


def tuned(scale: str, lr: float | OneOf, changed: dict[str, Any] | None = None, **fields: Any) -> FineTune:
    """Return fine-tuning as every variant has it: `changed` are fields of the recipe, `fields` of the method."""
    s = scale_of(scale)
    return FineTune(replace(s.train, lr=lr, **changed or {}), **{"head_lr": s.head_lr} | fields)


def thirds(points: pd.DataFrame, column: str, scale: str) -> pd.DataFrame:
    """Return points as means over thirds of the targets, by the order of distance.

    Parameters
    ----------
    points : DataFrame
        A row for each target and seed, a column for each level of `column`.
    column : str
    scale : str

    Returns
    -------
    DataFrame
        A row for each ``third``, level and ``seed``: their ``points``.
    """
    names, long = targets(scale), points.stack().rename("points").reset_index()
    long["third"] = [THIRDS[min(2, 3 * names.index(name) // len(names))] for name in long["target"]]
    return long.groupby(["third", column, "seed"], sort=False)["points"].mean().reset_index()


# ------------------------------------------------------------------------------------------------ accuracies by arm


def curves(study: Any, value: str = CLASS_MEAN) -> pd.DataFrame:
    """Return accuracies of a study's part `main`: a row for each target and seed, a column for each rate.

    A training that diverged has learned nothing: 0.
    """
    rows = study.rows(part="main")
    return rows.pivot(index=["target", "seed"], columns="rate", values=value).fillna(0.0)


def first(study: Any) -> pd.DataFrame:
    """Return validation accuracies, means over the first four seeds: a row a target, a column a rate."""
    table = curves(study, VALIDATED)
    return table[table.index.get_level_values("seed").isin(study.seeds[:FEW])].groupby("target").mean()


def chosen(study: Any) -> pd.Series:
    """Return the rate that validation images choose, by target."""
    return first(study).idxmax(axis=1)


def depths(study: Any, value: str) -> pd.DataFrame:
    """Return accuracies: a row for each target and seed, a column for each number of layers that are kept."""
    rows = study.rows()
    return rows[rows["kept"].notna()].pivot(index=["target", "seed"], columns="kept", values=value)


def most_kept(table: pd.DataFrame) -> pd.Series:
    """Return for each row of `depths` the largest number of kept layers that costs less than a point."""
    return table.gt(table[0] - 1, axis=0).apply(lambda row: row[row].index[-1], axis=1)


def deepest(study: Any) -> pd.Series:
    """Return how many layers may stay on each target, by validation images of the first four seeds."""
    table = depths(study, VALIDATED)
    few = table[table.index.get_level_values("seed").isin(study.seeds[:FEW])]
    return most_kept(few.groupby("target").mean())


def free_layers(study: Any, series: tuple[str, ...] | None = None) -> pd.DataFrame:
    """Return how many layers may stay: a row a repetition, a column for each of some targets: those of one task, say.

    Raises
    ------
    UserError
        If the study lacks some of them.
    """
    series = list(series or study.targets)
    check({*series} <= {*study.targets}, "targets", ", ".join(study.targets), "are not the whole series")
    return most_kept(depths(study, VALIDATED)).unstack(level=0)[series]
