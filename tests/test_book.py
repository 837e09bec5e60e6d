"""The built book: every page opens from disk without a network, draws its charts, and follows its controls."""

import ast
import base64
import gzip
import io
import json
import os
import re
import shutil
import subprocess
import sys
from functools import lru_cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import jupytext
import pandas as pd
import papermill
import pytest
import yaml
from browsing import axe_findings, drawn, in_chromium, offline_page
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from test_imports import lines_of

from transferlab import build, chapters, records
from transferlab.lab import Lab
from transferlab.specs import AlexNet, Recipe, Source, Spec, Subset, Target, Trial
from transferlab.store import Published

ROOT = Path(__file__).parent.parent
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
FILED = [c for part in TOC["parts"] for c in part["chapters"]]
PAGES = [TOC["root"], *(c["file"] for part in FILED for c in (part, *part.get("sections", ())))]
CHAPTERS = [name for name, subject in chapters.chapters().items() if not subject.draft]


@lru_cache
def links(file: Path) -> "Links":
    return Links(file.read_text())


class Links(HTMLParser):
    """Collects what a page refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded, self.links, self.ids = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids.add(attrs.get("id"))
        if tag in ("script", "img", "source", "iframe") and attrs.get("src"):
            self.loaded.append(attrs["src"])
        if tag == "link" and attrs.get("rel") in ("stylesheet", "preload", "icon"):
            self.loaded.append(attrs["href"])
        if tag == "a" and attrs.get("href"):
            self.links.append(attrs["href"])


def test_a_second_build_has_nothing_to_do(book):
    said = []
    build.build(said.append)
    assert said[-1] == "the book is up to date"
    assert not [line for line in said if line.startswith("executed")]


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_loaded_from_elsewhere_and_no_link_is_broken(book, name):
    file = book / f"{name}.html"
    found = links(file)
    assert [u for u in found.loaded if re.match(r"(https?:)?//", u)] == []
    for url in [*found.loaded, *found.links]:
        if re.match(r"(https?|mailto|data):", url):
            continue
        target, fragment = urldefrag(unquote(url.split("?")[0] if "#" not in url else url))
        there = (file.parent / target).resolve() if target else file
        assert there.exists(), url
        if fragment and there.suffix == ".html" and fragment != "main-content":
            assert fragment in links(there).ids, url


@pytest.mark.parametrize("name", PAGES)
def test_no_page_names_a_folder_of_the_machine_it_was_built_on(book, name):
    text = (book / f"{name}.html").read_text()
    assert str(ROOT) not in text
    assert str(Path.home()) + "/" not in text


@pytest.mark.parametrize("name", PAGES)
def test_no_page_shows_an_error_or_an_unfilled_place(book, name):
    text = (book / f"{name}.html").read_text()
    for sign in ("Traceback (most recent", "cell_output_error", "{glue:", "nan%", "[nan", "&lt;NA&gt;"):
        assert sign not in text, sign


@in_chromium
@pytest.mark.parametrize("name", PAGES)
def test_page_from_disk_without_a_network(visit, name):
    """It answers first, its controls move, it can be read, wide and light or narrow and dark, and asks for nothing."""
    page = visit(name)
    if name.removeprefix("notebooks/") in CHAPTERS:
        answers_first(page)
        moves(page)
        what_if(page)
    can_be_read(page, name)
    page.set_viewport_size({"width": 360, "height": 900})
    page.emulate_media(color_scheme="dark")
    narrow = "all => all.every(p => p.querySelector('svg').getBoundingClientRect().width <= p.clientWidth + 1)"
    page.wait_for_function(f"({narrow})([...document.querySelectorAll('.tl-chart')])")  # they are drawn again
    can_be_read(page, name)
    assert page.trouble == []


def can_be_read(page, name: str) -> None:
    """All charts are drawn, whole and named, nothing is cut off, and axe finds nothing serious."""
    charts, width = page.locator(".tl-chart"), page.viewport_size["width"]
    if charts.count():
        drawn(page)
    assert page.locator(".tl-chart[data-drawn='true'] svg").count() == charts.count()
    for i in range(charts.count()):
        box = charts.nth(i).locator("svg").bounding_box()
        assert box["width"] > 150, "a chart is too narrow to read"
        assert box["width"] <= charts.nth(i).bounding_box()["width"] + 1, "a chart is wider than its place"
        assert charts.nth(i).locator("svg path[d], svg circle").count() > 3, "a chart is empty"
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    lines = "[...document.querySelectorAll('.bd-article .tl-why')]"
    over = f"{lines}.filter(e => e.getBoundingClientRect().right > innerWidth).length"
    assert page.evaluate(over) == 0, "a line is cut off at the edge"
    assert page.locator(".bd-article h1").first.is_visible()
    names = [chart.get_attribute("aria-label") or "" for chart in page.locator(".tl-chart svg[role=img]").all()]
    assert all(len(name) > 20 and name != "Vega visualization" for name in names), "a chart is nameless"
    assert page.evaluate("document.getElementsByTagName('*').length") < 5000
    own = not name.startswith("book/api_")  # these are the theme's, and look as book/api does
    assert axe_findings(page, ".bd-article", contrast=own) == []


def explorers(page):
    return page.locator(".tl-explorer")


def seen(explorer) -> tuple[str, str, str]:
    """What an explorer shows: sentence, interval, and the chart's drawing."""
    svg = explorer.locator(".tl-chart svg").evaluate_all("all => all.map(e => e.outerHTML).join()")
    return explorer.locator(".tl-sentence").inner_text(), explorer.locator(".tl-interval").inner_text(), svg


