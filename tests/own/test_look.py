"""What a look at a folder says is what lies in it: drawn folders with every kind of trouble."""

import json
import subprocess
import sys

import imagehash
import numpy as np
import pytest
from browsing import in_chromium
from click.testing import CliRunner
from drawn_folders import looks_right, picture, put
from PIL import Image, ImageEnhance

from transferlab.data.alike import near
from transferlab.data.readers import open_set
from transferlab.errors import UserError
from transferlab.own import commands
from transferlab.own.look import ALIKE, overview
from transferlab.own.sample import PER_SAMPLE, SAMPLED, sample


@pytest.fixture
def messy(tmp_path):
    """Two classes, 30 and 6 images of which are in train, and of trouble one of each kind."""
    train = {f"train/cat/{n}.png": picture(n) for n in range(30)} | {
        f"train/dog & <b>/{n}.png": picture(100 + n) for n in range(6)
    }
    test = {
        f"test/{c}/{n}.png": picture(200 + 10 * k + n) for k, c in enumerate(("cat", "dog & <b>")) for n in range(5)
    }
    more = {
        "test/cat/copy.png": ImageEnhance.Brightness(picture(3)).enhance(1.1).resize((90, 90)),
        "train/dog & <b>/other.jpg": picture(7, (64, 64)),
        "train/cat/grey.png": picture(300).convert("L"),
        "train/cat/tiny.png": picture(301, (20, 20)),
        "train/cat/long.png": picture(302, (200, 50)),
        "train/cat/broken.jpg": b"\xff\xd8\xffno picture",
        "train/cat/empty.png": b"",
        "train/notes.txt": b"not read",
    }
    return put(tmp_path / "messy", train | test | more)


def test_what_is_there_is_told(messy):
    about = overview(str(messy)).about
    assert about["images"] == 30 + 6 + 10 + 1 + 1 + 3 + 2
    assert about["splits"] == {"train": 42, "test": 11}
    assert about["classes"] == {"cat": {"train": 35, "test": 6}, "dog & <b>": {"train": 7, "test": 5}}
    assert about["modes"] == {"RGB": 50, "L": 1}
    assert (about["sizes"]["smallest"], about["sizes"]["middle"]) == ((20, 20), (48, 48))
    assert about["sizes"]["largest"] == (200, 50)
    assert set(about["unreadable"]) == {"train/cat/broken.jpg", "train/cat/empty.png"}
    assert "empty" in about["unreadable"]["train/cat/empty.png"]
    assert about["passed"] == {"other suffixes": [1, "train/notes.txt"]}


def test_look_alikes_are_named_and_counted(messy):
    found = overview(str(messy)).about["duplicates"]
    assert {k: found[k] for k in ("pairs", "across", "classes_differ", "within")} == {
        "pairs": 2,
        "across": 1,
        "classes_differ": 1,
        "within": 1,
    }
    assert [sorted(pair["images"]) for pair in found["first"]] == [
        ["test/cat/copy.png", "train/cat/3.png"],
        ["train/cat/7.png", "train/dog & <b>/other.jpg"],
    ]
    assert [(p["across"], p["classes_differ"]) for p in found["first"]] == [(True, False), (False, True)]


def test_what_matters_is_said(messy):
    said = [told["what"] for told in overview(str(messy)).about["advice"]]
    assert said == [
        "2 images cannot be read: train/cat/broken.jpg, train/cat/empty.png.",
        "1 class has fewer than 20 training images: dog & <b> (7).",
        "cat has 5 times the training images of dog & <b>.",
        "With 11 test images, 80% right can mean 52% to 95%.",
        "1 pair of look-alikes in different splits: it makes the test too easy.",
        "1 pair of look-alikes of different classes.",
        "1 pair of look-alikes in the same split.",
        "1 image has a side of less than 32 px.",
        "1 image is more than 2 times as long as wide, or as wide as long.",
    ]


def test_without_splits_no_pair_is_across(tmp_path):
    folder = put(
        tmp_path / "whole", {f"{'ab'[n % 2]}/{n}.png": picture(n) for n in range(50)} | {"a/c.png": picture(2)}
    )
    about = overview(f"folder:{folder}").about
    assert about["splits"] == {"": 51}
    assert about["classes"] == {"a": {"": 26}, "b": {"": 25}}
    assert about["duplicates"]["first"] == [
        {"images": ["a/2.png", "a/c.png"], "across": False, "classes_differ": False}
    ]
    assert [told["what"] for told in about["advice"]] == ["1 pair of look-alikes."]


def test_a_class_of_one_image_is_told_not_refused(tmp_path):
    folder = put(tmp_path / "few", {f"train/{'ab'[n > 0]}/{n}.png": picture(n) for n in range(30)})
    about = overview(str(folder)).about
    assert about["classes"] == {"a": {"": 1}, "b": {"": 29}}
    assert [told["what"] for told in about["advice"]] == [
        "1 class has fewer than 20 images: a (1).",
        "b has 29 times the images of a.",
    ]


