"""What pages say is what the published records say: all chapters are judged here, and so once, in one process."""

import base64
import html
import io
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from browsing import in_chromium
from test_book import CHAPTERS, can_be_read, explorers, seen

from transferlab import chapters, records
from transferlab.report.cards import bracketed


@in_chromium
def test_the_sentence_says_what_the_records_say(visit):
    """Choose one state by hand, and compute what it must say from the published records."""
    study = chapters.chapter("images_per_class").published("cpu")
    page = visit("notebooks/images_per_class", width=360, scheme="dark")
    explorer = explorers(page).first
    explorer.locator("select[name=target]").select_option(label="Flowers-102")
    r = study.records
    mean = r.groupby(["arm", "target", r["images"].fillna(0)])["accuracy"].apply(list)
    arm = lambda name, images=0, target="flowers102": pd.Series(mean[name, target, images])  # noqa: E731
    tuned, whole, scratch = arm("fine-tuned", 20), arm("fine-tuned", 500), arm("from scratch")
    accuracy, gain = (100 * tuned / whole), 100 * (tuned - scratch) / (whole - scratch)
    source = 100 * arm("source task", 20, study.s.source) / arm("source task", 500, study.s.source)
    sentence, interval, _ = seen(explorer)
    assert f"the source task keeps {source.mean():.0f}%" in sentence
    assert f"accuracy (Flowers-102) {accuracy.mean():.0f}%, the gain over scratch {gain.mean():.0f}%" in sentence
    assert f"{(accuracy - source).mean():+.1f} points" in interval
    assert f"n = {len(whole)} repetitions" in interval
    can_be_read(page, "notebooks/images_per_class")


def test_the_scorecard_has_every_claim_and_every_verdict(book):
    text = (book / "book" / "scorecard.html").read_text()
    offered = re.search(r'download="scorecard\.csv" href="data:text/csv;base64,([^"]+)"', text).group(1)
    card = pd.read_csv(io.BytesIO(base64.b64decode(offered)))
    assert card["claim"].nunique() == 53
    shown = card.dropna(subset=["scale"]).set_index(["claim", "scale"])
    for verdict in chapters.verdicts():
        row = shown.loc[(verdict.claim, verdict.scale)]
        assert row["verdict"] == verdict.word
        assert row["effect"] == "; ".join(map(bracketed, verdict.parts))


@in_chromium
def test_the_scorecard_is_sifted_and_sorted(visit):
    page = visit("book/scorecard")
    rows = page.locator("tr[data-verdict]:visible")
    everything = rows.count()
    assert everything == len({v.claim for v in chapters.verdicts()})
    page.select_option("[name=verdict]", "holds here")
    held = rows.evaluate_all("all => all.map(row => row.dataset.verdict)")
    assert 0 < len(held) < everything
    assert set(held) == {"holds here"}
    assert page.locator(".tl-count").inner_text() == f"{len(held)} of {everything} judged rows are shown."
    page.select_option("[name=sort]", "sure")
    sure = [float(x) for x in rows.evaluate_all("all => all.map(row => row.dataset.sure)")]
    assert sure == sorted(sure, reverse=True)
    page.fill("[name=words]", "coarse concept")
    assert rows.evaluate_all("all => all.map(row => row.id)") == ["I6"]
    page.reload()  # what was asked is in the address
    assert rows.evaluate_all("all => all.map(row => row.id)") == ["I6"]
    page.fill("[name=words]", "")
    page.select_option("[name=verdict]", "")
    page.select_option("[name=sort]", "")
    assert rows.count() == everything
    assert rows.first.evaluate("row => row.parentElement.dataset.paper") == "Li et al. 2020"
    page.evaluate("location.hash = '#B1'")
    page.wait_for_selector("li#B1:visible")
    page.evaluate("location.hash = '#I7'")
    page.wait_for_selector("tr#I7 details[open]")


