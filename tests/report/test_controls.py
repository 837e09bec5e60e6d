"""Controls in a live notebook: moving one shows another state, pressing the button trains."""

import altair as alt
import pandas as pd

from transferlab.report.controls import Control, Explorer, Workbench

DATA = pd.DataFrame({"x": [1, 2], "y": [1, 2], "kind": ["a", "b"]})
KIND = Control("Kind", {"the first": "a", "the second": "b"})


def draw(kind: str) -> alt.Chart:
    return (
        alt.Chart(DATA)
        .mark_point()
        .encode(x="x:Q", y="y:Q")
        .add_params(alt.param(name="kind", value=kind))
        .transform_filter("datum.kind == kind")
    )


def say(kind: str) -> tuple[str, str]:
    return {"a": ("One.", "[0, 1]"), "b": ("Two.", "[1, 2]")}[kind]


def test_explorer_follows_its_widgets(capsys):
    drawn = []
    explorer = Explorer(
        lambda kind: (drawn.append(kind), draw(kind))[1], {"kind": KIND}, say, "Caption.", DATA, "figure"
    )
    box, finding, chart = explorer.panel().children
    assert finding.value == "<p>One.<br>[0, 1]</p>"
    drawn.clear()
    box.value = "b"
    assert drawn == ["b"]
    assert finding.value == "<p>Two.<br>[1, 2]</p>"
    (shown,) = chart.outputs
    assert shown["output_type"] == "display_data"
    assert not chart.msg_id, "nothing is captured: under papermill that may never end"
    assert capsys.readouterr().out == ""


def test_widgets_start_where_they_are_told():
    assert Control("Kind", KIND.options, start="b").widget().value == "b"
    assert Control("Kind", KIND.options, slider=True, start="b").widget().value == "b"
    assert Control("Kind", KIND.options, buttons=True, start="b").widget().value == "b"
    assert KIND.widget().value == "a"


def test_an_explorer_of_two_charts_shows_both():
    explorer = Explorer(lambda kind: [draw(kind), draw(kind)], {"kind": KIND}, say, "Caption.", DATA, "figure")
    box, _, chart = explorer.panel().children
    box.value = "b"
    assert len(chart.outputs) == 2
    assert explorer.html().count('class="tl-chart"') == 2


def test_workbench_trains_when_pressed(capsys):
    trained = []
    bench = Workbench(
        lambda kind, count: trained.append((kind, count)) or f"trained {kind}",
        {"kind": KIND, "count": Control("Seeds", {"1": 1, "2": 2}, slider=True)},
        "n.md",
    )
    kind, count, button, _ = bench.panel().children
    button.click()
    kind.value, count.value = "b", 2
    button.click()
    assert trained == [("a", 1), ("b", 2)]
    assert not button.disabled
    shown = capsys.readouterr().out
    assert shown.index("'trained a'") < shown.index("'trained b'")


def test_a_workbench_has_no_other_controls_than_its_own():
    bench = Workbench(lambda kind, count=1: kind, {"kind": KIND}, "n.md")
    assert len(bench.panel().children) == 3  # with the button and its output


def test_workbench_can_be_pressed_again_after_an_error():
    def fails(kind):
        raise ValueError("no")

    *_, button, out = Workbench(fails, {"kind": KIND}, "n.md").panel().children
    try:
        button.click()
    except ValueError:
        assert not out.outputs  # outside of a kernel the error is the caller's
    assert not button.disabled