def test_a_folder_of_which_nothing_can_be_read_is_told(tmp_path):
    about = overview(str(put(tmp_path / "set", {f"{c}/{n}.png": b"x" for c in "ab" for n in range(2)}))).about
    assert (about["images"], len(about["unreadable"]), about["sizes"], about["modes"]) == (4, 4, {}, {})
    assert about["duplicates"] == {"pairs": 0, "across": 0, "classes_differ": 0, "within": 0, "first": []}
    assert said(tmp_path / "set", "--html", tmp_path / "page.html").exit_code == 0


def test_pairs_are_those_that_the_library_counts(monkeypatch):
    kinds = [picture(n) for n in range(9)]
    images = [*kinds, *(k.resize((31, 31)) for k in kinds[:4]), kinds[0].rotate(2), Image.new("RGB", (9, 9))]
    hashes = [imagehash.phash(i) for i in images]
    packed = np.array([int.from_bytes(np.packbits(h.hash).tobytes(), "big") for h in hashes], np.uint64)
    expected = [(i, j) for i in range(len(hashes)) for j in range(i + 1, len(hashes)) if hashes[i] - hashes[j] <= ALIKE]
    assert len(expected) >= 4
    for at_once in (1, 4, 64):
        monkeypatch.setattr("transferlab.data.alike.HASHES", at_once)
        assert [tuple(pair) for part in near(packed, ALIKE) for pair in part.tolist()] == expected


def test_a_sheet_has_pictures_of_the_whole_class(tmp_path, monkeypatch):
    folder = put(tmp_path / "set", {f"{c}/{n:02}.png": picture(n + 50 * (c == "b")) for c in "ab" for n in range(30)})
    names = [name for name, _ in overview(str(folder)).sheets["a"]]
    assert len(names) == 12
    assert (names[0] < "a/03.png", names[-1] > "a/26.png") == (True, True)
    monkeypatch.setattr("transferlab.own.look.SHEETS", 6)
    assert {c: len(some) for c, some in overview(str(folder)).sheets.items()} == {"a": 3, "b": 3}


def said(*words: str):
    return CliRunner().invoke(commands.look, [str(word) for word in words], catch_exceptions=False)


def test_the_command_prints_text_or_an_object(messy):
    text = said(messy).stdout.splitlines()
    assert text[0] == f"{messy}: 53 images in 2 classes; train 42; test 11"
    assert "cat: train 35, test 6" in text
    assert "passed over: other suffixes 1 (train/notes.txt)" in text
    assert "unreadable: train/cat/empty.png cannot be read (empty)" in text
    assert "look alike: train/cat/3.png and test/cat/copy.png" in text
    assert json.loads(said(messy, "--json").stdout) == json.loads(json.dumps(overview(str(messy)).about))


def test_names_are_no_commands_of_a_terminal(tmp_path):
    folder = put(tmp_path / "set", {f"{c}/{n}.png": picture(n) for c in ("a\x1b[31m", "b") for n in range(2)})
    assert "\x1b" not in said(folder).stdout


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["nowhere"], r"^data set \(=folder:nowhere\): there is no such folder$"),
        (["{}/one"], r"has one class"),
        (["{}", "--html", "{}/no/such/page.html"], r"^html \(=.*page.html\): the folder of this file must be there$"),
    ],
)
def test_bad_input(tmp_path, words, error):
    put(tmp_path, {"one/a/1.png": picture(1), "one/a/2.png": picture(2)})
    with pytest.raises(UserError, match=error):
        said(*(word.format(tmp_path) for word in words))


def test_looking_imports_no_torch(messy):
    code = f"from transferlab.own.look import overview; overview({str(messy)!r})"
    code += "; import sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@in_chromium
def test_the_page(browser, messy, tmp_path):
    path = tmp_path / "look.html"
    assert said(messy, "--html", path).stderr.strip() == f"page: {path}"
    text = path.read_text("utf-8")
    assert "dog &amp; &lt;b&gt;" in text
    assert "<b>/" not in text
    looks_right(browser, path)


# ----------------------------------------------------------------------------------------------------------- samples


def test_a_sample_is_drawn_for_a_machine_without_a_network(tmp_path):
    done = CliRunner().invoke(commands.sample, [str(tmp_path / "new" / "set")], catch_exceptions=False)
    folder = tmp_path / "new" / "set"
    assert done.stdout.strip() == f"{folder}: 240 drawn images; look at them with: transferlab look {folder}"
    opened = open_set(f"folder:{folder}")
    assert opened.classes == SAMPLED
    assert {s: len(items) for s, items in opened.splits.items()} == {s: 4 * n for s, n in PER_SAMPLE.items()}
    assert opened.splits["test"][0].image().size == (64, 64)
    assert overview(str(folder)).about["duplicates"]["pairs"] == 0
    assert [p.name for p in folder.parent.iterdir()] == ["set"]
    (tmp_path / "empty").mkdir()
    sample(tmp_path / "empty")
    assert open_set(f"folder:{tmp_path / 'empty'}").fingerprint() == opened.fingerprint()


def test_a_folder_that_is_not_empty_is_no_place_for_a_sample(tmp_path):
    put(tmp_path / "mine", {"1.png": picture(1)})
    (tmp_path / "file").write_text("x")
    for name in ("mine", "file"):
        with pytest.raises(UserError, match=rf"^folder \(=.*{name}\): must be new or empty; name another one$"):
            sample(tmp_path / name)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["1.png"]