@in_chromium
def test_the_sidebar_shows_the_verdicts_of_each_chapter(visit):
    page = visit("notebooks/images_per_class")
    shown = {}
    for name in CHAPTERS:
        study = next(s for scale in ("paper", "gpu", "cpu") if (s := chapters.chapter(name).published(scale)))
        shown[name] = [verdict.word for verdict in study.verdicts]
    links = page.locator(".bd-sidebar-primary li a:has(.tl-dots)")
    assert links.count() == len(shown)
    for link in links.all():
        name = Path(link.get_attribute("href")).stem.replace("#", "images_per_class")
        label = link.locator(".tl-dots").get_attribute("aria-label")
        assert label.strip("()").split(", ") == shown[name]
    page.set_viewport_size({"width": 360, "height": 800})
    seen = "[...document.querySelectorAll('.tl-dots')].filter(e => e.getBoundingClientRect().left >= 0).length"
    page.wait_for_function(f"{seen} === 0")
    page.locator("button.primary-toggle:visible").press("Enter")
    page.wait_for_function(f"{seen} === {len(shown)}")
    page.keyboard.press("Escape")
    page.wait_for_function(f"{seen} === 0")
    page.locator("button.secondary-toggle:visible").press("Enter")
    page.wait_for_selector("#pst-secondary-sidebar-modal[open]")
    assert page.trouble == []


@in_chromium
def test_a_guess_is_told_by_keyboard(visit):
    page = visit("notebooks/images_per_class")
    verdict = chapters.chapter("images_per_class").published("cpu").verdict("I1")
    outcome = page.locator(".tl-outcome")
    assert outcome.inner_text() == ""
    page.locator(".tl-guess button:not([data-right])").first.press("Enter")
    assert outcome.inner_text().startswith("Not so.")
    page.locator(".tl-guess button[data-right]").press("Enter")
    assert outcome.inner_text().startswith("Right.")
    assert verdict.word in outcome.inner_text()
    assert all(bracketed(part) in outcome.inner_text() for part in verdict.parts)
    assert page.locator(".tl-short .tl-badge").first.is_visible()  # whoever does not play reads on


@pytest.mark.parametrize("name", CHAPTERS)
def test_what_may_be_guessed_is_what_was_decided(book, name):
    guess = re.search(r'<form class="tl-guess".*?</form>', (book / "notebooks" / f"{name}.html").read_text(), re.DOTALL)
    study = next(s for scale in ("paper", "gpu", "cpu") if (s := chapters.chapter(name).published(scale)))
    words = [v.word for v in chapters.chapter(name).short(study).verdicts]
    decided = [w for w in words if w in ("holds here", "does not hold here", "in part", "no effect here")]
    right = {"holds here": "It holds", "does not hold here": "It does not"}
    assert bool(guess) == bool(decided)
    if guess:
        (told,) = re.findall(r"<button[^>]* data-right>([^<]*)</button>", guess[0])
        assert told == right.get(decided[0], "Neither clearly")


def test_seven_questions_are_answered_from_the_records(book):
    text = html.unescape((book / "book" / "own.html").read_text())
    for name in ("images_per_class", "wider_or_deeper", "how_many_classes", "more_data", "what_new_units_learn"):
        box = chapters.chapter(name).short(chapters.chapter(name).published("cpu"))
        assert any(sentence in text for sentence in box.said)
        assert box.do in text


def test_a_chapter_shows_its_claims_at_every_scale_that_is_published(book):
    for name in CHAPTERS:
        text = html.unescape(re.sub("<[^>]+>", "", (book / "notebooks" / f"{name}.html").read_text()))
        for part in (part for verdict in chapters.chapter(name).verdicts() for part in verdict.parts):
            assert bracketed(part) in text


def test_the_first_page_names_every_chapter_its_answer_and_its_verdicts(book):
    text = html.unescape((book / "book" / "index.html").read_text())
    found = text[text.index('class="tl-found"') :]
    for name in CHAPTERS:
        subject = chapters.chapter(name)
        study = next(s for scale in ("paper", "gpu", "cpu") if (s := subject.published(scale)))
        assert subject.short(study).answer in found
        for verdict in study.verdicts:
            assert f'href="../notebooks/{name}.html#verdict-{verdict.claim}"' in found


@in_chromium
def test_a_key_leads_to_its_record(visit):
    page = visit("notebooks/images_per_class")
    table = page.locator("#images_per_class-records")
    table.locator("summary").click()
    link = table.locator("td a").first
    found = records.record(link.inner_text())
    link.click()
    page.wait_for_selector(".tl-shown dl")
    told = page.locator(".tl-shown").inner_text()
    for words in (found["label"], found["command"], str(found["metrics"]["accuracy"]), found["provenance"]["day"]):
        assert words in told
    assert json.loads(page.locator(".tl-shown pre").last.inner_text()) == found["trial"]
    page.fill("#tl-key", "0" * 16)
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('.tl-shown').textContent.startsWith('No published record')")
    assert page.url.endswith("#0000000000000000")
    assert page.trouble == []
