"""Verdicts and the scorecard as HTML."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import pandas as pd

from .claims import Verdict, claim, claims, papers
from .figure import Table, scrolling, table_html
from .stats import Effect
from .theme import LOOK, VERDICT


def badge(verdict: str) -> str:
    """Return a verdict as a coloured word."""
    return f'<span class="tl-badge tl-{verdict.replace(" ", "-")}" style="--tone:{VERDICT[verdict]}">{verdict}</span>'


def number(value: float, digits: int = 1) -> str:
    """Return a number with a true minus sign."""
    return f"{value:+.{digits}f}".replace("-", "−") if value else f"{0:.{digits}f}"


def more(points: float, unit: str = "points") -> str:
    """Return a difference in words: ``12 points more``, ``0.4 points less``."""
    return f"{abs(points):.{abs(points) < 9.95:d}f} {unit} {'less' if points < 0 else 'more'}"


def p_value(p: float | None) -> str:
    """Return a p value as it is printed."""
    if p is None or math.isnan(p):
        return ""
    return "<\u00a0.001" if p < 0.001 else f"{p:.3f}".lstrip("0") if p < 1 else "1"


def digits(unit: str) -> int:
    """Return how many decimals are printed of an effect: one, but two of a correlation."""
    return 2 if "correlation" in unit else 1


def interval(effect: Effect, unit: str) -> str:
    """Return an effect with its interval and n, in words."""
    mean, low, high = (number(x, digits(unit)) for x in (effect.mean, effect.low, effect.high))
    if not math.isfinite(effect.low):
        return f"{mean} {unit}; one seed has no interval"
    return f"{mean} {unit}, 95% interval {low} to {high}, n = {effect.n} seeds"


def effects_table(rows: Iterable[Mapping], columns: Mapping[str, str], caption: str, name: str, unit="points") -> Table:
    """Return a table with an effect in each row, its interval and its p values.

    Parameters
    ----------
    rows : iterable of mapping
        ``effect``: an `Effect`, or ``None`` for a row without one; beside it the columns that are shown.
    columns : mapping of str to str
        These columns and their headings. Numbers in them that are not whole are printed with one decimal.
    caption, name
        As in `Table`.
    unit : str
        Heading of the effects.
    """
    flat = [{**row, **(vars(row["effect"]) if row["effect"] else {})} for row in rows]
    frame = pd.DataFrame(flat, columns=[*columns, *Effect.__dataclass_fields__])
    decimals = {c: "{:.1f}".format for c in columns if pd.api.types.is_float_dtype(frame[c])}
    headings = {"mean": unit, "low": "from", "high": "to", "p": "p (t)", "p_sign": "p (sign)"}
    written = decimals | dict.fromkeys(headings, number) | dict.fromkeys(("p", "p_sign"), p_value)
    return Table(frame, caption, name, markup=table_html(frame, {**columns, **headings}, written))


def at_the_ends(chosen: pd.DataFrame, arm: str, rates: Sequence[float]) -> str:
    """Say how often a search chose an end of its grid of rates, and which arms chose nothing else.

    Parameters
    ----------
    chosen : DataFrame
        A row for each choice: the column `arm`, and ``lr``.
    arm : str
    rates : sequence of float
        The grid; for a single rate there is nothing to say.
    """
    if len(rates) < 2:
        return ""
    low, high = chosen["lr"] == min(rates), chosen["lr"] == max(rates)
    always = (low | high).groupby(chosen[arm], sort=False).all()
    ends = f"{low.sum()} fell on the smallest and {high.sum()} on the largest of {len(rates)}"
    words = f"Of {len(chosen)} choices of a rate, {ends}: a rate beyond might have suited these better"
    return f"{words}; nothing else was chosen by: {'; '.join(always.index[always])}." if always.any() else f"{words}."


@dataclass(frozen=True)
class VerdictCard:
    """A verdict for the page: the claim, what came out, and how sure that is.

    Attributes
    ----------
    verdict : Verdict
    beside : list of Verdict
        At other scales; those on the same claim are named below it.
    """

    verdict: Verdict
    beside: Sequence[Verdict] = ()

    def _repr_html_(self) -> str:
        v, c = self.verdict, claim(self.verdict.claim)
        j = v.judgement
        reported = f'<p class="tl-reported">The paper: {escape(c.reported)}.</p>' if c.reported else ""
        tests = ((j.effect.p, j.test), (j.effect.p_sign, "sign flip"))
        ps = ", ".join(f"{p_value(p)} ({of})" for p, of in tests if p_value(p))
        also = ""
        for o in (o for o in self.beside if o.claim == v.claim):
            found = f"{badge(o.judgement.verdict)} {escape(interval(o.judgement.effect, o.unit))}"
            also += f'<p class="tl-interval">At scale <code>{o.scale}</code>: {found}</p>'
        return (
            f'<div class="tl-verdict" style="--tone:{VERDICT[j.verdict]}">'
            f'<p class="tl-verdict-head"><span class="tl-id">{c.id}</span> {badge(j.verdict)} '
            f"<span>at scale <code>{v.scale}</code>: {escape(j.why)}</span></p>"
            f'<p class="tl-claim">{escape(c.sentence)}</p><p>{escape(v.sentence)}</p><p class="tl-interval">'
            f"{escape(interval(j.effect, v.unit))}; p {escape(ps)}</p>{also}{reported}</div>"
        )


def scorecard_table(card: pd.DataFrame, links: dict[str, str]) -> Table:
    """Return the scorecard, paper by paper.

    Parameters
    ----------
    card : DataFrame
        From `claims.scorecard`.
    links : dict of str to str
        Page of each chapter, relative to the scorecard's.
    """
    parts = []
    for paper in papers().values():
        rows = "".join(_row(r, links) for r in card[card["paper"] == paper.key].to_dict("records"))
        title = f"{escape(paper.authors)}: <em>{escape(paper.title)}</em>"
        parts.append(f'<tbody><tr class="tl-paper"><th colspan="4" scope="rowgroup">{title}</th></tr>{rows}</tbody>')
    headings = ("Claim", "What is claimed", "Verdict", "Effect [95% interval], p, n")
    head = "".join(f'<th scope="col">{c}</th>' for c in headings)
    table = f'<table class="tl-table tl-scorecard"><thead><tr>{head}</tr></thead>{"".join(parts)}</table>'
    return Table(card, LOOK["words"]["scorecard"], "scorecard", markup=scrolling(table, "scorecard"))


def bracketed(row: Mapping[str, object]) -> str:
    """Return the effect of a row of the scorecard, with its interval in brackets and its unit."""
    mean, low, high = (number(row[c], digits(row["unit"])) for c in ("effect", "low", "high"))
    return f"{mean} [{low}, {high}] {row['unit']}"


def _row(row: dict, links: dict[str, str]) -> str:
    c = claims()[row["claim"]]
    mark = ' <span class="tl-hypothesis">hypothesis</span>' if c.kind == "hypothesis" else ""
    reported = f'<span class="tl-reported">Reported: {escape(c.reported)}.</span>' if c.reported else ""
    first = f'<tr id="{c.id}"><th scope="row">{c.id}</th><td>{escape(c.sentence)}{mark}{reported}'
    if row["verdict"] == "not tested":
        return f"{first}</td><td>{badge('not tested')}</td><td></td></tr>"
    link = links.get(row["chapter"])
    where = f'<a href="{link}">scale {row["scale"]}</a>' if link else f"scale {row['scale']}"
    sure = f"p {p_value(row['p_holm'])}, n = {int(row['n'])} seeds"
    whys = f"Here: {escape(row['why'])}.", where, sure
    cells = first, f"</td><td>{badge(row['verdict'])}", f"</td><td>{bracketed(row)}"
    return "".join(f'{c}<span class="tl-why">{w}</span>' for c, w in zip(cells, whys, strict=True)) + "</td></tr>"


def tally_html(card: pd.DataFrame) -> str:
    """Return how many claims have which verdict, as a bar and a sentence. The largest scale of a claim counts."""
    counts = card.drop_duplicates("claim")["verdict"].value_counts()
    total = int(counts.sum())
    shown = [(v, int(counts[v])) for v in VERDICT if v in counts]
    bar = "".join(f'<span style="width:{100 * n / total:.2f}%;--tone:{VERDICT[v]}"></span>' for v, n in shown)
    words = " &middot; ".join(f"{badge(v)} {n}" for v, n in shown)
    return f'<div class="tl-tally" aria-hidden="true">{bar}</div><p>Of {total} claims: {words}.</p>'


def papers_html(card: pd.DataFrame) -> str:
    """Return a card for each paper: what it is, and how many of its claims were tested."""
    tested = card[card["verdict"] != "not tested"].drop_duplicates("claim").groupby("paper").size()
    total = card.drop_duplicates("claim").groupby("paper").size()
    items = []
    for p in papers().values():
        title = f"<strong>{escape(p.title)}</strong>{escape(p.authors)}, {escape(p.venue)} {p.year}"
        items.append(f"<li>{title}. {tested.get(p.key, 0)} of {total[p.key]} claims tested.</li>")
    return f'<ul class="tl-cards">{"".join(items)}</ul>'
