"""The page on which a person tries three ways on images of their own."""

import json

import pytest
from small_sets import draw

from transferlab import build
from transferlab.paths import project
from transferlab.report.figure import BOOK


def texts(path, kind: str) -> list[str]:
    """What the cells of an executed notebook show, of a kind."""
    outputs = (o for cell in json.loads(path.read_text())["cells"] for o in cell.get("outputs", ()))
    return [
        "".join(o["data"][kind] if "data" in o else o["text"]) for o in outputs if kind in o.get("data", {"text": ""})
    ]


@pytest.mark.parametrize("built", [True, False])
def test_it_looks_and_compares(tmp_path, monkeypatch, built):
    """In the book it stands still; with a kernel it has controls."""
    monkeypatch.delenv(BOOK, raising=False)
    if built:
        monkeypatch.setenv(BOOK, "1")
    folder, made = draw(tmp_path / "fruit", {"apple": 8, "lemon": 8}), tmp_path / "page.ipynb"
    build.execute(project() / "book" / "own_images.md", made, {"folder": str(folder), "steps": 2})
    shown = " ".join(texts(made, "text/html"))
    assert "16 images." in shown
    assert "of 4 test images" in shown
    assert all(way in made.read_text() for way in ("from scratch", "frozen", "fine-tuned"))
    controls = json.dumps(json.loads(made.read_text())["metadata"].get("widgets", {}))  # progress bars are none
    assert ("TextModel" in controls) != built


def test_a_folder_that_will_not_do_is_a_line(tmp_path, monkeypatch):
    monkeypatch.setenv(BOOK, "1")
    build.execute(project() / "book" / "own_images.md", tmp_path / "page.ipynb", {"folder": "nowhere", "steps": 2})
    (told,) = texts(tmp_path / "page.ipynb", "text")
    assert told.startswith("data set (=folder:nowhere")
    assert len(told.splitlines()) == 1