def moves(page) -> None:
    """Every control of a chapter moves chart, sentence and interval."""
    drawn(page)
    assert explorers(page).count() >= 1, "a chapter has a control that needs no kernel"
    for e in range(explorers(page).count()):
        explorer = explorers(page).nth(e)
        fields = explorer.locator(".tl-controls select, .tl-controls input")
        for i in range(fields.count()):
            before = seen(explorer)
            fields.nth(i).focus()
            last = fields.nth(i).evaluate("e => e.options ? e.selectedIndex === e.length - 1 : e.value === e.max")
            keys = ("ArrowUp", "ArrowLeft") if last else ("ArrowDown", "ArrowRight")
            page.keyboard.press(keys[fields.nth(i).evaluate("e => e.tagName") != "SELECT"])
            page.wait_for_timeout(200)
            after = seen(explorer)
            assert all(a != b for a, b in zip(before, after, strict=True)), fields.nth(i).get_attribute("name")


def what_if(page) -> None:
    """A card whose bars stand where they stood says what it said; its words follow when they are moved."""
    for place in page.locator(".tl-play").all():
        card = place.locator("xpath=ancestor::div[contains(@class, 'tl-verdict')]")
        told = lambda: (card.locator(".tl-badge").first.inner_text(), card.locator(".tl-forest").first.inner_text())  # noqa: B023, E731
        word, rows = told()
        place.locator("summary").click()
        place.locator("form").evaluate("form => form.dispatchEvent(new Event('input'))")
        again, same = told()
        assert again.split(":")[0].split("(")[0].strip() == word.split(":")[0].split("(")[0].strip()
        plain = [
            re.sub(r"p [<>]?\s?\.\d+( \(.*?\))?(, sign flip [<>]?\s?\.\d+)?", "", text).split() for text in (rows, same)
        ]
        assert plain[0] == plain[1]
        bar = place.locator("input[type=range]").last
        bar.evaluate("e => { e.value = e.max; e.dispatchEvent(new Event('input', { bubbles: true })); }")
        assert told()[1] != same
        place.locator("button").click()
        page.wait_for_function(
            "([card, rows]) => card.querySelector('.tl-forest').innerText === rows", arg=[card.element_handle(), rows]
        )


def answers_first(page) -> None:
    """The answer, its chips and the first chart of its own stand where a reader sees them without scrolling far."""
    for what in (".tl-short .tl-badge", ".tl-short .tl-chart", ".tl-short .tl-drawing"):
        places = page.locator(what)
        assert places.count() >= 1, what
        lowest = max(places.nth(i).bounding_box()["y"] for i in range(places.count()))
        assert lowest < 1000, f"{what} stands at {lowest:.0f} px"
    said = page.locator(".tl-short .tl-said li").all_inner_texts()
    assert 1 <= len(said) <= 3
    assert "What to do:" in page.locator(".tl-short .tl-todo").inner_text()
    assert "Reach:" in page.locator(".tl-short .tl-reach").inner_text()


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_can_be_kept_and_is_launched_from_a_public_copy_alone(book, name):
    text = (book / "notebooks" / f"{name}.html").read_text()
    assert f"_sources/notebooks/{name}.ipynb" in text
    public = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    for host in ("mybinder.org", "colab.research.google.com"):
        assert (f"{host}/" in text) == bool(public)


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_light(book, name):
    assert (book / f"{name}.html").stat().st_size < 500_000


