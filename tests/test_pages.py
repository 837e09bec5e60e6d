"""What the script and the style sheet of the book do in Chromium, on small pages of our own."""

import re
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import altair as alt
import numpy as np
import pandas as pd
import pytest
from browsing import axe_findings, drawn, in_chromium, loaded, low_contrast, offline_page

from transferlab.report import theme
from transferlab.report.controls import Control, Explorer
from transferlab.report.figure import BOOK, Figure, Table, drawn_here, table_html
from transferlab.report.sphinx import mend_page, vega

pytestmark = in_chromium
ASSETS = Path(__file__).parent.parent / "book" / "assets"
PAGE = """<!doctype html>
<html lang="en" data-mode="auto">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>A page</title>
<script>const dark = matchMedia("(prefers-color-scheme: dark)").matches;
document.documentElement.dataset.theme = dark ? "dark" : "light"</script>
{sheets}<script defer src="vega.js"></script><script defer src="{script}"></script>
</head>
<body><div class="bd-container"><main class="bd-main"><div class="bd-content"><div class="bd-article-container">
<article class="bd-article"><h1>What is kept?</h1>{cells}</article>
</div></div></main></div></body>
</html>"""
TARGETS = {"mean of the targets": "mean", "Flowers & co": "flowers102", "CIFAR-100": "cifar100"}
IMAGES = {"20": 20.0, "100": 100.0, "all 500": 500.0}
RECORDS = pd.DataFrame(
    [(t, i, 10.0 * a + i / 50) for a, t in enumerate(TARGETS.values()) for i in IMAGES.values()],
    columns=["target", "images", "accuracy"],
)
STATES = RECORDS.assign(
    sentence=[f"{r.target} keeps {r.accuracy:.1f} at {r.images:.0f}." for r in RECORDS.itertuples()],
    interval=[f"[{r.accuracy - 1:.1f}, {r.accuracy + 1:.1f}]" for r in RECORDS.itertuples()],
).drop(columns="accuracy")


def lines(**properties) -> alt.Chart:
    tone = alt.Color("target:N", legend=None, scale=alt.Scale(range=[theme.SOURCE, theme.GAIN, theme.PROBE]))
    base = alt.Chart(RECORDS).encode(alt.X("images:Q"), alt.Y("accuracy:Q"), tone)
    ends = base.mark_text(align="right", dy=-8).encode(text="target:N").transform_filter("datum.images == 500")
    points = base.mark_point(filled=True, fill="white")
    return (base.mark_line() + points + ends).properties(**{"width": "container", "height": 180} | properties)


def draw(target: str, images: float) -> alt.Chart:
    marks = alt.Chart(RECORDS).encode(alt.X("images:Q"), alt.Y("accuracy:Q"))
    said = alt.Chart(RECORDS).mark_text(dy=-12).encode(alt.X("images:Q"), alt.Y("accuracy:Q"), text="label:N")
    said = said.transform_calculate(label="datum.target + ' ' + datum.images")
    one = "datum.target == target && datum.images == images"
    both = marks.mark_line().transform_filter("datum.target == target") + said.transform_filter(one)
    params = alt.param(name="target", value=target), alt.param(name="images", value=images)
    return both.add_params(*params).properties(width="container", height=180)


def say(target: str, images: float) -> tuple[str, str]:
    row = STATES[(STATES["target"] == target) & (STATES["images"] == images)].iloc[0]
    return row["sentence"], row["interval"]


def explorer(name: str, **start) -> str:
    controls = {
        "target": Control("Target", TARGETS, start=start.get("target")),
        "images": Control("Images", IMAGES, slider=True, start=start.get("images")),
    }
    return Explorer(draw, controls, say, f"What {name} shows.", RECORDS, name).html()


def figure(name: str, **options) -> str:
    legend = {"source": theme.SOURCE, "gain": theme.GAIN}
    return Figure(lines(), f"What {name} shows.", RECORDS, name, legend, **options).html()


