"""The page of a training says what its two files say, with pictures, and stands alone."""

import json
import re
from html import unescape

import pandas as pd
import pytest
from browsing import in_chromium
from drawn_folders import looks_right, picture, put

from transferlab.errors import UserError, torchvision
from transferlab.own.page import wilson
from transferlab.own.report import BINS, _calibration, _matrix, write

CLASSES = ["NA", "cat <b>", "dog"]
METRICS = {
    "accuracy": 0.8,
    "mean_class_accuracy": 0.75,
    "log_loss": 0.6,
    "split": "test",
    "n": 10,
    "classes": CLASSES,
    "per_class": {
        "NA": {"n": 4, "accuracy": 1.0},
        "cat <b>": {"n": 4, "accuracy": 0.75},
        "dog": {"n": 2, "accuracy": 0.5},
    },
    "validation": {"accuracy": 0.85, "n": 20},
    "probe": {"accuracy": 0.7, "n": 20},
    "rates": [
        {"rate": 0.004, "validation_accuracy": 0.7},
        {"rate": 0.016, "validation_accuracy": 0.85},
        {"rate": 0.064, "validation_accuracy": None, "status": "diverged"},
    ],
    "losses": [1.1, 0.9, float("nan"), 0.4],
    "steps": 120,
    "seconds": 260.0,
    "method": "finetune",
    "network": "squeezenet1_1",
    "size": 64,
    "notes": ["passed over: hidden 1 (.DS_Store)"],
    "command": "transferlab finetune pets --steps 120",
    "versions": {"transferlab": "0.1.0", "torch": "2"},
    "changed": {"features.0": 0.02, "classifier": 0.5},
}
ANSWERS = [
    *(("NA", "NA", 0.95),) * 4,
    *(("cat <b>", "cat <b>", 0.85),) * 3,
    ("cat <b>", "dog", 0.99),
    ("dog", "dog", 0.65),
    ("dog", "NA", 0.45),
]


@pytest.fixture
def made(tmp_path):
    """A folder of images, and one with what a training on them leaves."""
    names = [f"test/{c.split()[0]}/{n}.png" for n, (c, _, _) in enumerate(ANSWERS)]
    put(tmp_path / "pets", {name: picture(n) for n, name in enumerate(names)})
    rows = [(tmp_path / "pets" / name, *answer) for name, answer in zip(names, ANSWERS, strict=True)]
    return leave(tmp_path / "out", METRICS | {"folder": str(tmp_path / "pets")}, rows)


