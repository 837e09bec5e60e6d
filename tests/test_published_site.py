"""What a public copy of the project brings: the workflow that publishes the book, and launch buttons."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import yaml

from transferlab import build

ROOT = Path(__file__).parent.parent


def test_the_workflow_is_sound_and_calls_targets_that_exist():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "pages.yml").read_text())
    assert "push" in workflow[True]  # YAML takes `on` for yes
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert workflow["jobs"]["deploy"]["needs"] in workflow["jobs"]
    used = [step["uses"] for step in steps if "uses" in step]
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in used)
    assert "secrets." not in (ROOT / ".github" / "workflows" / "pages.yml").read_text()
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = [word for step in steps for word in re.findall(r"\bmake (\w+)", step.get("run", ""))]
    assert called == ["book", "notebooks"]
    assert set(called) <= targets
    for script in (step["run"] for step in steps if "run" in step):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    (site,) = (step["with"]["path"] for step in steps if "upload-pages-artifact" in step.get("uses", ""))
    assert Path(site) == (build.build_folder() / "html").relative_to(build.project())


def test_launch_buttons_come_with_the_address_of_a_public_copy(tmp_path, monkeypatch):
    """That they do not come without it, the book's own pages show."""
    for folder in ("book", "notebooks", "transferlab"):
        (tmp_path / folder).mkdir()
    (tmp_path / "book" / "index.md").write_text("# A book\n")
    shutil.copytree(ROOT / "book" / "assets", tmp_path / "book" / "assets")
    shutil.copy(ROOT / "book" / "references.bib", tmp_path / "book")
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\nparts:\n- caption: One\n  chapters:\n  - file: notebooks/page\n"
    )
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    config["repository"]["url"] = "https://github.com/somebody/transferlab"
    (tmp_path / "_config.yml").write_text(yaml.safe_dump(config))
    page = tmp_path / "page.ipynb"
    head = (ROOT / "book" / "made.md").read_text().split("# ")[0]  # a kernel
    jupytext.write(jupytext.reads(f"{head}# A page\n\n```{{code-cell}}\n1\n```\n", "md:myst"), page)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(build.records, "write", lambda folder: folder.mkdir(parents=True))
    monkeypatch.setattr(build, "code_digest", str)
    staged = build.stage({"notebooks/page": page})
    command = [sys.executable, "-c", build.JUPYTER_BOOK, "build", str(staged), "--path-output", str(tmp_path), "-q"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "_build" / "html" / "notebooks" / "page.html").read_text()
    binder = "https://mybinder.org/v2/gh/somebody/transferlab/notebooks?urlpath=lab/tree/notebooks/page.ipynb"
    colab = "https://colab.research.google.com/github/somebody/transferlab/blob/notebooks/notebooks/page.ipynb"
    for link in (binder, colab):
        assert link in text
    assert "_sources/notebooks/page.ipynb" in text  # the page as a notebook, to keep