def long_page() -> list[str]:
    """Return an explorer with much above and below it."""
    charts = [figure(f"f{i}") for i in range(8)]
    return [*charts[:6], explorer("kept"), *charts[6:]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the Vega bundle."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "vega.js").write_text(vega())
    return folder


@pytest.fixture
def visit(browser, folder, request):
    """Write a page with some parts, as the book frames them, and open it."""
    pages = []
    found = (Path(find_spec(n).origin).parent / "theme" / n for n in ("pydata_sphinx_theme", "sphinx_book_theme"))
    theirs = [folder / "static" / "styles" / f"{folder.name.replace('_', '-')}.css" for folder in found]
    sheets = "".join(f'<link rel="stylesheet" href="{p.as_uri()}">' for p in (*theirs, ASSETS / "transferlab.css"))

    def opened(*parts: str, width: int = 1300, scheme: str = "light", after: str = "", name: str = ""):
        cells = "".join(f'<div class="cell_output"><div class="output text_html">{part}</div></div>' for part in parts)
        file = folder / (re.sub(r"\W", "_", name or request.node.name) + ".html")
        file.write_text(PAGE.format(sheets=sheets, script=(ASSETS / "transferlab.js").as_uri(), cells=cells))
        page = offline_page(browser, width, scheme)
        pages.append(page)
        page.goto(file.as_uri() + after)
        loaded(page)
        return page

    yield opened
    for page in pages:
        assert page.trouble == []
        page.context.close()


def state(page, name: str) -> tuple[str, str, str, str, str]:
    """What an explorer shows: its two controls, its sentence, its interval, and the words in its chart."""
    explorer = page.locator(f".tl-explorer:has(#{name})")
    slider = explorer.locator("input")
    assert slider.get_attribute("aria-valuetext") == explorer.locator("output").inner_text()
    svg = explorer.locator(".tl-chart svg .mark-text:not([class*='role-axis']) text").all_text_contents()
    chosen = (
        explorer.locator("select").evaluate("e => e.selectedOptions[0].text"),
        slider.get_attribute("aria-valuetext"),
    )
    return *chosen, *explorer.locator(".tl-finding p").all_inner_texts(), next(t for t in svg if re.search("[a-z]", t))


def expected(target: str, images: str) -> tuple[str, str, str, str, str]:
    values = TARGETS[target], IMAGES[images]
    return target, images, *say(*values), f"{values[0]} {values[1]:.0f}"


# --------------------------------------------------------------------------------------------------------- controls


def test_a_control_starts_where_the_verdict_was_read(visit):
    page = visit(explorer("kept", target="cifar100", images=100.0), explorer("other"))
    assert state(page, "kept") == expected("CIFAR-100", "100")
    assert state(page, "other") == expected("mean of the targets", "20")


def test_back_keeps_controls_sentences_and_charts_together(visit):
    elsewhere = visit("<p>Elsewhere.</p>", name="elsewhere").url
    page = visit(explorer("kept"), explorer("other", images=500.0))
    page.locator("#kept-target").select_option(label="CIFAR-100")
    page.locator("#other-images").press("ArrowLeft")
    for _ in range(2):
        page.goto(elsewhere)
        page.go_back()
        loaded(page)
        assert state(page, "kept") == expected("CIFAR-100", "20")
        assert state(page, "other") == expected("mean of the targets", "100")


def test_what_the_browser_puts_back_without_a_word_is_followed(visit):
    """From the back/forward cache, or where a form is restored late, no event but ``pageshow`` comes."""
    page = visit(explorer("kept"))
    page.evaluate("document.getElementById('kept-target').selectedIndex = 1; dispatchEvent(new Event('pageshow'))")
    page.wait_for_timeout(100)
    assert state(page, "kept") == expected("Flowers & co", "20")


def test_a_choice_is_in_the_address(visit):
    page = visit(explorer("first"), *long_page())
    before = page.evaluate("history.length")
    page.locator("#kept-target").select_option(label="Flowers & co")
    page.locator("#kept-images").press("ArrowRight")
    address = page.url
    assert address.endswith("#kept?target=Flowers+%26+co&images=100")
    assert page.evaluate("history.length") == before
    again = visit(explorer("first"), *long_page(), after="#" + address.split("#")[1])
    assert state(again, "kept") == expected("Flowers & co", "100")
    again.wait_for_timeout(300)  # charts above it are drawn
    assert 0 <= again.locator("#kept").bounding_box()["y"] < 300
    drawn(again)
    assert state(again, "first") == expected("mean of the targets", "20")
    again.reload()
    loaded(again)
    assert state(again, "kept") == expected("Flowers & co", "100")


def test_a_link_to_a_state(visit):
    link = '<p><a href="#kept?target=cifar100&images=all+500&no=such">this view</a></p>'
    page = visit(link, *long_page())
    page.get_by_text("this view").click()
    page.wait_for_selector("#kept .tl-chart[data-drawn]")
    page.wait_for_timeout(300)
    assert state(page, "kept") == expected("CIFAR-100", "all 500")
    assert 0 <= page.locator("#kept").bounding_box()["y"] < 300


@pytest.mark.parametrize("address", ["#kept?target=no+such", "#kept?", "#other?target=CIFAR-100", "#%E0%A4?x=%"])
def test_an_address_that_says_nothing_is_ignored(visit, address):
    assert state(visit(explorer("kept"), after=address), "kept") == expected("mean of the targets", "20")


def test_one_region_tells_what_changed(visit):
    page = visit(explorer("kept"))
    live = page.locator("[aria-live]:not([aria-live='off']), [role=status], [role=alert]")
    assert live.count() == 1
    assert live.get_attribute("aria-atomic") == "true"
    assert live.inner_text().split("\n")[0] == STATES["sentence"][0]


def test_a_change_moves_only_where_motion_is_welcome(visit):
    page = visit(explorer("kept"))
    page.wait_for_selector(".tl-explorer:not([data-moved])")
    seconds = "getComputedStyle(document.querySelector('#kept svg path')).transitionDuration.split(',')[0]"
    assert page.evaluate(seconds) == "0s"
    moved = f"document.getElementById('kept-target').dispatchEvent(new Event('input', {{ bubbles: true }})), {seconds}"
    assert page.evaluate(moved) == "0.25s"
    for media in ({"reduced_motion": "reduce"}, {"reduced_motion": "no-preference", "media": "print"}):
        page.emulate_media(**media)
        assert page.evaluate(moved) == "0s"


# ---------------------------------------------------------------------------------------------------------- tables

NUMBERS = [0, 3, -0.0, -12, 1234567, 1e15, 1e16, 1e300, 2**53 + 1, 0.123456, -0.5, 1e-9, 10.05, 999.95, 9999.5, 12345.6]
NUMBERS += [0.15625, 0.34375, 1234.5, 1235.5, 0.00012345, 0.000098765, 1.5e-7, -2.5e17 / 3, float("nan"), 61.328125]


def shown(page) -> str:
    page.locator("details summary").click()
    page.wait_for_selector("details table")
    return page.locator("details table").evaluate("e => e.outerHTML")


def as_python(*arguments) -> str:
    markup = re.search(r"<table.*</table>", table_html(*arguments), re.DOTALL).group()
    return markup.replace("&#34;", '"')  # quotes need no escape in text, and a browser writes none


def test_a_table_is_made_when_it_is_opened_as_python_would_print_it(visit):
    rng = np.random.default_rng(0)
    drawn = [float(f"{x:.{d}g}") for x, d in zip(rng.lognormal(0, 5, 300), rng.integers(1, 9, 300), strict=True)]
    numbers = NUMBERS + drawn
    count = len(numbers)
    records = pd.DataFrame(
        {
            "a number": numbers,
            "whole": np.arange(count) * 1000,
            "mixed": pd.Series(
                ["a, b", 'say "c"', "two\nlines", "<i>&amp;", 7, 0.25, None, True, -1500] * count, dtype=object
            )[:count],
            "digits in text": ["1000", "0.10", "1e3", "x-1"] * (count // 4) + ["é"] * (count % 4),
            "last": ["", "−"] * (count // 2) + [None] * (count % 2),
        }
    )
    page = visit(Figure(lines(), "Caption.", records, "numbers").html())
    assert page.locator("table").count() == 0
    assert shown(page) == as_python(records)


def test_a_folded_table_of_chosen_columns(visit, monkeypatch):
    monkeypatch.setenv(BOOK, "1")
    columns = {"accuracy": 'Accuracy, "%"', "target": "Target"}
    page = visit(Table(RECORDS, "Caption.", "records", columns, folded=True)._repr_html_())
    assert page.locator("table").count() == 0
    assert "Show 9 rows" in page.locator("summary").inner_text()
    assert shown(page) == as_python(RECORDS, columns)
    page.locator("details summary").click()
    page.locator("details summary").click()
    assert page.locator("table").count() == 1


def test_a_folded_table_with_a_look_of_its_own(visit, monkeypatch):
    monkeypatch.setenv(BOOK, "1")
    mine = table_html(RECORDS, None, {"accuracy": "{:.1f}%".format})
    page = visit(Table(RECORDS, "Caption.", "records", markup=mine, folded=True)._repr_html_())
    assert page.locator("table").count() == 0
    assert shown(page) == re.search("<table.*</table>", mine).group()


def test_a_table_is_a_region_with_a_name_where_it_scrolls(visit):
    wide = pd.DataFrame([[0.5] * 40], columns=[f"column {i}" for i in range(40)])
    page = visit(
        Table(wide, "A wide one.", "wide")._repr_html_(), Table(RECORDS, "A small one.", "small")._repr_html_()
    )
    page.wait_for_selector("#wide .tl-scroll[role=region]")
    assert page.locator("#wide .tl-scroll").get_attribute("aria-label") == "A wide one."
    assert page.locator("#wide .tl-scroll").get_attribute("tabindex") == "0"
    assert page.locator("#small .tl-scroll").get_attribute("role") is None


# ---------------------------------------------------------------------------------------------------------- charts


def test_a_chart_has_one_name_and_says_its_message(visit):
    panels = [lines(title=t, width=200) for t in ("FC6", alt.TitleParams(["FC7,", "grown"]))] + [lines(width=200)]
    named = lines().properties(description="A name of its own.")
    page = visit(
        figure("plain"), figure("told", alt="It falls from 60 to 20%."),
        Figure(panels, "Three.", RECORDS, "panels").html(), Figure(named, "Four.", RECORDS, "named").html(),
        explorer("kept"),
    )  # fmt: skip
    drawn(page)
    names = page.locator(".tl-chart svg[role=img]").evaluate_all("all => all.map(e => e.getAttribute('aria-label'))")
    three = ["FC6: Three.", "FC7, grown: Three.", "Panel 3 of 3: Three."]
    assert names == ["What plain shows.", "It falls from 60 to 20%.", *three, "A name of its own.", "What kept shows."]
    page.set_viewport_size({"width": 500, "height": 900})
    page.wait_for_timeout(300)
    assert page.locator(".tl-chart[role], .tl-chart[aria-label], .tl-chart svg :is([role], [aria-label])").count() == 0
    assert "Vega visualization" not in page.content()


def test_charts_are_drawn_when_they_come_near_and_all_before_printing(visit):
    figures = [figure(f"f{i}") for i in range(14)]
    page = visit(*figures, explorer("kept"))
    done = page.locator(".tl-chart[data-drawn='true'] svg")
    assert 2 <= done.count() < 14
    page.locator("#f12").scroll_into_view_if_needed()
    page.wait_for_selector("#f12 .tl-chart[data-drawn]")
    assert page.locator("#f5 .tl-chart[data-drawn]").count() in (0, 1)
    assert page.pdf()
    assert done.count() == 15
    assert visit(*figures, after="?all", name="all").locator(".tl-chart[data-drawn='true'] svg").count() == 14


def test_a_page_loads_the_scripts_that_it_needs():
    def left(body: str) -> list[str]:
        names = ("_static/vega.js", "_static/transferlab.js", "_static/require.js", "_static/doctools.js")
        context = {"script_files": [SimpleNamespace(filename=name) for name in names], "body": body}
        mend_page(None, "page", "page.html", context, None)
        return [script.filename.removeprefix("_static/") for script in context["script_files"]]

    assert left(figure("plain")) == ["vega.js", "transferlab.js", "doctools.js"]
    assert left(Table(RECORDS, "Caption.", "records")._repr_html_()) == ["transferlab.js", "doctools.js"]
    assert left("<p>Words.</p>") == ["transferlab.js", "doctools.js"]  # for the sidebar


def test_a_chart_that_comes_late_shows_what_was_chosen(visit):
    page = visit(*[f"<div style='height:1500px'>{i}</div>" for i in range(3)], explorer("kept"))
    assert page.locator("#kept svg").count() == 0
    choose = "const f = document.getElementById('kept-target'); f.selectedIndex = 2;"
    page.evaluate(choose + "f.dispatchEvent(new Event('input', { bubbles: true }))")
    drawn(page)
    assert state(page, "kept") == expected("CIFAR-100", "20")


def test_the_charts_that_are_seen_first_take_less_than_a_second(visit):
    """Of the processor's time: the machine of the tests is shared, and a clock would tell what others do."""
    page = visit(*[figure(f"f{i}") for i in range(14)])
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.reload()
    loaded(page)
    spent = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}
    assert 0 < spent["TaskDuration"] < 1


# ---------------------------------------------------------------------------------------- what can be read, by whom


DRAWING = """<svg class="tl-drawing" width="120" height="20" viewBox="0 0 120 20" aria-hidden="true">
<rect class="tl-claimed" x="70" y="0" width="50" height="20"/><line class="tl-bar" x1="70" x2="70" y1="1" y2="19"/>
<line class="tl-range" x1="30" x2="90" y1="10" y2="10"/><circle class="tl-mean" cx="60" cy="10" r="3.5"/></svg>"""
PART = f'<li><b>wider</b> {DRAWING} <span class="tl-number">+0.3 [−0.1, +0.7] points; bar above 0</span></li>'
ROW = f"""<tr><th scope="row">wider</th><td>{DRAWING}</td><td>+0.3 [−0.1, +0.7] points; bar above 0</td><td>p .12</td>
<td><span class="tl-state" role="img" aria-label="open">?</span> open</td></tr>"""
CLAIM = "Targets lose far less of their accuracy than the source task when images are taken away."
SAID = """<ul class="tl-said"><li>With a tenth of the source images, targets keep nine tenths of their gain.</li>
<li>The source task itself keeps half.</li></ul>
<p class="tl-todo"><strong>What to do:</strong> do not label ten times as much.</p>
<p class="tl-reach"><strong>Reach:</strong> AlexNet, 64 pixels, 5 targets, 8 repetitions; no ImageNet.</p>"""
SCHEMA = """<figure class="tl-schema"><ol><li class="tl-pictures"><b>pictures</b></li><li class="tl-kept"><b>conv</b>
<span>kept as it is</span></li><li class="tl-trained"><b>FC6</b><span>trained</span></li><li class="tl-new"><b>head</b>
<span>new, trained</span></li></ol><figcaption>A network.</figcaption></figure>"""
SMALL = """<p class="tl-why">at size gpu</p><p class="tl-reported">Reported: 42%.</p>
<p class="tl-workbench">With a kernel.</p>"""


def chip(word: str, tag: str = "span", link: str = "") -> str:
    sign = f'<span aria-hidden="true">{theme.SIGNS[word]}</span>'
    return f'<{tag} {link} class="tl-badge" style="--tone:{theme.VERDICT[word]}">{sign} {word}</{tag}> '


def answer(claim: str, word: str, parts: int = 1) -> str:
    link = f'<a class="tl-id" href="#verdict-{claim}">{claim}</a>'
    found = f'<p class="tl-chip">{chip(word)}</p><ul class="tl-parts">{PART * parts}</ul>'
    return f'<div class="tl-answer"><p class="tl-claim">{CLAIM} {link}</p>{found}</div>'


def short(*answers: str) -> str:
    head = '<section class="tl-short" aria-label="In short"><p class="tl-kicker">In short</p>'
    return f'{head}<div class="tl-answers">{"".join(answers)}</div>{figure("short")}{SAID}</section>'


def verdict(claim: str, word: str) -> str:
    link = f'<a class="tl-id" href="#short">{claim}</a>'
    head = f'<p class="tl-verdict-head">{chip(word)} <span>two of three parts</span> {link}'
    forest = (
        f'<table class="tl-table tl-forest"><tbody>{ROW * 3}</tbody></table><p class="tl-note">The paper: 42.3%.</p>'
    )
    box = f'<div class="tl-verdict" id="verdict-{claim}" style="--tone:{theme.VERDICT[word]}">'
    return f'{box}{head}</p><p class="tl-claim">A claim in words.</p>{forest}</div>'


def everything() -> list[str]:
    """Return one of each thing that a page may hold."""
    words = {"I7": "holds here", "I9": "undecided", "I1": "not testable here"}
    claims = [answer(*words.popitem()), answer("I8", "in part", 3), *(answer(*pair) for pair in words.items())]
    wide = pd.DataFrame([[0.5] * 20], columns=[f"column {i}" for i in range(20)])
    table = Table(wide, "A wide one.", "wide")._repr_html_()
    chips = f"<p>{''.join(map(chip, theme.SIGNS))}{''.join(chip(w, 'a', 'href=#short') for w in theme.SIGNS)}</p>"
    verdicts = verdict("I7", "in part"), verdict("I8", "undecided")
    return [short(*claims), chips, figure("plain", toy=True), explorer("kept"), *verdicts, table, SCHEMA, SMALL]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1300, 360])
