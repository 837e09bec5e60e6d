"""The claims of the five papers, the verdicts on them, and the scorecard that puts the two together."""

import math
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd

from ..errors import choose
from .stats import Judgement, holm

CLAIMS = Path(__file__).with_name("claims.toml")
EFFECT = ("effect", "low", "high", "unit", "p", "p_sign", "p_holm", "n")
COLUMNS = ["claim", "paper", "scale", "verdict", *EFFECT, "why", "finding", "chapter"]


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


@dataclass(frozen=True)
class Claim:
    """A falsifiable sentence.

    Attributes
    ----------
    id, paper : str
        ``I1``; key of the paper.
    sentence : str
    kind : {"claim", "hypothesis"}
        What the paper says, or what we ask in its place.
    reported : str
        What the paper reports, as far as it was read there.
    question : str
        The statistic that decides.
    """

    id: str
    paper: str
    sentence: str
    kind: str
    reported: str
    question: str


@dataclass(frozen=True)
class Verdict:
    """What records say about a claim, computed.

    Attributes
    ----------
    claim, scale, chapter : str
    judgement : Judgement
        Verdict, why, and the effect with its interval, p and n.
    unit : str
        Of the effect.
    sentence : str
        The finding in words, numbers included.
    """

    claim: str
    scale: str
    chapter: str
    judgement: Judgement
    unit: str
    sentence: str


@cache
def papers() -> dict[str, Paper]:
    """Return the five papers by key."""
    return {key: Paper(key, **about) for key, about in tomllib.loads(CLAIMS.read_text("utf-8"))["papers"].items()}


@cache
def claims() -> dict[str, Claim]:
    """Return every claim by id, paper by paper."""
    return {c["id"]: Claim(**c) for c in tomllib.loads(CLAIMS.read_text("utf-8"))["claims"]}


def claim(name: str) -> Claim:
    """Return a claim by id.

    Raises
    ------
    UserError
        If there is none.
    """
    return claims()[choose("claim", name, claims())]


def scorecard(verdicts: Iterable[Verdict]) -> pd.DataFrame:
    """Return one row for every claim and scale at which it was judged; a claim that was not has one row, not tested.

    Parameters
    ----------
    verdicts : iterable of Verdict

    Returns
    -------
    DataFrame
        Columns claim, paper, scale, verdict, effect, low, high, unit, p, p_sign, p_holm, n, why, finding, chapter. The
        p values are corrected by Holm's method within a paper and scale.
    """
    rows = []
    for v in verdicts:
        named = {"claim": claim(v.claim).id, "effect": v.judgement.effect.mean, "finding": v.sentence}
        rows.append(vars(v) | vars(v.judgement) | vars(v.judgement.effect) | named)
    card = pd.DataFrame([(c.id, c.paper) for c in claims().values()], columns=["claim", "paper"])
    card = card.merge(pd.DataFrame(rows, columns=[c for c in COLUMNS if c != "paper"]), how="left", on="claim")
    card = card[COLUMNS].fillna({"verdict": "not tested"}).astype({"p_holm": float})
    for _, group in card.dropna(subset=["p"]).groupby(["paper", "scale"]):
        card.loc[group.index, "p_holm"] = holm(group["p"].tolist())
    return card


def as_objects(card: pd.DataFrame) -> list[dict]:
    """Return a scorecard as plain data: claim, paper, scale, verdict, effect, interval [low, high], p, n."""
    finite = card.astype(object).where(card.notna() & ~card.isin([math.inf, -math.inf]), None)
    return [
        {k: r[k] for k in ("claim", "paper", "scale", "verdict", "effect")}
        | {"interval": None if r["low"] is None else [r["low"], r["high"]], "p": r["p"], "n": r["n"] and int(r["n"])}
        for r in finite.to_dict("records")
    ]
