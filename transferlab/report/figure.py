"""Figures of the book: a chart with its caption, its numbers as a table and as CSV. Live, a plain chart."""

import base64
import os
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from html import escape
from typing import Any
from uuid import uuid4

import altair as alt
import pandas as pd
from markupsafe import Markup

from .pieces import piece, script_json
from .theme import config

BOOK = "TRANSFERLAB_BOOK"
NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?")  # in text: the page's script takes it for one
Charts = alt.TopLevelMixin | list[alt.TopLevelMixin]  # one, or several side by side
Words = Mapping[str, str] | None
Formats = Mapping[str, Callable[[object], str]]  # how the values of a column are printed


def in_book() -> bool:
    """Whether the page is being made, rather than looked at by a person with a kernel."""
    return bool(os.environ.get(BOOK))


def vega() -> str:
    """Return the Vega bundle, wrapped so that its names stay its own."""
    import vl_convert

    return "(function () {\n" + vl_convert.javascript_bundle(vl_version="6.4") + "\n})();\n"


def _here(spec: dict, **metadata: Any) -> dict[str, str]:
    options = {"mode": "vega-lite", **metadata.get("embed_options", {})}
    shown = piece("live", f"chart-{uuid4().hex}", script_json(spec), script_json(options), vega())
    return {"text/html": str(shown), "text/plain": spec.get("description", "a chart")}


alt.renderers.register("transferlab", _here)


def drawn_here() -> AbstractContextManager:
    """Let charts be drawn without a network, in a live notebook, unless a person chose another way for them."""
    return alt.renderers.enable("transferlab") if alt.renderers.active == "default" else nullcontext()


def csv_link(records: pd.DataFrame, name: str) -> Markup:
    """Return a link that saves a table as ``NAME.csv``, without a server."""
    data = base64.b64encode(records.to_csv(index=False).encode()).decode()
    return piece("csv_link", data, name)


def _cell(value: object) -> object:
    """Return a number as it is printed: four significant digits, thousands apart, a true minus sign, no minus zero."""
    if isinstance(value, bool | str) or not hasattr(value, "__float__"):
        return value
    whole = f"{value + 0:,}".removesuffix(".0")
    return (whole if whole.strip("-").replace(",", "").isdigit() else f"{value:.4g}").replace("-", "−")


def table_html(records: pd.DataFrame, columns: Words = None, formats: Formats | None = None) -> Markup:
    """Return a table as HTML; numbers have four significant digits unless `formats` says how a column is printed."""
    shown = records.astype(object)
    for column, write in (formats or {}).items():
        shown[column] = shown[column].map(write, na_action="ignore")
    shown = shown.where(records.notna(), "")[list(columns or records)].rename(columns=columns or {}).map(_cell)
    return piece("table", list(shown), shown.itertuples(index=False, name=None))


def _folded(records: pd.DataFrame, summary: str, columns: Words = None, markup: str = "") -> Markup:
    """Return a table that the page's script makes from the figure's CSV, or of `markup`, when it is opened."""
    texts = lambda column: any(isinstance(v, str) and NUMBER.fullmatch(v) for v in records[column])  # noqa: E731
    told = [(c, (columns or {}).get(c, c), not texts(c)) for c in columns or records]
    return piece("folded", told, summary, markup)


def _short(spec: Any) -> Any:
    """Return a specification whose numbers have as many digits as can be seen."""
    if isinstance(spec, dict):
        return {name: _short(value) for name, value in spec.items()}
    if isinstance(spec, list):
        return [_short(value) for value in spec]
    return float(f"{spec:.5g}") if isinstance(spec, float) else spec


def chart_html(chart: alt.TopLevelMixin, label: str) -> Markup:
    """Return the place where the page's script draws a chart, with its specification inside, which has its name."""
    spec = _short(config(chart).to_dict())
    spec.setdefault("description", label)
    height = spec["height"] if isinstance(spec.get("height"), int | float) else None
    return piece("chart", script_json(spec), height)


def _title(chart: alt.TopLevelMixin, else_: str) -> str:
    """Return what stands above a panel."""
    title = chart.to_dict().get("title") or else_
    title = title["text"] if isinstance(title, dict) else title
    return title if isinstance(title, str) else " ".join(title)


class Figure:
    """A chart, or several side by side, that says what to see.

    Parameters
    ----------
    chart : altair chart or list of them
    caption : str
        What to see, in a sentence or two (plain text).
    records : DataFrame
        The numbers behind the chart: its text alternative, and the CSV.
    name : str
        File name of the CSV, without ending.
    legend : mapping of str to str, optional
        Colour by what it stands for.
    alt : str
        What the chart says to who cannot see it: the message and its two end values. Otherwise the caption.
    toy : bool
        What was trained while the page was made, to be told apart from the evidence.
    """

    def __init__(
        self, chart: Charts, caption: str, records: pd.DataFrame, name: str, legend: Words = None, alt="", toy=False
    ) -> None:
        self.charts = chart if isinstance(chart, list) else [chart]
        self.caption, self.name, self.legend = caption, name, legend or {}
        self.records = records.drop(columns="runs", errors="ignore")
        self.alt, self.toy = alt or caption, toy

    def html(self, above: Markup | str = "") -> Markup:
        """Return the figure as HTML for the book, with something more above the chart: markup, or a text."""
        n = len(self.charts)
        names = [
            f"{_title(c, f'Panel {i} of {n}')}: {self.alt}" if n > 1 else self.alt for i, c in enumerate(self.charts, 1)
        ]
        charts = list(map(chart_html, self.charts, names))
        numbers, csv = _folded(self.records, "The numbers"), csv_link(self.records, self.name)
        return piece("figure", self, above, charts, numbers, csv)

    def _ipython_display_(self) -> None:
        from IPython.display import HTML, display

        if in_book():
            display(HTML(self.html()))
            return
        wide = [c.properties(width=480) if c.to_dict().get("width") == "container" else c for c in self.charts]
        with drawn_here():
            display(*wide, HTML(f"<p>{escape(self.caption)}</p>"))


@dataclass(eq=False, repr=False)
class Table:
    """A table with a caption, and its records as CSV.

    Parameters
    ----------
    records : DataFrame
        What the CSV holds.
    caption, name : str
    columns : mapping of str to str, optional
        Columns to show, and their headings.
    markup : str, optional
        HTML of the table where the plain rendering will not do.
    folded : bool
        Shows the table only when asked.
    """

    records: pd.DataFrame
    caption: str
    name: str
    columns: Words = None
    markup: str = ""
    folded: bool = False

    def __post_init__(self) -> None:
        self.records = self.records.drop(columns="runs", errors="ignore")

    def _repr_html_(self) -> str:
        summary = f"Show {len(self.records)} rows"
        if self.folded and in_book():
            shown = _folded(self.records, summary, self.columns, self.markup)
        else:
            shown = self.markup or table_html(self.records, self.columns)
            shown = f"<details><summary>{summary}</summary>{shown}</details>" if self.folded else shown
        return piece("table_figure", self, shown, csv_link(self.records, self.name))
