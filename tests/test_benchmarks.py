"""Every benchmark runs, in short, and the page of results is made from the files."""

import importlib.util
import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType

import pytest
import torch

from transferlab.train import fit

FOLDER = Path(__file__).parent.parent / "benchmarks"
SCRIPTS = sorted(p for p in FOLDER.glob("*.py") if p.stem not in ("common", "report"))
CONTESTS = ("fit", "layers", "neighbours", "own_images", "probe", "study")  # a process for each contestant


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """A cache for all of them: the synthetic world is drawn once."""
    return tmp_path_factory.mktemp("drawn")


def module_of(path: Path) -> ModuleType:
    """Import a script."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def words_of(options: dict) -> list[str]:
    return [str(word) for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]


def here(script: Path, words: list[str], monkeypatch) -> str:
    """Run a script, and its contestants, in this process, which has imported everything; return what it prints."""
    module = module_of(script)

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", [str(script), *words])
        with redirect_stdout(io.StringIO()) as told:
            module.main()
        return told.getvalue()

    monkeypatch.setattr(module, "ask", lambda _, **options: json.loads(run(*words_of(options)).splitlines()[-1]))
    monkeypatch.setattr(fit, "may_be_captured", fit.may_be_captured)  # what they change in this process is put back
    monkeypatch.setattr(os, "environ", os.environ.copy())
    threads = torch.get_num_threads()
    try:
        return run(*words)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_every_benchmark_runs(tmp_path, script, drawn, monkeypatch):
    monkeypatch.setenv("TRANSFERLAB_CACHE", str(drawn))
    monkeypatch.syspath_prepend(str(FOLDER))
    out = tmp_path / "out.json"
    words = ["--quick", "--device", "cpu", "--out", str(out)]
    words += ["--cores", "1"] if script.stem in ("layers", "probe") else []  # peers would start processes
    if script.stem in CONTESTS:
        told = here(script, words, monkeypatch)
    else:
        told = subprocess.run(
            [sys.executable, str(script), *words], capture_output=True, text=True, timeout=300, check=True
        ).stdout
    found = json.loads(out.read_text())
    assert {"benchmark", "rows", "runs", "rounds", "processor", "cores", "torch", "commit", "day"} <= found.keys()
    for row in found["rows"]:
        assert {"what", "value", "unit"} <= row.keys()
        assert row["what"] in told


def test_a_contestant_has_a_process_of_its_own(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    ask = module_of(FOLDER / "common.py").ask
    assert ask(str(FOLDER / "fit.py"), contestant="ceiling", precision="float32")["multiply_adds"] > 0
    with pytest.raises(SystemExit, match="invalid choice"):
        ask(str(FOLDER / "fit.py"), precision="float8")


def test_the_page_is_made_from_the_files(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    report = module_of(FOLDER / "report.py")
    assert (FOLDER.parent / "BENCHMARKS.md").read_text() == report.text(), "make it again: python benchmarks/report.py"