def recomputed(row: dict) -> str:
    """The state of a part, from what its row prints."""
    if "margin" not in row:  # an order over families: its exact p decides
        right = (float(row["low"]) + float(row["high"]) > 0) == (row["side"] == "above")
        return "open" if float(row["p"]) >= 0.05 else "holds" if right else "fails"
    low, high, bar, margin = (float(row[k]) for k in ("low", "high", "bar", "margin"))
    if row["side"] == "equal":
        inside, apart = -margin < low and high < margin, low > margin or high < -margin
        return "holds" if inside else "fails" if apart else "open"
    up, down = low > bar, high < bar
    state = "holds" if (up if row["side"] == "above" else down) else "fails" if up or down else "open"
    return "null" if state == "open" and bar == 0 and -margin < low and high < margin else state


def decided(rows: list[dict]) -> set[str]:
    """The words that the decision table allows for parts, before what targets say."""
    plain = [recomputed(r) for r in rows]
    if all(s == "holds" for s in plain):
        return {"holds here", "in part"}
    counts = ["open" if float(r.get("holm", 0)) >= 0.05 else s for r, s in zip(rows, plain, strict=True)]
    if "holds" not in counts and "fails" in counts:
        return {"does not hold here", "in part"}
    if "holds" in counts and {"fails", "null"} & set(counts):
        return {"in part"}
    return {"no effect here"} if set(counts) == {"null"} else {"undecided"}


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_word_follows_from_what_is_printed(book, name):
    """A second implementation of the decision table, over the numbers of the page."""
    text = (book / "notebooks" / f"{name}.html").read_text()
    cards = re.findall(
        r'<div class="tl-verdict" id="verdict-(\w+)".*?(?=<div class="tl-verdict"|</div>)', text, re.DOTALL
    )
    assert len(cards) == len(chapters.chapter(name).rules)
    for card in re.finditer(r'<div class="tl-verdict" id="verdict-\w+".*?</div>', text, re.DOTALL):
        tables = re.findall(r'<table class="tl-table tl-forest">.*?</table>', card[0], re.DOTALL)
        parts, *checks = (
            [dict(re.findall(r'data-(\w+)="([^"]*)"', row)) for row in re.findall(r"<tr[^>]*>", table)]
            for table in tables
        )
        word = re.search(r'class="tl-badge tl-([\w-]+)"', card[0])[1].replace("-", " ")
        for row in (*parts, *(row for rows in checks for row in rows)):
            wanted = recomputed(row)
            assert row["state"] == ("open" if float(row.get("holm", 0)) >= 0.05 else wanted)
            assert ("p" in row) == (row["side"] != "equal" or wanted == "holds")
        failed = any(recomputed(row) != "holds" for rows in checks for row in rows)
        assert word in ({"not testable here"} if failed else decided(parts)), card[0]


@pytest.mark.parametrize("name", PAGES)
def test_every_figure_offers_its_records_as_csv(book, name):
    text = (book / f"{name}.html").read_text()
    figures = re.findall(r'<figure class="tl-figure[^"]*" id="([^"]+)"', text)
    offers = dict(re.findall(r'download="([^"]+)\.csv" href="data:text/csv;base64,([^"]+)"', text))
    assert set(figures) == set(offers)
    for data in offers.values():
        table = pd.read_csv(io.BytesIO(base64.b64decode(data)))
        assert len(table) > 0
        assert len(table.columns) > 1


