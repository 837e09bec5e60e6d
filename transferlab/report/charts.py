"""The kinds of chart that pages share. Each returns an altair chart as wide as its place; `Figure` puts it on the page.

A frame has one row a point. Arms are told apart by the column `by`, whose colours are `tones` (by its values in order).
What a reader chooses is `choose`: columns with their value at the start; charts show rows that equal them.
"""

from __future__ import annotations

import math
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
    frame, scale = _within(frame, y, alt.Scale(zero=zero, nice=False, padding=8))
    scale = alt.Scale(domain=list(domain)) if domain else scale
    base = _chosen(frame, choose)
    values = sorted(frame[x].unique()) if not order else list(order)
    end = max((values[0], values[-1]), key=lambda at: _apart(frame.loc[frame[x] == at, y]))
    last = end == values[-1]
    room = ends * 0.033 * frame[by].astype(str).str.len().max()  # for names, as a share of the axis
    if order:
        places = [*values, ""] if ends and last else ["", *values] if ends else values
        axis = alt.Axis(labelAngle=0, grid=False, values=values)
        place = alt.X(f"{x}:N", title=titles[0], axis=axis, scale=alt.Scale(domain=places, padding=0.4))
    else:
        axis = alt.Axis(values=values, format=",.6~g", grid=False)
        low, high = float(values[0]), float(values[-1])
        if log:
            low, high = (low, high * (high / low) ** room) if last else (low * (low / high) ** room, high)
        else:
            low, high = (low, high + room * (high - low)) if last else (low - room * (high - low), high)
        reach = alt.Scale(type="log" if log else "linear", domain=[low, high], nice=False, padding=14)
        place = alt.X(f"{x}:Q", title=titles[0], scale=reach, axis=axis)
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
        name = _chosen(_beside(frame, x, y, end, choose, height), choose)
        name = name.mark_text(fontSize=11, align="left" if last else "right", dx=9 if last else -9)
        parts.append(name.encode(place, alt.Y("beside:Q", title=titles[1]), text=f"{by}:N", **ink))
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
    frame, scale = _within(frame, x, alt.Scale(zero=zero, nice=False, padding=12))
    base, values = _chosen(frame, choose), list(dict.fromkeys(frame[y]))
    place, length = _row(y, values, apart=0.45 if by != y else None), _along(x, title, scale)
    ink = {"color": _tone(by, tones), "opacity": alt.condition(front, alt.value(1), alt.value(0.25))}
    if by != y:  # side by side in a row
        order = alt.Scale(domain=list(dict.fromkeys(frame[by])))
        ink["yOffset"] = alt.YOffset(f"{by}:N", sort=list(tones), scale=order)
    tip, ends = _tip(frame, [y, by, x, "low", "high", "seeds"]), (alt.X("low:Q", title=title), alt.X2("high:Q"))
    parts = _level(level, alt.X("level:Q", title=title))
    parts += [base.mark_rule(strokeWidth=2.5).encode(place, *ends, **ink)] if "low" in frame else []
    parts.append(base.mark_circle(size=110).encode(place, length, tooltip=tip, **ink))
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
    place, length = _row(y, values), _along(x, title, alt.Scale(zero=False, nice=False, padding=12))
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
    look = {
        "zero": False,
        "nice": False,
        "padding": 10 + (min(24, 2 * frame[label].astype(str).str.len().max()) if label else 0),
    }
    frame, scale = _within(frame, y, alt.Scale(**look))
    base, length = _chosen(frame, choose), _along(x, titles[0], alt.Scale(type="log" if log else "linear", **look))
    place = alt.Y(f"{y}:Q", title=titles[1], scale=scale)
    ink = {"color": _tone(by, tones), "opacity": alt.condition(front, alt.value(0.85), alt.value(0.25))}
    tip = _tip(frame, [c for c in (label, by, x, y) if c])
    parts = [base.mark_circle(size=size).encode(length, place, tooltip=tip, **ink)]
    if label:
        named = _chosen(_under(frame, x, y, label, choose), choose).mark_text(
            fontSize=10, dy=alt.expr("datum.under ? 11 : -9")
        )
        parts.append(named.encode(length, place, text=f"{label}:N", **ink))
    return _named(alt.layer(*parts).properties(width="container", height=height), choose, name)


