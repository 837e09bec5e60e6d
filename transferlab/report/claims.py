"""The claims of the five papers, and the scorecard that puts verdicts beside them."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd

from ..errors import choose
from .rules import UNTESTED, Finding, Verdict
from .stats import holm

CLAIMS = Path(__file__).with_name("claims.toml")
TOLD = ("claim", "scale", "verdict", "unit", "p", "p_holm", "n", "why", "chapter", "same_as", "found")  # of a verdict


@dataclass(frozen=True)
class Paper:
    """One of the five papers."""

    key: str
    title: str
    authors: str
    short: str
    year: int
    venue: str
    cite: str
    prefix: str
    note: str = ""


@dataclass(frozen=True)
class Claim:
    """A falsifiable sentence.

    Attributes
    ----------
    id, paper : str
        ``I1``; key of the paper, none of our own.
    sentence : str
    kind : {"claim", "hypothesis"}
        What the paper says, or what we ask in its place.
    reported : str
        What the paper reports, as far as it was read there.
    question : str
        The statistic that decides.
    later : str
        Later work that bears on it, or another of the five papers that disagrees.
    """

    id: str
    paper: str
    sentence: str
    kind: str
    reported: str
    question: str
    later: str = ""


@cache
def papers() -> dict[str, Paper]:
    """Return the five papers by key."""
    return {key: Paper(key, **about) for key, about in tomllib.loads(CLAIMS.read_text("utf-8"))["papers"].items()}


@cache
def claims() -> dict[str, Claim]:
    """Return every claim by id, paper by paper."""
    return {c["id"]: Claim(**c) for c in tomllib.loads(CLAIMS.read_text("utf-8"))["claims"]}


@cache
def own() -> dict[str, Claim]:
    """Return claims about this book's own advice, by id: of no paper, and not on the scorecard."""
    return {c["id"]: Claim(paper="", **c) for c in tomllib.loads(CLAIMS.read_text("utf-8"))["own"]}


def claim(name: str) -> Claim:
    """Return a claim by id: of a paper, or our own.

    Raises
    ------
    UserError
        If there is none.
    """
    return own().get(name) or claims()[choose("claim", name, claims())]


def fewest(v: Verdict) -> int:
    """Return how many repetitions stand behind a verdict; families, if all its parts are orders over these."""
    return min([f.effect.n for f in v.parts if not f.order] or [f.effect.n for f in v.parts])


def scorecard(verdicts: Iterable[Verdict]) -> pd.DataFrame:
    """Return one row for every claim and scale at which it was judged; a claim that was not has one row, not tested.

    Parameters
    ----------
    verdicts : iterable of Verdict

    Returns
    -------
    DataFrame
        Columns claim, paper, kind, scale, verdict (its word), unit, p, p_holm, n, why, chapter, same_as, found (the
        `Verdict`) and first (of its claim). The p values are corrected by Holm's method within a paper and scale.
    """
    rows = []
    for v in verdicts:
        about = {c: getattr(v, c) for c in ("scale", "unit", "p", "why", "chapter", "same_as")}
        rows.append(about | {"claim": claim(v.claim).id, "verdict": v.word, "n": fewest(v), "found": v})
    card = pd.DataFrame([(c.id, c.paper, c.kind) for c in claims().values()], columns=["claim", "paper", "kind"])
    card = card.merge(pd.DataFrame(rows, columns=TOLD), how="left", on="claim")
    card = card.fillna({"verdict": UNTESTED}).astype({"p": float, "p_holm": float})
    for _, group in card.dropna(subset=["scale"]).groupby(["paper", "scale"]):  # what decided nothing counts, too
        card.loc[group.index, "p_holm"] = group["p"].where(group["p"].isna(), holm(group["p"].fillna(1).tolist()))
    return card.assign(first=~card.duplicated("claim"))


def counted(card: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that count: of each claim the largest scale, of one measurement the first claim."""
    return card.drop_duplicates("claim").pipe(lambda c: c[c["same_as"].fillna("") == ""])


def _plain(f: Finding) -> dict:
    """Return a part as plain data."""
    interval = [f.effect.low, f.effect.high] if f.effect.n > 1 else None
    return {
        "part": f.name,
        "verdict": f.counts,
        "effect": f.effect.mean,
        "interval": interval,
        "side": f.side,
        "bar": f.bar,
        "margin": f.margin,
        "p": f.p,
        "p_holm": f.p_holm,
        "n": f.effect.n,
        "targets": {t: [e.low, e.high] for t, e in f.targets.items()},
    }


def as_objects(card: pd.DataFrame) -> list[dict]:
    """Return a scorecard as plain data.

    Each has claim, paper, scale, verdict, effect, interval, bar, p, n, seeds, parts (the same each), checks,
    fixed_before and rule. Where a claim has several parts, none stands for all: effect, interval, bar are null.
    """
    objects = []
    for row in card.astype(object).where(card.notna(), None).to_dict("records"):
        v = row["found"]
        parts = [_plain(f) for f in v.parts] if v else []
        one = parts[0] if len(parts) == 1 else dict.fromkeys(("effect", "interval", "bar"))
        objects.append(
            {k: row[k] for k in ("claim", "paper", "scale", "verdict")}
            | {k: one[k] for k in ("effect", "interval", "bar")}
            | {"p": row["p"], "p_holm": row["p_holm"], "n": v and int(row["n"])}
            | {"seeds": v and list(v.seeds), "parts": parts}
            | {"checks": [_plain(f) for f in v.checks] if v else [], "needed": v and v.needed}
            | {"why": row["why"]}
            | {"fixed_before": v and v.fixed_before, "rule": v and v.rule}
        )
    return objects