@in_chromium
def test_the_first_page_says_both_sides_and_every_claim(visit):
    page = visit("book/index")
    plain = page.locator(".tl-sentence").inner_text()
    page.get_by_text("what pretraining adds", exact=True).click()
    page.wait_for_function("was => document.querySelector('.tl-sentence').textContent !== was", arg=plain)
    shares = [
        int(re.search(r"(\d+)% of it is left", text)[1]) for text in (plain, page.locator(".tl-sentence").inner_text())
    ]
    assert shares[0] > 2 * shares[1]
    page.wait_for_function("location.hash.includes('shown=what+pretraining+adds')")
    assert page.locator(".tl-tile").count() == 53
    page.locator(".tl-tile").nth(30).focus()
    assert page.locator(".tl-told").inner_text() == page.locator(".tl-tile").nth(30).get_attribute("aria-label")
    page.locator(".tl-tile").nth(3).hover()
    assert page.locator(".tl-told").inner_text().startswith("L4: ")


SOUGHT = {
    "I7": "notebooks/classes_or_images.html#verdict-I7",
    "L1": "notebooks/how_fast.html#verdict-L1",
    "forgetting": "book/own.html#question-7",
    "small data set": "book/own.html#for-your-own-images",
    "freeze layers": "book/own.html#question-2",
    "scorecard": "book/scorecard.html#the-scorecard",
}


@in_chromium
@pytest.mark.parametrize(("words", "place"), SOUGHT.items())
def test_the_search_names_a_place_in_a_page(book, browser, words, place):
    page = offline_page(browser)
    page.goto(f"{(book / 'search.html').as_uri()}?q={words.replace(' ', '+')}")
    page.wait_for_selector(".tl-places li a")
    page.wait_for_function("!/Searching/.test(document.querySelector('#search-results').innerText)")
    found = page.locator(".tl-places li a").evaluate_all(
        "all => all.map(a => a.getAttribute('href').replace('./', ''))"
    )
    assert place in found[:3], found
    page.locator(".tl-places li a").nth(found.index(place)).click()
    page.wait_for_url(f"**/{place}")
    assert page.locator(f"[id='{place.split('#')[1]}']").first.is_visible()
    assert page.trouble == []
    page.context.close()


@in_chromium
def test_what_has_one_name_lights_up_together(visit):
    page = visit("notebooks/images_per_class")
    drawn(page)
    word = page.locator(".tl-short .tl-legend li", has_text="gain over scratch")
    word.focus()
    assert set(page.locator(".tl-lit:is(b, th, li)").all_inner_texts()) == {"gain over scratch"}
    assert page.locator(".tl-forest th.tl-lit").count() == 1
    marks = "all => all.map(e => getComputedStyle(e).opacity)"
    assert page.locator(".tl-short svg .mark-line path.tl-lit").count() == 1
    dimmed = page.locator(".tl-short svg .mark-line path:not(.tl-lit)").evaluate_all(marks)
    assert set(dimmed) == {"0.15"}
    page.locator(".tl-short .tl-parts b").first.hover()
    assert page.locator(".tl-lit:is(b, th, li)").all_inner_texts().count("gain over scratch") == 0
    word.focus()
    page.keyboard.press("Tab")
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur()")
    assert page.locator(".tl-lit, .tl-dimmed").count() == 0


@in_chromium
def test_a_word_of_a_chart_lights_its_line_up(visit):
    page = visit("notebooks/images_per_class")
    drawn(page)
    place = page.locator("#images-per-class-paper .tl-chart")
    word = place.locator(".mark-text.role-mark text").first
    word.hover()
    lit = place.locator(".mark-line path.tl-lit")
    assert lit.count() == 1
    assert lit.get_attribute("stroke") == word.get_attribute("fill")


@in_chromium
def test_a_point_tells_the_runs_behind_it(visit):
    page = visit("notebooks/how_fast")
    drawn(page)
    figure = page.locator(".tl-explorer .tl-figure, .tl-figure:has(.tl-explorer)").first
    told = figure.locator(".tl-runs").first
    assert told.inner_text().endswith("Point at a dot for the runs behind it.")
    told.get_by_label("next point").focus()
    for _ in range(2):  # of two at the first rate the lower one
        page.keyboard.press("Enter")
    first = told.inner_text()
    assert "The runs behind this point, at rate 0.001: repetition 0: " in first
    assert [text.split(": ")[0] for text in told.locator("a").all_inner_texts()[1:]] == list("1234567")
    key = told.locator("a").first.get_attribute("href").partition("#")[2]
    found = records.record(key)
    assert found["trial"]["seed"] == 0
    assert found["trial"]["method"]["recipe"]["lr"] == 0.001
    shown = figure.locator(".mark-symbol path.tl-pointed")
    assert shown.count() == 1
    figure.locator(".mark-symbol path:not(.tl-pointed)").last.hover()
    assert told.inner_text() != first
    assert page.locator(".tl-panels > .tl-runs").count() == 0  # one line below all panels of a figure
    toy = page.locator(".tl-toy .tl-runs")
    toy.get_by_label("next point").click()
    assert "repetition 0" in toy.inner_text()
    assert toy.locator("a").count() == 0  # a toy's records are not published
    told.locator("a").first.click()
    page.wait_for_selector(".tl-shown dl")
    assert page.trouble == []


