"""Figures, tables and explorers as HTML: numbers that can be saved, text that is escaped, charts as data."""

import base64
import html
import io
import json
import re
from html.parser import HTMLParser

import altair as alt
import numpy as np
import pandas as pd
import pytest
from markupsafe import Markup

from transferlab.errors import UserError
from transferlab.report import charts
from transferlab.report.cards import effects_table
from transferlab.report.controls import Control, Explorer
from transferlab.report.figure import BOOK, Figure, Table, csv_link, in_book, table_html
from transferlab.report.stats import effect

RECORDS = pd.DataFrame({"target": ["a", 'say "b", c'], "gain": [1.5, -0.25], "seeds": [8, 1000]})
NASTY = "</script><script>alert(1)</script> <b>&\"'"


def chart(records: pd.DataFrame = RECORDS) -> alt.Chart:
    return alt.Chart(records).mark_point().encode(x="gain:Q", y="seeds:Q")


class Page(HTMLParser):
    """What a browser makes of some HTML: tags, text outside of scripts, the content of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text, self.scripts = "", []
        self.feed(str(text))  # no markup of jinja, which would escape what is added to it
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("input", "br"):
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        else:
            self.text += data

    def only(self, tag: str, **wanted) -> dict:
        (found,) = [a for t, a in self.tags if t == tag and wanted.items() <= a.items()]
        return found


def page(text: str) -> Page:
    read = Page(text)
    assert read.open == []  # everything that was opened was closed
    return read


# ------------------------------------------------------------------------------------------------------- CSV, tables


def saved(read: Page) -> pd.DataFrame:
    link = read.only("a")["href"]
    kind, data = link.split(",")
    assert kind == "data:text/csv;base64"
    return pd.read_csv(io.BytesIO(base64.b64decode(data)))


def test_csv_link():
    read = page(csv_link(RECORDS, "gains"))
    assert read.only("a")["download"] == "gains.csv"
    assert saved(read).equals(RECORDS)


@pytest.mark.parametrize(
    "records", [RECORDS.iloc[:0], pd.DataFrame({"a": [NASTY, "é\n, ü"]})], ids=["no rows", "odd text"]
)
def test_csv_of_anything(records):
    assert saved(page(csv_link(records, "x"))).to_dict("list") == records.to_dict("list")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (3, "3"),
        (3.0, "3"),
        (1234567, "1,234,567"),
        (1234567.0, "1,234,567"),
        (0.123456, "0.1235"),
        (-0.5, "−0.5"),
        (-12, "−12"),
        (np.float64(2.5), "2.5"),
        (np.int64(2000), "2,000"),
        (1e-9, "1e−09"),
        (1e16, "1e+16"),
        (-0.0, "0"),
        (2**60, "1,152,921,504,606,846,976"),
        (10.05, "10.05"),
        (0.0, "0"),
        (True, "True"),
        ("10.0", "10.0"),
        ("a-b", "a-b"),
        (None, ""),
        (float("nan"), ""),
        ("<i>", "&lt;i&gt;"),
    ],
)
def test_numbers_as_they_are_printed(value, shown):
    (cell,) = re.findall(r"<td>(.*?)</td>", table_html(pd.DataFrame({"x": pd.Series([value], dtype=object)})))
    assert cell == shown


def test_columns_can_be_chosen_and_named():
    text = table_html(RECORDS, {"seeds": "Number of seeds", "target": "Target"})
    assert re.findall(r"<th>(.*?)</th>", text) == ["Number of seeds", "Target"]
    assert list(map(html.unescape, re.findall(r"<td>(.*?)</td>", text))) == ["8", "a", "1,000", 'say "b", c']


def test_table():
    read = page(Table(RECORDS, NASTY, "gains", {"gain": "Gain"})._repr_html_())
    assert read.only("figure")["id"] == "gains"
    assert NASTY in read.text  # as text
    assert read.scripts == []
    assert saved(read).equals(RECORDS)  # all columns, shown or not
    assert not [t for t, _ in read.tags if t == "details"]


def test_folded_table():
    read = page(Table(RECORDS, "Caption.", "gains", folded=True)._repr_html_())
    assert "Show 2 rows" in read.text
    assert [t for t, _ in read.tags].index("details") < [t for t, _ in read.tags].index("table")


def test_a_folded_table_of_the_book_is_made_when_it_is_opened(monkeypatch):
    monkeypatch.setenv(BOOK, "1")
    records = RECORDS.assign(code=["1e3", "b"])
    read = page(Table(records, "Caption.", "gains", {"code": "Code", "gain": "Gain <%>"}, folded=True)._repr_html_())
    assert "Show 2 rows" in read.text
    assert not [t for t, _ in read.tags if t == "table"]
    assert json.loads(read.only("details")["data-columns"]) == [["code", "Code", False], ["gain", "Gain <%>", True]]
    assert saved(read).equals(records)
    mine = page(Table(RECORDS, "Caption.", "gains", markup="<p>mine</p>", folded=True)._repr_html_())
    assert [t for t, _ in mine.tags].index("template") < [t for t, _ in mine.tags].index("p")


def test_a_table_with_a_look_of_its_own():
    table = Table(RECORDS, "Caption.", "gains", markup="<p>mine</p>")
    assert "<p>mine</p>" in table._repr_html_()
    assert "<table" not in table._repr_html_()


# ---------------------------------------------------------------------------------------------------------- figures


def test_figure():
    read = page(Figure(chart(), "What to <see>.", RECORDS, "gains", {"Gain & loss": "#123456"}).html())
    assert read.only("figure")["id"] == "gains"
    assert "What to <see>." in read.text
    assert "Gain & loss" in read.text
    assert read.only("li")["style"] == "--tone:#123456"
    assert saved(read).equals(RECORDS)
    assert "The numbers" in read.text
    assert not [t for t, _ in read.tags if t == "table"]
    spec = json.loads(read.scripts[0])
    assert spec["description"] == "What to <see>."
    assert spec["encoding"]["x"]["field"] == "gain"
    assert spec["config"]["background"] == "transparent"
    assert next(iter(spec["datasets"].values())) == RECORDS.to_dict("records")


def test_several_charts_side_by_side():
    read = page(Figure([chart(), chart(), chart()], "Caption.", RECORDS, "gains").html(Markup("<p>above</p>")))
    assert [json.loads(s)["mark"]["type"] for s in read.scripts] == ["point"] * 3
    assert len([a for t, a in read.tags if "tl-panels" in (a.get("class") or "").split()]) == 1
    assert read.text.index("above") < read.text.index("Caption.")
    assert "tl-panels" not in Figure(chart(), "Caption.", RECORDS, "gains").html()


def test_what_a_chart_says_to_who_cannot_see_it():
    def names(charts, **options) -> list[str]:
        scripts = page(Figure(charts, "Caption.", RECORDS, "gains", **options).html()).scripts
        return [json.loads(script)["description"] for script in scripts]

    assert names(chart(), alt="It falls from 9 to 1.") == ["It falls from 9 to 1."]
    assert names(chart().properties(description="Mine.")) == ["Mine."]
    titles = "FC6", alt.TitleParams("FC7"), alt.TitleParams(["two", "lines"])
    panels = [*(chart().properties(title=title) for title in titles), chart()]
    assert names(panels) == ["FC6: Caption.", "FC7: Caption.", "two lines: Caption.", "Panel 4 of 4: Caption."]


def test_a_toy_run_is_told_apart():
    read = page(Figure(chart(), "Caption.", RECORDS, "gains", toy=True).html())
    assert read.only("figure")["class"] == "tl-figure tl-toy"
    assert "toy run" in read.text
    assert "toy" not in Figure(chart(), "Caption.", RECORDS, "gains").html()


def test_data_cannot_end_a_script():
    records = pd.DataFrame({"target": [NASTY], "gain": [1.0], "seeds": [1]})
    read = page(Figure(chart(records), NASTY, records, "gains", {NASTY: "red"}).html())
    assert len(read.scripts) == 1
    assert next(iter(json.loads(read.scripts[0])["datasets"].values()))[0]["target"] == NASTY
    assert read.text.count(NASTY) == 2  # caption and legend
    assert json.loads(read.scripts[0])["description"] == NASTY


@pytest.mark.parametrize(("value", "book"), [("", False), ("1", True)])
def test_in_book(monkeypatch, value, book):
    monkeypatch.setenv(BOOK, value)
    assert in_book() == book


# -------------------------------------------------------------------------------------------------------- explorers

CONTROLS = {
    "target": Control("Target <set>", {"The first": "a", 'The "second"': 'say "b", c'}),
    "seeds": Control("Seeds", {"eight": 8, "many": 1000}, slider=True),
}
STATES = pd.DataFrame(
    {
        "target": ["a", "a", 'say "b", c', 'say "b", c'],
        "seeds": [8, 1000, 8, 1000],
        "sentence": ["Up <b>.", "Up more.", NASTY, "Down more."],
        "interval": ["[1, 2]", "[2, 3]", "[-2, -1]", "[-3, -2]"],
    }
)


def draw(target: str, seeds: int) -> alt.Chart:
    return chart().add_params(alt.param(name="target", value=target), alt.param(name="seeds", value=seeds))


def say(**choice) -> tuple[str, str]:
    (row,) = STATES[(STATES[list(choice)] == pd.Series(choice)).all(axis=1)].itertuples()
    return row.sentence, row.interval


def explorer(controls=CONTROLS, draw=draw, say=say) -> Explorer:
    return Explorer(draw, controls, say, "Caption.", RECORDS, "gains")


def test_explorer_shows_its_first_state():
    read = page(explorer().html())
    assert "Up <b>." in read.text
    assert "[1, 2]" in read.text
    assert "Down" not in read.text
    params = {p["name"]: p["value"] for p in json.loads(read.scripts[1])["params"]}
    assert params == {"target": "a", "seeds": 8}


def test_explorer_carries_all_states():
    read = page(explorer().html())
    states = {tuple(s["key"]): (s["sentence"], s["interval"]) for s in json.loads(read.scripts[0])}
    assert states == {(r.target, r.seeds): (r.sentence, r.interval) for r in STATES.itertuples()}
    assert len(read.scripts) == 2  # the states and the chart: nothing in them ends a script


def test_explorer_has_a_field_for_each_control():
    read = page(explorer().html())
    assert read.only("select")["name"] == "target"
    options = [json.loads(a["value"]) for t, a in read.tags if t == "option"]
    assert options == ["a", 'say "b", c']
    assert 'The "second"' in read.text
    slider = read.only("input")
    assert (slider["name"], slider["type"], slider["min"], slider["max"], slider["value"]) == (
        "seeds",
        "range",
        "0",
        "1",
        "0",
    )
    assert [json.loads(v) for v in json.loads(slider["data-values"])] == [8, 1000]
    assert json.loads(slider["data-texts"]) == ["eight", "many"]
    assert slider["aria-valuetext"] == "eight"
    for field in (read.only("select"), slider):
        assert [a for t, a in read.tags if t == "label" and a["for"] == field["id"]]
    assert "Target <set>" in read.text


def test_explorer_starts_where_it_is_told():
    controls = {"target": Control("Target", {"one": "a", "two": 'say "b", c'}, start='say "b", c')}
    controls["seeds"] = Control("Seeds", {"eight": 8, "many": 1000}, slider=True, start=1000)
    read = page(explorer(controls=controls).html())
    assert "Down more." in read.text
    assert [json.loads(a["value"]) for t, a in read.tags if t == "option" and "selected" in a] == ['say "b", c']
    assert (read.only("input")["value"], read.only("input")["aria-valuetext"]) == ("1", "many")
    assert {p["name"]: p["value"] for p in json.loads(read.scripts[1])["params"]} == {
        "target": 'say "b", c',
        "seeds": 1000,
    }
    with pytest.raises(UserError, match=r"start \(=9\): must be one of \[8, 1000\]"):
        explorer(controls=CONTROLS | {"seeds": Control("Seeds", {"eight": 8, "many": 1000}, start=9)})


def test_explorer_looks_states_up():
    assert explorer().state({"seeds": 1000, "target": 'say "b", c'}) == ("Down more.", "[-3, -2]")


def test_explorer_with_one_control():
    one = explorer(
        {"target": CONTROLS["target"]}, lambda target: draw(target, 8), lambda target: say(target=target, seeds=8)
    )
    assert one.state({"target": "a"}) == ("Up <b>.", "[1, 2]")
    assert [s["key"] for s in json.loads(page(one.html()).scripts[0])] == [["a"], ['say "b", c']]


def test_explorer_with_numbers_of_numpy():
    controls = CONTROLS | {"seeds": Control("Seeds", {"eight": np.int64(8), "many": np.int64(1000)}, slider=True)}
    read = page(explorer(controls, lambda target, seeds: draw(target, int(seeds))).html())
    assert json.loads(read.only("input")["data-values"]) == ["8", "1000"]
    assert {s["key"][1] for s in json.loads(read.scripts[0])} == {8, 1000}


def test_every_combination_is_asked_for_once_and_beforehand():
    asked = []
    one = explorer(say=lambda **choice: (asked.append(tuple(choice.values())), say(**choice))[1])
    combinations = [(target, seeds) for target in ("a", 'say "b", c') for seeds in (8, 1000)]
    assert asked == combinations
    page(one.html())
    assert asked == combinations


def test_html_escape_is_undone_by_the_page():
    """The parser of these tests reads HTML as a browser does."""
    assert page(f"<p>{html.escape(NASTY)}</p>").text == NASTY
    assert page("<script>a<b</script>").scripts == ["a<b"]


def test_a_table_of_effects_prints_intervals_and_leaves_rows_without_an_effect_blank():
    known = effect([1.0, 2.0, 3.0])
    rows = [
        {"arm": "fixed", "level": 61.26, "units": 64, "effect": None},
        {"arm": "wider", "level": 63.0, "units": 128, "effect": known},
    ]
    table = effects_table(
        rows, {"arm": "grown", "level": "accuracy, %", "units": "new units"}, "What growing adds.", "gains", unit="%"
    )
    head, fixed, wider = (re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in table.markup.split("<tr")[1:])
    assert head == ["grown", "accuracy, %", "new units", "%", "from", "to", "p (t)", "p (sign)"]
    assert fixed == ["fixed", "61.3", "64", "", "", "", "", ""]
    assert wider == ["wider", "63.0", "128", "+2.0", "−0.5", "+4.5", ".074", ".25"]
    assert {"n", "mean", "low"} < set(table.records)
    assert effects_table([], {"arm": "grown"}, "", "none").records.empty


@pytest.mark.parametrize("value", ["accuracy", "kept"])
def test_one_repetition_has_no_interval_to_draw(value):
    """An infinite one would fill the chart from end to end."""
    rows = pd.DataFrame(
        [(n, "one", 40.0 + n, -np.inf, np.inf) for n in (1, 2)], columns=["n", "arm", value, "low", "high"]
    )
    tones = {"one": "#2878b5"}
    for drawn in (
        charts.lines(rows, "n", value, "arm", tones, titles=("n", value)),
        charts.dots(rows, "n", value, "arm", tones, title=value),
    ):
        points = [row for data in drawn.to_dict()["datasets"].values() for row in data if value in row]
        assert points
        assert all(row.get("low") is None and row.get("high") is None for row in points)


def test_tiles_have_pictures_where_there_are_some():
    rows = pd.DataFrame([(t, n, "near", f"class {n}") for t in (0, 1) for n in (1, 2)], columns=["t", "n", "by", "is"])
    words = charts.tiles(rows, "n", "by", "is", title="nearest", choose={"t": 1}).to_dict()
    both = charts.tiles(rows.assign(picture="data:,"), "n", "by", "is", title="nearest", choose={"t": 1}).to_dict()
    marks = [[layer["mark"]["type"] for layer in drawn["layer"]] for drawn in (words, both)]
    assert marks == [["text"], ["image", "text"]]
    assert both["layer"][0]["encoding"]["url"]["field"] == "picture"
    for layer in (*words["layer"], *both["layer"]):
        assert layer["transform"] == [{"filter": "datum.t == t"}]


# --------------------------------------------------------------------------------------------------- live notebooks


def shown_live(monkeypatch, figure: Figure) -> list[str]:
    """Return the HTML of what a figure shows in a live notebook."""
    found = []
    page_of = lambda one: (one._repr_mimebundle_(None, None) or {}).get("text/html", "") or one.data  # noqa: E731
    of = lambda one: page_of(one) if hasattr(one, "_repr_mimebundle_") else one.data  # noqa: E731
    monkeypatch.setattr("IPython.display.display", lambda *those: found.extend(map(of, those)))
    figure._ipython_display_()
    return found


def test_a_live_chart_brings_what_draws_it(monkeypatch):
    two = Figure([chart(), chart()], f"Two {NASTY}.", RECORDS.assign(target=NASTY), "two")
    *charts, caption = shown_live(monkeypatch, two)
    assert caption == f"<p>Two {html.escape(NASTY)}.</p>"
    places = [page(text).only("div")["id"] for text in charts]
    assert len(set(places)) == 2
    for text, place in zip(charts, places, strict=True):
        (script,) = page(text).scripts
        assert script.count(f'"{place}"') == 1
        assert "window.vegaEmbed=" in script.replace(" ", "")
        assert "cdn" not in script
        assert script.count('"encoding": {"x": {"field": "gain"') == 1


def test_a_person_may_choose_how_charts_are_drawn(monkeypatch):
    alt.renderers.register("theirs", lambda spec, **_: {"text/html": "theirs"})
    with alt.renderers.enable("theirs"):
        assert shown_live(monkeypatch, Figure(chart(), "Mine.", RECORDS, "mine")) == ["theirs", "<p>Mine.</p>"]
    assert alt.renderers.active == "default"
