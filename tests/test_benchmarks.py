"""Every benchmark runs, in short, and the page of results is made from the files."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
SCRIPTS = sorted(p for p in FOLDER.glob("*.py") if p.stem not in ("common", "report"))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """A cache for all of them: the synthetic world is drawn once."""
    return tmp_path_factory.mktemp("drawn")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_every_benchmark_runs(tmp_path, script, drawn, monkeypatch):
    monkeypatch.setenv("TRANSFERLAB_CACHE", str(drawn))
    out = tmp_path / "out.json"
    words = [sys.executable, str(script), "--quick", "--device", "cpu", "--out", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert {"benchmark", "rows", "runs", "rounds", "processor", "cores", "torch", "commit", "day"} <= found.keys()
    for row in found["rows"]:
        assert {"what", "value", "unit"} <= row.keys()
        assert row["what"] in done.stdout


def test_the_page_is_made_from_the_files(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("report", FOLDER / "report.py")
    report = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(report)
    assert (FOLDER.parent / "BENCHMARKS.md").read_text() == report.text(), "make it again: python benchmarks/report.py"