STOPS = """all => all.filter(e => e.checkVisibility({ visibilityProperty: true }) && !e.disabled && e.tabIndex >= 0
    && (e.type !== 'radio' || e.checked)).map((e, i) => { e.dataset.stop = i; return i; })"""
FOCUS = """() => { const e = document.activeElement, look = getComputedStyle(e);
    const seen = look.outlineStyle !== 'none' || look.boxShadow !== 'none';
    return [e === document.body, e.dataset.stop ?? null, seen, e.outerHTML.slice(0, 90)]; }"""


@in_chromium
@pytest.mark.parametrize("name", ["book/index", "book/scorecard", "notebooks/how_fast"])
def test_the_keyboard_alone_reaches_everything(visit, name):
    """Tab comes to all that can be used, shows where it is, and leaves the page again."""
    page = visit(name)
    if page.locator(".tl-chart").count():
        drawn(page)
    stops = page.locator(".bd-article :is(a[href], button, input, select, summary, [tabindex])").evaluate_all(STOPS)
    reached, unseen = set(), []
    for _ in range(len(stops) + 300):  # the sidebar's, too
        page.keyboard.press("Tab")
        left, stop, visible, what = page.evaluate(FOCUS)
        if left:
            break
        reached.add(stop)
        unseen += [] if visible else [what]
    assert left, "the keyboard is caught"
    assert {str(stop) for stop in stops} <= reached
    assert unseen == []


@in_chromium
def test_steps_can_be_played(visit):
    page = visit("notebooks/growing_needs_normalising")
    slider = page.locator("input[type=range][name=step]")
    button = page.get_by_role("button", name="Play along Step")
    before = int(slider.input_value())
    if before == int(slider.get_attribute("max")):
        slider.press("Home")
        before = 0
    button.press("Enter")
    page.wait_for_function("before => Number(document.querySelector('[name=step]').value) > before", arg=before)
    button.press("Enter")
    stopped = slider.input_value()
    page.wait_for_timeout(1100)
    assert slider.input_value() == stopped
    page.emulate_media(reduced_motion="reduce")
    assert not button.is_visible()
    assert page.trouble == []


def test_a_page_loads_little_script(book):
    """At most 350 kB on a chart page, packed as a server sends it; most of it is Vega."""
    file = book / "notebooks" / "images_per_class.html"
    scripts = {(file.parent / url.split("?")[0]).resolve() for url in links(file).loaded if ".js" in url}
    assert any(path.name == "vega.js" for path in scripts)
    assert sum(len(gzip.compress(path.read_bytes())) for path in scripts) < 350_000
    assert not {"record.js", "search.js", "places.js", "whatif.js"} & {path.name for path in scripts}


def code_of(name: str) -> list[str]:
    """The code cells of a notebook but the parameters, which papermill wants in each."""
    cells = chapters.chapter(name).notebook.cells
    return [c.source for c in cells if c.cell_type == "code" and "parameters" not in c.metadata.get("tags", [])]


def test_notebooks_are_short():
    lines = {
        name: sum(map(lines_of, (c.source for c in subject.notebook.cells if c.cell_type == "code")))
        for name, subject in chapters.chapters().items()
    }
    special = {"how_many_classes", "coarse_or_fine", "grown_or_wide", "does_borrowing_help", "what_to_borrow"}
    special |= {
        "which_layer",
        "how_far_is_a_task",
        "finding_alike",
        "what_does_finetuning_change",
        "how_fast",
        "how_much",
        "how_good_is_our_advice",
        "everything_together",
    }
    assert {name: n for name, n in lines.items() if not 55 <= n <= (230 if name in special else 120)} == {}
    assert sum(lines.values()) <= 170 * len(lines)
    for subject in chapters.chapters().values():
        assert lines_of(subject.cell("rule")) <= 40


