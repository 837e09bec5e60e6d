"""Statistics over seeds: paired effects with intervals, equivalence, Holm's correction.

Of scipy only `scipy.special` is imported: `scipy.stats` would take longer than a page's verdicts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import pandas as pd
from scipy.special import ndtri, stdtr, stdtrit

from ..errors import check
from .contrasts import DIGITS

CONFIDENCE = 0.95
EXACT_SIGN_FLIPS = 16  # up to so many seeds all sign patterns are counted
RANDOM_SIGN_FLIPS, ROUNDING = 20_000, 1e-12  # sums that are equal but for the last bits count as equal
EXACT_ORDERS, NEARLY = 8, 0.99  # rows of which all orders are counted; the largest correlation with an interval
MANY = 100  # seeds beyond which it is not said how many would do


@dataclass(frozen=True)
class Effect:
    """A mean over independent seeds, with what is needed to judge it.

    Attributes
    ----------
    mean, low, high : float
        The mean of the paired differences and its 95% interval by Student's t.
    p : float
        Two-sided p of the paired t test against no effect.
    p_sign : float
        Two-sided p of the sign-flip test, which assumes symmetry about zero; with n seeds it cannot go below 2 / 2^n.
    n : int
        Independent seeds.
    deviation : float
        Standard deviation over seeds.
    """

    mean: float
    low: float
    high: float
    p: float
    p_sign: float
    n: int
    deviation: float

    @property
    def half_width(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2

    def against(self, bar: float) -> float:
        """Return the two-sided p of the paired t test against a value."""
        return min(1.0, 2 * _tail(abs(self.mean - bar), self.deviation, self.n))


def effect(differences: Sequence[float], confidence: float = CONFIDENCE) -> Effect:
    """Estimate the mean of paired differences, one number a seed.

    Parameters
    ----------
    differences : sequence of float, length n
    confidence : float
        Of the interval.

    Returns
    -------
    Effect
        With fewer than two seeds the interval is infinite and p is 1.

    Raises
    ------
    UserError
        If there is no number, or one is not finite.
    """
    values = np.asarray(differences, dtype=float)
    check(len(values) and np.isfinite(values).all(), "differences", differences, "must be finite numbers, one a seed")
    n, mean = len(values), float(values.mean())
    if n < 2:
        return Effect(mean, -math.inf, math.inf, 1.0, 1.0, n, math.nan)
    deviation = float(values.std(ddof=1))
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * (deviation / math.sqrt(n))
    p = min(1.0, 2 * _tail(abs(mean), deviation, n))
    return Effect(mean, mean - half, mean + half, p, sign_flip(values), n, deviation)


def brings(effect: Effect) -> str:
    """Return what something brings or costs, in words: ``brings 1.2 points (not clearly)``."""
    unclear = " (not clearly)" if effect.low < 0 < effect.high else ""
    return f"{'brings' if effect.mean > 0 else 'costs'} {abs(effect.mean):.1f} points{unclear}"


def trend(table: pd.DataFrame) -> Effect:
    """Return Spearman's rank correlation of two columns, one row a family of targets, with its exact permutation p.

    Parameters
    ----------
    table : DataFrame
        Columns ``x`` and ``y``: means over seeds.

    Returns
    -------
    Effect
        ``n`` counts families. The interval is that of Bonett and Wright (2000); `p` and `p_sign`, of all orders of one
        column (of random ones beyond eight rows), are what decides.

    Raises
    ------
    UserError
        If there are fewer than three families.
    """
    check(len(table) > 2, "families", len(table), "must be three or more for a rank correlation")
    x, y = (r - r.mean() for r in (table[c].round(DIGITS).rank().to_numpy() for c in ("x", "y")))
    n, size = len(x), math.sqrt((x @ x) * (y @ y)) or 1.0
    if n <= EXACT_ORDERS:
        orders = np.array(list(permutations(y)))
    else:
        orders = np.random.default_rng(0).permuted(np.tile(y, (RANDOM_SIGN_FLIPS, 1)), axis=1)
        orders[0] = y  # what was seen counts, so p is never 0
    rho = float(x @ y) / size
    p = float((np.abs(orders @ x) >= abs(x @ y) - ROUNDING * size).mean())
    half = float(ndtri((1 + CONFIDENCE) / 2)) * math.sqrt((1 + rho**2 / 2) / (n - 3)) if n > 3 else math.inf
    middle = math.atanh(max(-NEARLY, min(NEARLY, rho)))
    low, high = min(rho, math.tanh(middle - half)), max(rho, math.tanh(middle + half))
    return Effect(rho, low, high, p, p, n, math.nan)


def _tail(distance: float, deviation: float, n: int) -> float:
    """Return the one-sided p of a mean over n seeds that lies so far on one side of a bound: 1 if n is 1."""
    if n < 2 or deviation == 0:
        return float(n < 2 or distance <= 0)
    return float(stdtr(n - 1, -distance / (deviation / math.sqrt(n))))


def by_group(records: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """Return the mean of a column in every group of rows, one row a seed, with its 95% interval.

    Parameters
    ----------
    records : DataFrame
    by : sequence of str
        Columns that tell groups apart.
    value : str
        The column that is averaged.

    Returns
    -------
    DataFrame
        One row a group: the columns `by`, `value`, ``low``, ``high`` and ``seeds``; of records that have keys also
        ``runs`` (see `runs_behind`).
    """
    groups = records.groupby(list(by), sort=False, dropna=False)
    found = {key: effect(group) for key, group in groups[value]}
    rows = [(*key, e.mean, e.low, e.high, e.n) for key, e in found.items()]
    table = pd.DataFrame(rows, columns=[*by, value, "low", "high", "seeds"])
    if {"key", "lr", "seed"} <= {*records}:
        table["runs"] = [runs_behind(rows, value) for _, rows in groups]
    return table


def runs_behind(rows: pd.DataFrame, value: str) -> str:
    """Return the runs behind a point for the page's script, as ``value key rate seed; ...`` by seed.

    What a run has in common with the one before it, its rate and a seed that follows, is left out.
    """
    told, last, expected = [], None, 0
    for seed, got, lr, key in rows.sort_values("seed")[["seed", value, "lr", "key"]].itertuples(index=False):
        rate = "-" if pd.isna(lr) else f"{lr:g}"
        more = [rate, str(seed)] if seed != expected else [rate] if rate != last else []
        told.append(" ".join([f"{got:.4g}", key, *more]))
        last, expected = rate, seed + 1
    return ";".join(told)


def sign_flip(values: np.ndarray) -> float:
    """Return the two-sided p of the sign-flip test of a zero mean: exact up to 16 values, else from random patterns."""
    n = len(values)
    if n < 2:
        return 1.0
    if n <= EXACT_SIGN_FLIPS:
        flipped = np.arange(2**n)[:, None] >> np.arange(n) & 1
    else:
        flipped = np.random.default_rng(0).integers(0, 2, (RANDOM_SIGN_FLIPS, n))
        flipped[0] = 0  # what was seen counts, so p is never 0
    sums = np.abs((1 - 2 * flipped) @ (values / (np.abs(values).sum() or 1.0)))
    return float((sums >= sums[0] - ROUNDING).mean())


def equivalence(found: Effect, margin: float) -> float:
    """Return the p of two one-sided t tests, doubled: below 5% if the 95% interval of the effect lies within +-margin.

    Raises
    ------
    UserError
        If the margin is not above 0.
    """
    check(margin > 0, "margin", margin, "must be above 0")
    return min(1.0, 2 * max(_tail(margin + side * found.mean, found.deviation, found.n) for side in (1, -1)))


def holm(ps: Sequence[float]) -> list[float]:
    """Return p values adjusted by Holm's step-down method, in the order given."""
    order, steps = np.argsort(ps), np.arange(len(ps), 0, -1)
    adjusted = np.empty(len(ps))
    adjusted[order] = np.minimum(np.maximum.accumulate(np.asarray(ps, float)[order] * steps), 1)
    return adjusted.tolist()


def seeds_needed(deviation: float, half_width: float) -> int:
    """Return how many seeds make the interval's half-width at most `half_width`, for this deviation over seeds.

    Beyond `MANY` it is `MANY` + 1.
    """
    n = np.arange(2, MANY + 1)
    half_widths = stdtrit(n - 1, (1 + CONFIDENCE) / 2) * deviation / np.sqrt(n)
    return 2 + int((half_widths > half_width).sum())  # they fall with n