def leave(folder, metrics: dict, rows=()):
    folder.mkdir(exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    if rows:
        table = pd.DataFrame(rows, columns=["path", "class", "predicted", "probability"])
        table.to_csv(folder / "predictions.csv", index=False)
    return folder


def text(folder) -> str:
    """Return the words of the page, with single spaces."""
    markup = re.sub(r"<style>.*?</style>", "", write(folder).read_text("utf-8"), flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", markup)).split())


def test_what_was_measured_and_done_is_told(made):
    told = text(made)
    for words in (
        "pets: what the network can do",
        "80.0% accuracy; 95% interval 49.0–94.3%",
        "75.0% mean class accuracy",
        "40.0% would be right by always naming the largest class",
        "85.0% on validation images",
        "70.0% on validation images by a probe",
        "squeezenet1_1 was fine-tuned on",
        "at 64 px. The learning rate 0.016 did best on validation images, of 0.004, 0.016, 0.064. It took 4 minutes.",
        "passed over: hidden 1 (.DS_Store)",
        "Training loss: from 1.10 to 0.40.",
        "120 steps",
        "0.016 85.0% best",
        "0.064 diverged",
        "cat <b> 4 75% 30–95% dog (1)",
        "classifier 50.0%",
        "transferlab finetune pets --steps 120",
        "With transferlab 0.1.0, torch 2.",
    ):
        assert words in told


def test_what_is_no_good_is_said(made):
    easy, useless = (
        "Validation images are easier than test images.",
        "not clearly better than always naming the largest",
    )
    assert easy not in text(made)
    assert useless not in text(made)
    rows = [("x.png", "NA", "NA", 0.9)] * 6 + [("x.png", "dog", "NA", 0.9)] * 4
    told = text(leave(made, METRICS | {"accuracy": 0.6, "validation": {"accuracy": 0.9}}, rows))
    assert easy in told
    assert useless in told


def test_intervals_are_wilsons():
    from statsmodels.stats.proportion import proportion_confint

    for hits, n in ((8, 10), (0, 7), (7, 7), (431, 1000)):
        assert wilson(hits, n) == pytest.approx(proportion_confint(hits, n, method="wilson"), abs=1e-9)


def frame() -> pd.DataFrame:
    return pd.DataFrame(ANSWERS, columns=["class", "predicted", "probability"])


def test_who_is_taken_for_whom(made):
    assert _matrix(CLASSES, frame()) == {"NA": [4, 0, 0], "cat <b>": [0, 3, 1], "dog": [1, 0, 1]}
    cells = re.search(r'<table class="matrix">.*?</table>', write(made).read_text("utf-8"), re.DOTALL).group()
    assert re.findall(r'<td class="right[^"]*"[^>]*>(.)</td>', cells) == ["4", "3", "1"]


def test_calibration_is_what_it_is_called():
    found = _calibration(frame())
    assert [row[2:] for row in found["rows"]] == [
        (1, 0.45, 0.0),
        (1, 0.65, 1.0),
        (3, pytest.approx(0.85), 1.0),
        (5, pytest.approx(0.958), 0.8),
    ]
    by_hand = (0.45 + 0.35 + 3 * 0.15 + abs(4.79 - 4)) / 10
    assert found["error"] == pytest.approx(by_hand)
    sure = _calibration(pd.DataFrame([("a", "a", 1.0)], columns=["class", "predicted", "probability"]))
    assert sure["rows"] == [((BINS - 1) / BINS, 1.0, 1, 1.0, 1.0)]


def test_the_surest_mistakes_come_first_with_their_pictures(made):
    page = write(made).read_text("utf-8")
    shown = re.findall(r'<img src="data:image/webp;base64,[^"]+" alt="([^"]+)"', page)
    assert shown == ["test/cat/7.png", "test/dog/9.png"]
    for path in (made.parent / "pets").rglob("*.png"):
        path.unlink()
    assert "The images are not where they were" in text(made)
    assert "<img" not in write(made).read_text("utf-8")


def test_many_classes_show_the_pairs_that_are_confused_most(tmp_path):
    classes = [f"c{n}" for n in range(40)]
    rows = [("x", c, c, 0.9) for c in classes] + [("x", "c1", "c2", 0.8)] * 3 + [("x", "c5", "c4", 0.7)]
    told = text(leave(tmp_path / "out", {"accuracy": 40 / 44, "n": 44, "classes": classes}, rows))
    assert "class taken for times of c1 c2 3 4 c5 c4 1 2" in told


def test_a_page_of_little_is_a_page(tmp_path):
    told = text(leave(tmp_path / "out", {"accuracy": 1.0, "n": 3, "classes": ["a", "b"]}))
    assert "100.0% accuracy; 95% interval 43.9–100.0%" in told
    assert "There is no predictions.csv" in told
    rows = [("1.png", "a", "a", 0.9)] * 3
    more = {"accuracy": 1.0, "n": 3, "classes": ["a", "b"], "folder": None, "probe": None, "rates": [], "losses": []}
    told = text(leave(tmp_path / "out", more | {"command": None, "validation": None, "changed": {}}, rows))
    assert "There are none: all test images were right." in told


def test_the_code_on_the_page_loads_the_network(made):
    from safetensors.torch import save_file

    net = torchvision("models").get_model("squeezenet1_1", num_classes=3)
    save_file(net.state_dict(), made / "model.safetensors")
    blocks = [
        unescape(b) for b in re.findall(r"<pre><code>(.*?)</code></pre>", write(made).read_text("utf-8"), re.DOTALL)
    ]
    (code,) = [b for b in blocks if b.startswith("from")]
    assert sum(bool(line) for line in code.splitlines()) == 5
    space = {}
    exec(code, space)
    assert all(
        (a == b).all() for a, b in zip(net.state_dict().values(), space["net"].state_dict().values(), strict=True)
    )
    assert not space["net"].training
    own = text(leave(made, METRICS | {"network": "own"}))
    assert f"tuner = FineTuner.load('{made}')" in own


@pytest.mark.parametrize(
    ("file", "content", "error"),
    [
        ("metrics.json", None, r"^metrics \(=.*metrics.json\): cannot be read \(No such file or directory\)$"),
        ("metrics.json", "{", r"^metrics \(=.*metrics.json\): cannot be read \(Expecting"),
        ("metrics.json", "[]", r"^metrics \(=.*metrics.json\): must have accuracy, n, classes$"),
        ("metrics.json", '{"n": 1, "classes": []}', r"^metrics \(=.*metrics.json\): must have accuracy$"),
        (
            "predictions.csv",
            "path,class\n1,a\n",
            r"^predictions \(=.*csv\): must have columns path, class, predicted, ",
        ),
        ("predictions.csv", "", r"^predictions \(=.*csv\): must have columns path"),
        (
            "predictions.csv",
            "path,class,predicted,probability\n1,a,a,x\n",
            r"^predictions \(=.*csv\): must have columns",
        ),
    ],
)
def test_bad_input(made, file, content, error):
    (made / file).unlink()
    if content is not None:
        (made / file).write_text(content)
    with pytest.raises(UserError, match=error):
        write(made)


@in_chromium
def test_the_page(browser, made):
    path = write(made)
    assert path.stat().st_size < 500_000
    assert "cat <b>" not in path.read_text("utf-8")
    looks_right(browser, path)


@in_chromium
def test_a_page_of_thirty_classes(browser, tmp_path):
    classes = [f"a class of some name {n}" for n in range(30)]
    rows = [("x.png", c, classes[(n * k) % 30], 0.9) for n, c in enumerate(classes) for k in (1, 1, 2)]
    looks_right(
        browser, write(leave(tmp_path / "out", METRICS | {"classes": classes, "per_class": None}, rows)), (360, "light")
    )