def tiles(
    frame: pd.DataFrame,
    x: str,
    y: str,
    words: str,
    *,
    title: str,
    picture: str = "picture",
    choose: Choice | None = None,
) -> alt.LayerChart:
    """Return a row of words for each value of `y`, under pictures where the column `picture` has their addresses."""
    base, values = _chosen(frame, choose), list(dict.fromkeys(frame[y]))
    place = alt.X(f"{x}:O", title=title, axis=alt.Axis(labelAngle=0)), _row(y, values)
    look, row = ({"limit": 56, "dy": 36}, 86) if picture in frame else ({"limit": 90}, 34)
    told = base.mark_text(fontSize=11, **look).encode(*place, text=words, tooltip=_tip(frame, [words, y, x]))
    parts = [base.mark_image(width=44, height=44).encode(*place, url=picture), told] if picture in frame else [told]
    return _named(alt.layer(*parts).properties(width="container", height=40 + row * len(values)), choose, "")


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


def _row(y: str, values: Sequence[Any], apart: float | None = None) -> alt.Y:
    """Return rows; `apart`: what is left free between those of several marks each."""
    free = {"scale": alt.Scale(paddingInner=apart, paddingOuter=apart / 2)} if apart else {}
    return alt.Y(f"{y}:N", title="", sort=list(values), axis=alt.Axis(labelLimit=230, grid=False), **free)


def _along(x: str, title: str, scale: alt.Scale) -> alt.X:
    axis = {"labelFlush": 8, "titleAnchor": "end" if len(title) > 16 else "middle"}
    axis |= {} if scale.to_dict().get("type") == "log" else {"tickCount": 5}
    return alt.X(f"{x}:Q", title=title, scale=scale, axis=alt.Axis(**axis))


def _within(frame: pd.DataFrame, value: str, scale: alt.Scale) -> tuple[pd.DataFrame, alt.Scale]:
    """Return a frame and the scale of a value; an ``accuracy``, and its interval as drawn, end at 0 and 100%.

    What has no interval, of one seed, shows none.
    """
    known = {c: frame[c].replace([-math.inf, math.inf], math.nan) for c in ("low", "high") if c in frame}
    frame = frame.assign(**known)
    if value != "accuracy":
        return frame, scale
    frame = frame.assign(**{c: frame[c].clip(0, 100) for c in ("low", "high") if c in frame})
    drawn = frame[[c for c in (value, "low", "high") if c in frame]]
    low, high = drawn.min(axis=None), drawn.max(axis=None)
    room = 0.08 * (high - low)
    if low <= room:
        return frame, alt.Scale(zero=True, nice=True)
    return frame, scale if high < 100 - room else alt.Scale(domain=[low - room, 100], nice=False)


def _groups(frame: pd.DataFrame, choose: Choice | None) -> list[pd.DataFrame]:
    """Return the rows that are shown together."""
    by = [name for name in choose or {} if name in frame]
    return [rows for _, rows in frame.groupby(by, sort=False)] if by else [frame]


def _beside(frame: pd.DataFrame, x: str, y: str, end: Any, choose: Choice | None, height: int) -> pd.DataFrame:
    """Return the rows at an end of the lines, and where their names stand: a line of text apart."""
    found = []
    for rows in _groups(frame, choose):
        drawn = rows[[c for c in (y, "low", "high") if c in rows]]
        gap, at = 18 * (drawn.max(axis=None) - drawn.min(axis=None)) / height, rows[rows[x] == end].sort_values(y)
        places: list[float] = []
        for value in at[y]:
            places.append(max(value, places[-1] + gap) if places else value)
        found.append(at.assign(beside=places))
    return pd.concat(found)


def _under(frame: pd.DataFrame, x: str, y: str, label: str, choose: Choice | None) -> pd.DataFrame:
    """Return the points that have a name, and whether it stands under its point: another one's is close above."""
    found = []
    for rows in _groups(frame, choose):
        near, high = (0.2 * (rows[x].max() - rows[x].min()), 0.1 * (rows[y].max() - rows[y].min()))
        named = rows[rows[label] != ""]
        above = [
            ((named[x] - a).abs().lt(near) & (named[y] - b).between(0, high)).sum() > 1
            for a, b in zip(named[x], named[y], strict=True)
        ]
        found.append(named.assign(under=above))
    return pd.concat(found)


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
