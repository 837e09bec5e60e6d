"""What a person is told of a folder: nearest tasks, a command that works, and how good such advice was."""

import json
import re

import pytest
from click.testing import CliRunner
from small_sets import draw

from transferlab.chapters import chapter
from transferlab.errors import UserError
from transferlab.own import advice as advising
from transferlab.own import commands
from transferlab.own.advice import ADVISING, ASKED_THERE, MEASURED, lines, looked_at
from transferlab.own.commands import advise


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("own") / "fruit", {"apple": 12, "lemon": 12, "plum": 12})


@pytest.fixture(scope="module")
def study():
    return chapter(ADVISING).published(MEASURED)


def test_without_a_network_and_image_sets(folder, study):
    """The network that reads is a file of the project's, and what is known of measured tasks is on record."""
    done = CliRunner().invoke(advise, [str(folder), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["classes"], found["images"]) == (3, 30)
    assert found["low"] < found["expected"] < found["high"]
    assert 0 <= found["frozen"] <= 100
    assert found["leep"] < 0
    assert {one["target"] for one in found["nearest"]} == set(study.targets)
    assert sum(one["weight"] for one in found["nearest"]) == pytest.approx(1, abs=0.01)
    assert found["setting"] in set(study.records["setting"])
    assert found["how_good"][0] == chapter(ADVISING).short(study).answer
    told = lines(found)
    assert len(told) <= 12
    assert all("\n" not in line for line in told)
    command = next(line for line in told if line.startswith("type: ")).removeprefix("type: ").split()
    assert command[:3] == ["transferlab", "finetune", str(folder)]
    commands.finetune.make_context("finetune", command[2:])  # it understands them


@pytest.mark.parametrize(
    ("setting", "method", "words"),
    [
        ("frozen", "probe", "keep the network as it is"),
        ("from scratch", "finetune", "train from scratch"),
        ("fine-tuned at 0.004", "finetune", "train all layers, fine-tuned at 0.004"),
    ],
)
def test_every_setting_is_told_with_its_command(monkeypatch, study, setting, method, words):
    """A task of the size of a measured one, where everything speaks for one setting."""
    given = {"classes": 10, "images": 1000, "leep": -2.0, "frozen": 50.0, "notes": []}
    monkeypatch.setattr(advising, "looked_at", lambda folder: given)
    monkeypatch.setattr(
        advising, "advise", lambda known, task, then=advising.advise: then(known, task)._replace(setting=setting)
    )
    found = advising.advice("my pictures")
    assert f"--method {method}" in found["command"]
    assert "'my pictures'" in found["command"]
    assert next(line for line in lines(found) if line.startswith("do: ")).startswith(f"do: {words}")
    assert not found["farther"]


def test_a_folder_unlike_all_is_told_so(monkeypatch):
    given = {"classes": 5000, "images": 5_000_000, "leep": -0.1, "frozen": 99.0, "notes": []}
    monkeypatch.setattr(advising, "looked_at", lambda folder: given)
    found = advising.advice("many")
    assert found["farther"]
    assert "trust it less" in lines(found)[1]


def test_it_rests_on_the_chapters_that_it_names():
    known = {t.key for name in ASKED_THERE for t in chapter(name).design(MEASURED, [0])}
    assert {t.key for t in chapter(ADVISING).design(MEASURED, [0])} <= known


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda f: f / "nowhere", r"folder \(=.*nowhere\): there is no such folder$"),
        (lambda f: draw(f / "one", {"apple": 12}), r"data set \(=.*\): has one class"),
        (
            lambda f: draw(f / "two", {"apple": 12, "lemon": 2}),
            r"data set \(=.*\): 3 training images of each class are",
        ),
    ],
)
def test_bad_folders_are_a_line(tmp_path, make, words):
    done = CliRunner().invoke(advise, [str(make(tmp_path))])
    assert isinstance(done.exception, UserError)
    assert len(str(done.exception).splitlines()) == 1
    assert re.search(words, str(done.exception))


def test_an_unreadable_image_is_named_or_left_out(tmp_path):
    folder = draw(tmp_path / "fruit", {"apple": 12, "lemon": 12})
    (folder / "apple" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"broken\.png"):
        looked_at(str(folder))
    found = looked_at(str(folder), skip_unreadable=True)
    assert found["images"] == 20
    assert any("broken.png" in note for note in found["notes"])


def test_no_records_are_a_line(monkeypatch):
    monkeypatch.setattr(type(chapter(ADVISING)), "published", lambda self, scale: None)
    with pytest.raises(UserError, match=r"^records \(=how_good_is_our_advice at cpu\): none are published"):
        advising.advice("anywhere")
