"""Scripts that run trials in worker processes: as they should be written, and as they are written."""

import subprocess
import sys

import pytest

UNGUARDED = """
from transferlab.lab import Lab
from transferlab.methods import Scratch
from transferlab.specs import AlexNet, Recipe, Subset, Target, Trial

{before}
target = Target("synthetic:0", 16, Subset(classes=2, per_class=4))
trials = [Trial(target, {method}(Recipe(steps=2, batch=4, lr=0.1)), AlexNet((2,) * 5, (4, 4)), s) for s in range(2)]
print(Lab(workers=2).run(trials)["status"].tolist())
"""
OWN = "class Mine(Scratch):\n    kind = 'mine'"


@pytest.mark.parametrize(
    ("code", "by_name"),
    [(UNGUARDED.format(before="", method="Scratch"), True), (UNGUARDED.format(before=OWN, method="Mine"), False)],
)
def test_what_workers_cannot_read_is_told_once(tmp_path, monkeypatch, code, by_name):
    """A script that runs trials wherever it is read; a method that only the main module, without a file, has."""
    monkeypatch.setenv("TRANSFERLAB_CACHE", str(tmp_path / "cache"))
    script = tmp_path / "study.py"
    script.write_text(code)
    command, given = ([sys.executable, str(script)], None) if by_name else ([sys.executable, "-"], code)
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("transferlab.errors.UserError: workers (=2): ended by themselves: each reads the script")
    assert 'below if __name__ == "__main__":' in last
    assert "in a module, not in a notebook" in last
    assert done.stderr.count("Traceback") == 1 or not by_name
    assert not list((tmp_path / "store").rglob("*.json"))
