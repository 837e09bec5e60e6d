"""Estimators: from numbers by seed to one number a seed. Pure functions, the parts of rules.

A *table* has a row for each seed and a column for each arm; what it holds is a mean over targets.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

DIGITS = 6  # what is ranked is rounded first: a float's last bits make no order


def kept_share(part: pd.Series, whole: pd.Series, floor: pd.Series | float = 0.0) -> pd.Series:
    """Return the percentage of a whole that a part keeps, a ratio of means over targets, one number a seed.

    Parameters
    ----------
    part, whole : Series by seed
        Means over targets.
    floor : Series by seed or float
        What counts as nothing: accuracy from scratch, where shares of a gain are asked.
    """
    return 100 * (part - floor) / (whole - floor)


def slope_per_doubling(table: pd.DataFrame) -> pd.Series:
    """Return the least-squares slope of each seed's row over log2 of the columns, which are numbers above zero."""
    x = np.log2(table.columns.astype(float))
    return table.apply(lambda row: float(np.polyfit(x, row, 1)[0]), axis=1)


def at_equal(values: pd.DataFrame, sizes: pd.DataFrame | pd.Series, wanted: float | pd.Series) -> pd.Series:
    """Return each seed's value at a wanted size, linear between the sizes that were measured and NaN beyond them.

    Parameters
    ----------
    values : DataFrame
        A table.
    sizes : DataFrame or Series
        Sizes of the same shape, or one for each column.
    wanted : float or Series by seed
    """
    sizes = pd.DataFrame([sizes] * len(values), values.index) if isinstance(sizes, pd.Series) else sizes
    wanted = pd.Series(wanted, values.index)
    found = {}
    for seed, row in values.iterrows():
        x = sizes.loc[seed, values.columns].to_numpy(float)
        order = np.argsort(x)
        found[seed] = np.interp(wanted[seed], x[order], row.to_numpy()[order], left=np.nan, right=np.nan)
    return pd.Series(found)


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Return Spearman's rank correlation of values that are rounded first; 0 where one side is all ties."""
    x, y = (pd.Series(np.round(np.asarray(side, float), DIGITS)).rank() for side in (x, y))
    return 0.0 if np.ptp(x) == 0 or np.ptp(y) == 0 else float(np.corrcoef(x, y)[0, 1])


def peak(curve: pd.Series) -> float:
    """Return where a curve is highest, as log10 of its index, numbers above zero that grow by one factor.

    It is the top of the parabola through the highest value and its two neighbours; at an end, of which one is lacking,
    the end itself.
    """
    x, y = np.log10(curve.index.to_numpy(float)), curve.to_numpy(float)
    top = int(y.argmax())
    if top in (0, len(y) - 1):
        return float(x[top])
    before, after = y[top] - y[top - 1], y[top] - y[top + 1]
    return float(x[top] + (x[top + 1] - x[top - 1]) / 4 * (before - after) / ((before + after) or 1.0))


def page_trend(table: pd.DataFrame) -> float:
    """Return the p of Page's test that the columns rise in the order given, seeds as blocks."""
    from scipy.stats import page_trend_test  # takes a second

    return float(page_trend_test(table.round(DIGITS).to_numpy()).pvalue)


def leave_one_out_best(table: pd.DataFrame) -> tuple[pd.Series, object]:
    """Return each seed's value of the column that the other seeds' mean puts first, and the one chosen most often.

    So what is chosen is not measured on the numbers that chose it. A single seed chooses by itself.
    """
    others = lambda seed: table.drop(index=seed) if len(table) > 1 else table  # noqa: E731
    chosen = {seed: others(seed).mean().idxmax() for seed in table.index}
    most = max(chosen.values(), key=list(chosen.values()).count)
    return pd.Series({seed: table.at[seed, column] for seed, column in chosen.items()}), most


def inverted_pairs(one: pd.DataFrame, other: pd.DataFrame) -> pd.Series:
    """Return the percentage of pairs of columns that two tables order in opposite ways, one number a seed."""
    pairs = list(combinations(one.columns, 2))
    a, b = one.round(DIGITS), other.round(DIGITS)
    turned = [(a[p] - a[q]) * (b[p] - b[q]) < 0 for p, q in pairs]
    return 100 * pd.concat(turned, axis=1).mean(axis=1)


def surest_inversion(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Return by how much two tables disagree on the pair of columns that the other seeds find most turned around.

    Returns
    -------
    DataFrame
        Columns ``first`` (of the pair, by how much the better one in `one` is ahead there) and ``second`` (by how much
        it is ahead in `other`; below zero where the pair is turned around), a row for each seed.
    """
    pairs = list(combinations(one.columns, 2))
    gaps = [pd.DataFrame({pair: table[pair[0]] - table[pair[1]] for pair in pairs}) for table in (one, other)]
    rows = {}
    for seed in one.index:
        others = [g.drop(index=seed) if len(one) > 1 else g for g in gaps]
        a, b = (g.mean() / (g.std(ddof=1) if len(g) > 1 else 1.0) for g in others)
        turned = np.minimum(a.abs(), b.abs()) * -np.sign(a * b)
        pair = turned.idxmax()
        side = np.sign(a[pair])
        rows[seed] = {"first": side * gaps[0].at[seed, pair], "second": side * gaps[1].at[seed, pair]}
    return pd.DataFrame.from_dict(rows, orient="index")


def partial_correlation(one: pd.DataFrame, other: pd.DataFrame, given: Mapping[object, float]) -> pd.Series:
    """Return the correlation over columns of two tables, given the logarithm of a number of each column, one a seed."""
    budget = np.c_[np.ones(one.shape[1]), np.log([given[c] for c in one.columns])]
    rest = lambda y: y - budget @ np.linalg.lstsq(budget, y, rcond=None)[0]  # noqa: E731
    both = ((rest(one.loc[s].to_numpy()), rest(other.loc[s].to_numpy())) for s in one.index)
    return pd.Series([np.corrcoef(a, b)[0, 1] for a, b in both], one.index)