def test_no_six_lines_stand_in_two_notebooks():
    where = {}
    for name in chapters.chapters():
        for cell in code_of(name):
            lines = [
                line.strip() for line in cell.splitlines() if line.strip() and not re.match(r"(from|import) ", line)
            ]
            for i in range(len(lines) - 5):
                where.setdefault(tuple(lines[i : i + 6]), set()).add(name)
    assert {lines: names for lines, names in where.items() if len(names) > 1} == {}


@pytest.mark.parametrize("name", chapters.chapters())
def test_the_code_that_a_page_shows_is_there(name):
    """Of drafts too, which no build shows."""
    path = chapters.chapter(name).path
    for file, place in re.findall(r"```{literalinclude} (\S+)\n(?::.*\n)*?:pyobject: (\S+)", path.read_text()):
        within = ast.parse((path.parent / file).read_text())
        for step in place.split("."):
            within = next(node for node in within.body if getattr(node, "name", "") == step)


def test_notebooks_are_formatted_like_the_package(tmp_path):
    for name, subject in chapters.chapters().items():
        jupytext.write(subject.notebook, tmp_path / f"{name}.ipynb")
    for check in (["format", "--check"], ["check", "--output-format", "concise"]):
        command = [sys.executable, "-m", "ruff", *check, "--config", str(ROOT / "pyproject.toml"), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_changed_notebook_executes_itself_and_the_pages_that_ask_all_chapters(tmp_path, monkeypatch):
    for name in ("notebooks", "book"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "_toc.yml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(build, "code_digest", lambda: "the package and the records")
    before = {name: build.page_stamp(path, {}) for name, path in build.pages().items()}
    changed = build.pages()["notebooks/more_data"]
    changed.write_text(changed.read_text() + "\nOne more sentence.\n")
    after = {name: build.page_stamp(path, {}) for name, path in build.pages().items()}
    again = {name for name in before if before[name] != after[name]}
    assert again == {"notebooks/more_data", "book/index", "book/scorecard", "book/made"}


def test_what_is_written_while_the_book_is_served_is_built_again(tmp_path, monkeypatch):
    """A page, a new asset: once each; not what Python leaves beside the code, and not where nothing changes."""
    for name in ("book/assets", "notebooks", "results", "transferlab/__pycache__"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("_toc.yml", "_config.yml"):
        (tmp_path / name).write_text("")
    page = tmp_path / "book" / "page.md"
    page.write_text("One.")
    monkeypatch.chdir(tmp_path)
    built, edits = (
        [],
        [
            lambda: None,
            lambda: (page.write_text("Two."), os.utime(page, (1, 1))),
            lambda: (tmp_path / "transferlab" / "__pycache__" / "a.pyc").write_text(""),
            lambda: (tmp_path / "book" / "assets" / "new.js").write_text(""),
            lambda: None,
        ],
    )
    counts = []

    def sleep(seconds):
        counts.append(len(built))
        if not edits:
            raise KeyboardInterrupt
        edits.pop(0)()

    monkeypatch.setattr(build.time, "sleep", sleep)
    monkeypatch.setattr(build.subprocess, "run", lambda command, **_: built.append(command[1:]))
    with pytest.raises(KeyboardInterrupt):
        build.rebuild()
    assert counts == [0, 0, 1, 1, 2, 2]
    assert built == [["-m", "transferlab", "build"]] * 2


def test_a_page_depends_on_the_chapters_that_it_names():
    one, all_of_them = chapters.chapter("more_data").path, {c.path for c in chapters.chapters().values()}
    asked = 'from transferlab.chapters import chapter\nthere = chapter("more_data")\n'
    assert build.notebooks_asked("A page without code.") == []
    assert build.notebooks_asked(asked) == [one]
    assert build.notebooks_asked('chapter("no_such_chapter")') == []
    for line in ("from transferlab.chapters import chapter, verdicts", "from transferlab import chapters"):
        assert set(build.notebooks_asked(f"{asked}{line}\n")) == all_of_them


def test_the_method_that_the_api_page_adds_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(Spec, "kinds", dict(Spec.kinds))
    code = re.search(r"```python\n(.*?)```", (ROOT / "book" / "api.md").read_text(), re.DOTALL).group(1)
    space = {"__name__": "transferlab.methods.class_means", "__package__": "transferlab.methods"}
    exec(code, space)
    source = Source("synthetic:source", 16, Recipe(steps=2, batch=8, lr=0.1), Subset(classes=2, per_class=8))
    target, net = Target("synthetic:0", 16, Subset(classes=2, per_class=4)), AlexNet((2, 2, 2, 2, 2), (4, 4))
    table = Lab(tmp_path, workers=1).run([Trial(target, space["ClassMeans"](), net, 0, source)])
    assert table.loc[0, "status"] == "ok"
    assert 0 <= table.loc[0, "accuracy"] <= 1


def test_a_failing_page_is_named(tmp_path):
    page = tmp_path / "page.md"
    page.write_text((ROOT / "book" / "made.md").read_text().replace("import pandas as pd", "import no_such_thing"))
    with pytest.raises(
        build.UserError,
        match=r"page \(=page.md\): cell \d+ failed \(ModuleNotFoundError: No module named 'no_such_thing'\)",
    ):
        build.execute(page, tmp_path / "out.ipynb", {})
    assert not (tmp_path / "out.ipynb").exists()


def test_a_page_is_executed_by_this_python_in_a_folder_of_any_name(tmp_path, monkeypatch):
    """Whatever else is called python3 on this machine, or is gone."""
    spec = {"argv": ["/gone/python", "-f", "{connection_file}"], "display_name": "theirs", "language": "python"}
    theirs = tmp_path / "kernels" / "python3" / "kernel.json"
    theirs.parent.mkdir(parents=True)
    theirs.write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    page, out = tmp_path / "page.md", tmp_path / "{v2} 50% [a] #1 é 'q' \"r\"" / "out.ipynb"
    head = "---\nkernelspec:\n  name: theirs\n  display_name: theirs\n---\n"
    cells = ":tags: [parameters]\na = b = 1", "import sys\n(sys.executable, a, b)"
    page.write_text(head + "".join(f"```{{code-cell}}\n{cell}\n```\n" for cell in cells), "utf-8")
    build.execute(page, out, {"a": None, "b": ["{v2}", 1.5]})
    *_, cell = json.loads(out.read_text("utf-8"))["cells"]
    assert ast.literal_eval("".join(cell["outputs"][0]["data"]["text/plain"])) == (sys.executable, None, ["{v2}", 1.5])
    assert [file.name for file in out.parent.iterdir()] == ["out.ipynb"]


@pytest.mark.parametrize("package", ["jupytext", "papermill", "ipykernel"])
def test_what_a_page_needs_is_named(tmp_path, monkeypatch, package):
    monkeypatch.setattr(build, "find_spec", lambda name: None if name == package else object())
    rule = r"install the book's needs: pip install 'transferlab\[book\]'"
    with pytest.raises(build.UserError, match=rf"^{package} \(=missing\): {rule}$"):
        build.execute(ROOT / "book" / "made.md", tmp_path / "out.ipynb", {})


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (CellTimeoutError.error_from_timeout_and_cell("slow", 900, None), "A cell timed out .* after 900 seconds."),
        (DeadKernelError("Kernel died"), "Kernel died"),
    ],
)
def test_a_page_whose_kernel_does_not_answer_is_named(tmp_path, monkeypatch, error, message):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(papermill, "execute_notebook", fails)
    with pytest.raises(build.UserError, match=rf"^page \(=made.md\): {message}; see .*$"):
        build.execute(ROOT / "book" / "made.md", tmp_path / "out.ipynb", {})


def test_published_results_are_small():
    """Records are text that can be reviewed; beside them lie the reference sources, of under 1 MB, and nothing else."""
    size = {p: p.stat().st_size for p in Published().root.rglob("*") if p.is_file()}
    sources = {p for p in size if p.suffix == ".safetensors"}
    assert len(sources) <= 16
    assert all(size[p] < 1_000_000 for p in sources)
    assert sum(size[p] for p in size.keys() - sources) < 12_000_000
    assert {p.suffix for p in size.keys() - sources} <= {".jsonl", ".json"}
