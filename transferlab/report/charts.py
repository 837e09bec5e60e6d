"""The kinds of chart that pages share. Each returns an altair chart as wide as its place; `Figure` puts it on the page.

A frame has one row a point. Arms are told apart by the column `by`, whose colours are `tones` (by its values in order).
What a reader chooses is `choose`: columns with their value at the start; charts show rows that equal them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import altair as alt
import pandas as pd
from IPython.display import HTML

from .stats import Effect

Tones = Mapping[str, str]
Choice = Mapping[str, Any]


def lines(
    frame: pd.DataFrame,
    x: str,
    y: str,
    by: str,
    tones: Tones,
    *,
    titles: tuple[str, str],
    log: bool = False,
    order: Sequence[str] = (),
    choose: Choice | None = None,
    at: tuple[str, Any] | None = None,
    front: str = "true",
    level: float | None = None,
    ends: bool = True,
    zero: bool = False,
    domain: Sequence[float] | None = None,
    height: int = 250,
    title: str = "",
) -> alt.LayerChart:
    """Return lines with bands (columns ``low`` and ``high``, if there) and their names at their ends.

    Parameters
    ----------
    titles : pair of str
        Of the axes.
    log, order
        A logarithmic axis of numbers; or the order of names.
    at : pair of str and value, optional
        A parameter that marks a place on the axis, such as a slider's, and where it starts.
    front : str
        Vega expression of the rows that stand in full ink.
    level : float, optional
        A dashed line across, such as a bar.
    ends : bool
        Whether lines are named, at the end where they lie farther apart.
    """
    base = _chosen(frame, choose)
    values = sorted(frame[x].unique()) if not order else list(order)
    if order:
        place = alt.X(
            f"{x}:N",
            sort=values,
            title=titles[0],
            axis=alt.Axis(labelAngle=0, grid=False),
            scale=alt.Scale(padding=0.4),
        )
    else:
        scale = alt.Scale(type="log", nice=False, padding=14) if log else alt.Scale(nice=False, padding=14, zero=False)
        place = alt.X(f"{x}:Q", title=titles[0], scale=scale, axis=alt.Axis(values=values, format=",.6~g", grid=False))
    scale = alt.Scale(domain=list(domain)) if domain else alt.Scale(zero=zero, nice=True, padding=8)
    height_of = alt.Y(f"{y}:Q", title=titles[1], scale=scale)
    ink = {"color": _tone(by, tones), "opacity": alt.condition(front, alt.value(1), alt.value(0.3))}
    tip = _tip(frame, [by, x, y, "low", "high", "seeds"])
    parts = [base.mark_line(strokeWidth=2.4, clip=True).encode(place, height_of, **ink)]
    parts += [base.mark_circle(size=48, clip=True).encode(place, height_of, tooltip=tip, **ink)]
    if "low" in frame:
        shade = alt.condition(front, alt.value(0.18), alt.value(0.06))
        band = base.mark_area(clip=True).encode(
            place, alt.Y("low:Q", title=titles[1]), alt.Y2("high:Q"), color=ink["color"], opacity=shade
        )
        rule = base.mark_rule(strokeWidth=1.4, opacity=0.55).encode(
            place, alt.Y("low:Q", title=titles[1]), alt.Y2("high:Q"), color=ink["color"]
        )
        parts.insert(0, rule if order else band)
    parts = [*_level(level, alt.Y("level:Q", title=titles[1])), *parts]
    if at:
        mark = base.transform_filter(f"datum.{x} == {at[0]}").mark_point(size=190, strokeWidth=2, filled=False)
        parts.append(mark.encode(place, height_of, **ink).add_params(alt.param(name=at[0], value=at[1])))
    if ends:
        end = max((values[0], values[-1]), key=lambda at: _apart(frame.loc[frame[x] == at, y]))
        side = ("right", -4) if end == values[-1] else ("left", 4)  # inside: nothing is cut
        name = base.transform_filter(alt.datum[x] == end).mark_text(fontSize=11, dy=-10, align=side[0], dx=side[1])
        parts.append(name.encode(place, height_of, text=f"{by}:N", color=ink["color"], opacity=ink["opacity"]))
    chart = alt.layer(*parts).properties(width="container", height=height)
    return _named(chart, choose, title)


def dots(
    frame: pd.DataFrame,
    y: str,
    x: str,
    by: str,
    tones: Tones,
    *,
    title: str,
    choose: Choice | None = None,
    front: str = "true",
    level: float | None = None,
    zero: bool = False,
    row: int = 32,
    name: str = "",
) -> alt.LayerChart:
    """Return a row for each value of `y`: dots with intervals, those of `front` in full ink; `level` is a line."""
    base, values = _chosen(frame, choose), list(dict.fromkeys(frame[y]))
    place = _row(y, values)
    ink = {"color": _tone(by, tones), "opacity": alt.condition(front, alt.value(1), alt.value(0.25))}
    length = alt.X(f"{x}:Q", title=title, scale=alt.Scale(zero=zero, nice=True, padding=12))
    parts = [
        base.mark_circle(size=110).encode(place, length, tooltip=_tip(frame, [y, by, x, "low", "high", "seeds"]), **ink)
    ]
    if "low" in frame:
        parts.insert(
            0, base.mark_rule(strokeWidth=2.5).encode(place, alt.X("low:Q", title=title), alt.X2("high:Q"), **ink)
        )
    parts = [*_level(level, alt.X("level:Q", title=title)), *parts]
    chart = alt.layer(*parts).properties(width="container", height=40 + row * len(values))
    return _named(chart, choose, name)


def forest(
    rows: Mapping[str, Effect], *, title: str, bar: float = 0.0, tones: Tones | None = None, name: str = ""
) -> alt.LayerChart:
    """Return effects by name as a forest plot against a bar."""
    frame = pd.DataFrame(
        [{"what": k, "effect": e.mean, "low": e.low, "high": e.high, "seeds": e.n} for k, e in rows.items()]
    )
    colours = dict.fromkeys(rows, "#2878b5") | dict(tones or {})
    return dots(frame, "what", "effect", "what", colours, title=title, level=bar, row=26, name=name)


def dumbbell(
    frame: pd.DataFrame,
    y: str,
    x: str,
    by: str,
    tones: Tones,
    *,
    title: str,
    choose: Choice | None = None,
    name: str = "",
) -> alt.LayerChart:
    """Return two values a row, joined by a line: the two of `by`."""
    base, values = _chosen(frame, choose), list(dict.fromkeys(frame[y]))
    place = _row(y, values)
    length = alt.X(f"{x}:Q", title=title, scale=alt.Scale(zero=False, nice=True, padding=12))
    joined = base.mark_line(strokeWidth=2, opacity=0.45, color="#8a8f98").encode(place, length, detail=f"{y}:N")
    ends = base.mark_circle(size=110, opacity=1).encode(
        place, length, _tone(by, tones), tooltip=_tip(frame, [y, by, x])
    )
    return _named(alt.layer(joined, ends).properties(width="container", height=40 + 28 * len(values)), choose, name)


def scatter(
    frame: pd.DataFrame,
    x: str,
    y: str,
    by: str,
    tones: Tones,
    *,
    titles: tuple[str, str],
    label: str = "",
    log: bool = False,
    choose: Choice | None = None,
    front: str = "true",
    size: int = 60,
    height: int = 300,
    name: str = "",
) -> alt.LayerChart:
    """Return points, named by the column `label` if one is given."""
    base = _chosen(frame, choose)
    length = alt.X(
        f"{x}:Q", title=titles[0], scale=alt.Scale(zero=False, nice=True, padding=10, type="log" if log else "linear")
    )
    place = alt.Y(f"{y}:Q", title=titles[1], scale=alt.Scale(zero=False, nice=True, padding=10))
    ink = {"color": _tone(by, tones), "opacity": alt.condition(front, alt.value(0.85), alt.value(0.25))}
    tip = _tip(frame, [c for c in (label, by, x, y) if c])
    parts = [base.mark_circle(size=size).encode(length, place, tooltip=tip, **ink)]
    parts += [base.mark_text(dy=-9, fontSize=10).encode(length, place, text=f"{label}:N", **ink)] if label else []
    return _named(alt.layer(*parts).properties(width="container", height=height), choose, name)


def schema(caption: str, **parts: str) -> HTML:
    """Return a network as a row of blocks, from pictures to head; each of `parts` is kept, trained or new.

    Parameters
    ----------
    caption : str
    **parts : {"kept", "trained", "new"}
        By block: ``conv``, ``FC6``, ``FC7``, ``head``, or what stands beside one (``FC7_new``); in order.
    """
    words = {"kept": "kept as it is", "trained": "trained", "new": "new, trained"}
    blocks = "".join(
        f'<li class="tl-{state}"><b>{escape(name.replace("_", " "))}</b><span>{words[state]}</span></li>'
        for name, state in parts.items()
    )
    start = '<li class="tl-pictures"><b>pictures</b></li>'
    return HTML(
        f'<figure class="tl-schema"><ol>{start}{blocks}</ol><figcaption>{escape(caption)}</figcaption></figure>'
    )


def _row(y: str, values: Sequence[Any]) -> alt.Y:
    return alt.Y(f"{y}:N", title="", sort=list(values), axis=alt.Axis(labelLimit=230, grid=False))


def _level(value: float | None, place: alt.X | alt.Y) -> list[alt.Chart]:
    """Return a dashed line at a value; nothing without one."""
    if value is None:
        return []
    return [alt.Chart(pd.DataFrame({"level": [value]})).mark_rule(strokeDash=[5, 4], opacity=0.7).encode(place)]


def _apart(values: pd.Series) -> float:
    """Return the least distance between different values."""
    return float(values.drop_duplicates().sort_values().diff().min()) if values.nunique() > 1 else 0.0


def _tone(by: str, tones: Tones) -> alt.Color:
    return alt.Color(f"{by}:N", legend=None, scale=alt.Scale(domain=list(tones), range=list(tones.values())))


def _chosen(frame: pd.DataFrame, choose: Choice | None) -> alt.Chart:
    wanted = " && ".join(f"datum.{name} == {name}" for name in choose or {} if name in frame)
    return alt.Chart(frame).transform_filter(wanted) if wanted else alt.Chart(frame)


def _tip(frame: pd.DataFrame, columns: Sequence[str]) -> list[alt.Tooltip]:
    shown = [c for c in dict.fromkeys(columns) if c in frame]
    numeric = pd.api.types.is_float_dtype
    return [alt.Tooltip(f"{c}:Q", format=",.4~g") if numeric(frame[c]) else alt.Tooltip(c) for c in shown]


def _named(chart: alt.LayerChart, choose: Choice | None, title: str) -> alt.LayerChart:
    chart = chart.properties(title=title) if title else chart
    return chart.add_params(*(alt.param(name=n, value=v) for n, v in choose.items())) if choose else chart