def test_axe_finds_nothing_serious_and_everything_can_be_read(visit, width, scheme):
    page = visit(*everything(), width=width, scheme=scheme)
    drawn(page)
    for summary in page.locator("summary").all():
        summary.click()
    assert axe_findings(page, ".bd-article") == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    words = ".tl-badge, .tl-legend li, figcaption, summary, .tl-why, .tl-reported, .tl-note, .tl-interval, .tl-reach, "
    words += ".tl-toy-label, .tl-id, .tl-csv, .tl-workbench, .tl-schema li *, .tl-todo, .tl-kicker, .tl-state"
    assert low_contrast(page, words) == []
    assert low_contrast(page, ".tl-chart text", "fill") == []
    assert low_contrast(page, ".tl-range, .tl-bar", "stroke", 3) == []
    assert low_contrast(page, ".tl-mean", "fill", 3) == []
    assert low_contrast(page, ".tl-chart .mark-line path", "stroke", 3) == []
    heights = page.locator(".tl-badge").evaluate_all("all => all.map(e => e.getBoundingClientRect().height)")
    assert min(heights) >= 24


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_tone_is_seen_as_a_line_and_read_as_a_chip(visit, scheme):
    tones = {*theme.VERDICT.values(), theme.SOURCE, theme.TRANSFER, theme.GAIN, theme.SCRATCH, theme.PROBE, theme.JOINT}
    line = "".join(f'<span class="line" style="color:{tone}">{tone}</span> ' for tone in tones)
    page = visit(f'<p class="tl-figure">{line}</p>', scheme=scheme)
    assert low_contrast(page, ".line", least=3) == []


