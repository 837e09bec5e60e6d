"""The commit that is put on record: that of this project, or none."""

import os
import subprocess
from pathlib import Path

import pytest

from transferlab import __version__
from transferlab.run.devices import commit

NONE = f"transferlab {__version__}"


def git(folder: Path, *words: str) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    who = ["-c", "user.name=a", "-c", "user.email=b", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *who, *words], cwd=folder, env=clean, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def project(top: Path) -> Path:
    """Return the package of a project that is not yet under git."""
    (top / "transferlab").mkdir(parents=True)
    (top / "transferlab" / "__init__.py").touch()
    (top / "_toc.yml").touch()
    return top / "transferlab"


def committed(top: Path) -> str:
    git(top, "init", "--quiet")
    git(top, "add", ".")
    git(top, "commit", "--quiet", "--allow-empty", "-m", "first")
    return git(top, "rev-parse", "--short=12", "HEAD")


def test_its_own(tmp_path, monkeypatch):
    package = project(tmp_path / "a {b}")
    found = committed(package.parent)
    assert commit(package) == found
    (package / "__init__.py").write_text("changed")
    assert commit(package) == f"{found}+"
    other = project(tmp_path / "other")  # which a hook of another repository asks for
    committed(other.parent)
    monkeypatch.setenv("GIT_DIR", str(other.parent / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other.parent))
    assert commit(package) == f"{found}+"


def test_a_working_tree_beside_the_first(tmp_path):
    found = committed(project(tmp_path / "a").parent)
    git(tmp_path / "a", "worktree", "add", "--quiet", str(tmp_path / "b"))
    assert commit(tmp_path / "b" / "transferlab") == found


@pytest.mark.parametrize("place", ["site-packages", "vendored/project", "."])
@pytest.mark.parametrize("tracked", [True, False])
def test_inside_of_somebody_else_s(tmp_path, place, tracked):
    """Installed into an environment in another project, copied below it, or put into it without a commit."""
    (tmp_path / "theirs").touch()
    if not tracked:
        committed(tmp_path)
    package = project(tmp_path / place)
    if place == "site-packages":
        (package.parent / "_toc.yml").unlink()
    if tracked and place != ".":
        committed(tmp_path)
    assert commit(package) == NONE


def test_no_git(tmp_path, monkeypatch):
    package = project(tmp_path / "a")
    committed(package.parent)
    monkeypatch.setenv("PATH", "")
    assert commit(package) == NONE


def test_no_commit_yet(tmp_path):
    package = project(tmp_path / "a")
    git(package.parent, "init", "--quiet")
    assert commit(package) == NONE
