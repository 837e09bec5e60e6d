"""Every chapter runs at smoke through papermill, on drawn images: each test may go to another process."""

import pytest

from transferlab import build, chapters
from transferlab.lab import Lab
from transferlab.report.figure import BOOK


@pytest.mark.parametrize("name", list(chapters.chapters()))
def test_every_chapter_runs_at_smoke_through_papermill(name, shared, tmp_path, monkeypatch):
    """On drawn images, with what its own live part and other chapters trained: it trains the rest, judges and draws."""
    for folder in shared.items():
        monkeypatch.setenv(*folder)
    monkeypatch.delenv(BOOK, raising=False)  # as a person would see it, with widgets
    target = tmp_path / f"{name}.ipynb"
    build.execute(
        chapters.chapter(name).path,
        target,
        {"scale": "smoke", "seeds": 1, "run": "missing", "live": False} | build.ONE_WORKER,
    )
    text = target.read_text()
    assert '"status": "completed"' in text
    assert "application/vnd.jupyter.widget-view+json" in text
    assert Lab().missing(chapters.chapter(name).design("smoke", [0])) == []