def test_dark_charts_have_no_white_points(visit):
    page = visit(figure("plain"), scheme="dark")
    points = page.locator(".mark-symbol path[fill='white']")
    assert points.count() > 0
    fills = set(points.evaluate_all("all => all.map(e => getComputedStyle(e).fill)"))
    assert fills == {page.evaluate("getComputedStyle(document.querySelector('.tl-figure')).backgroundColor")}
    assert page.locator(".text_html").evaluate("e => getComputedStyle(e).backgroundColor") == "rgba(0, 0, 0, 0)"


@pytest.mark.parametrize("claims", [2, 5])
def test_the_box_in_short_shows_chips_and_picture_on_one_screen(visit, claims):
    page = visit(short(*[answer(f"I{i}", "holds here") for i in range(claims)]))
    boxes = [e.bounding_box() for e in page.locator(".tl-short .tl-badge, .tl-short .tl-chart").all()]
    assert max(b["y"] + b["height"] for b in boxes) < 1000


def test_printed_figures_and_cards_are_whole(visit):
    page = visit(*everything())
    page.emulate_media(media="print")
    whole = "all => all.every(e => getComputedStyle(e).breakInside === 'avoid')"
    assert page.locator(".tl-figure, .tl-legend, .tl-verdict, .tl-answer").evaluate_all(whole)
    said = page.locator(".tl-controls select").first  # what the chart on paper shows
    assert said.evaluate("e => getComputedStyle(e).appearance") == "none"
    assert page.locator(".tl-sift, .tl-csv, .tl-steps button").evaluate_all("all => all.every(e => !e.offsetParent)")


@in_chromium
def test_a_live_notebook_draws_its_charts_without_a_network(browser):
    page = offline_page(browser)
    with drawn_here():
        shown = [lines()._repr_mimebundle_(None, None)["text/html"] for _ in range(2)]
    page.set_content("<!doctype html><title>t</title>" + "".join(shown))
    page.wait_for_function("document.querySelectorAll('.vega-embed .chart-wrapper svg').length === 2")
    assert page.trouble == []
    page.context.close()
