"""Make the book: execute its pages through papermill into ``_build``, then hand them to Jupyter Book.

Executed pages are staged under ``_build/stage``, never beside their sources. A page is executed again only if its text,
the chapters that it asks, the package, the published records or its parameters have changed.
"""

import hashlib
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import chapters, records
from .errors import UserError, check
from .paths import project, writable, write_atomically
from .report.figure import BOOK
from .store import Published

TIMEOUTS = {"execution_timeout": 900, "start_timeout": 180}  # seconds: of a cell, of a kernel on a busy machine
KERNEL = {"kernel_name": "python3", "language": "python"}
QUIET = {"extra_arguments": ["--log-level=CRITICAL"]}  # errors of cells come as outputs
NEEDS = "install the book's needs: pip install 'transferlab[book]'"
JUPYTER_BOOK = "from jupyter_book.cli.main import main; main()"
STRICT = ("-W", "--keep-going", "-q")  # a warning fails the build
ONE_WORKER = {"workers": 1}  # for a page's live part: pages are executed two at a time
CHAPTER = re.compile(r'\bchapter\("(\w+)"\)')  # a page that asks for one by name
ASKS_ALL = re.compile(r"^(?:from|import) transferlab.*\b(?:chapters|publish)\b(?! import chapter$)", re.MULTILINE)
CARD = re.compile(r'tl-verdict-head\\">.{,4}<span class=\\"tl-badge tl-([\w-]+)')  # in an executed page, as JSON
IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", ".ipynb_checkpoints")


def build_folder() -> Path:
    """Return ``_build`` of the project."""
    return project() / "_build"


def digest(paths: list[Path]) -> str:
    """Return a hash over the names and contents of files."""
    files = {p.relative_to(project()).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(paths)}
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


@cache
def code_digest() -> str:
    """Return a hash over everything that all executed pages depend on."""
    root = project()
    kinds = (".py", ".json", ".toml", ".txt", ".csv", ".jinja")
    files = [p for p in (root / "transferlab").rglob("*") if p.suffix in kinds]
    return digest([*files, *(root / "results").rglob("*.jsonl")])


def notebooks_asked(text: str) -> list[Path]:
    """Return the notebooks that a page depends on: of the chapters that it names, or all if it asks for all."""
    known = chapters.chapters()
    named = known if ASKS_ALL.search(text) else CHAPTER.findall(text)
    return [known[name].path for name in named if name in known]


def page_stamp(source: Path, parameters: dict[str, Any]) -> str:
    """Return a hash over everything that an executed page depends on."""
    text = source.read_text("utf-8")
    parts = [text, code_digest(), digest(notebooks_asked(text)), parameters, sys.version]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def stamped(file: Path, stamp: str) -> bool:
    """Whether a file holds a stamp."""
    return file.is_file() and file.read_text() == stamp


def pages() -> dict[str, Path]:
    """Return the pages of the book that hold code cells, by their name in the table of contents; no drafts."""
    root = project()
    found = [*(c.path for c in chapters.chapters().values() if not c.draft), *(root / "book").glob("*.md")]
    run = (p for p in sorted(found) if "{code-cell}" in p.read_text("utf-8"))
    return {p.relative_to(root).with_suffix("").as_posix(): p for p in run}


def page_parameters(name: str) -> dict[str, Any]:
    """Return what a page is executed with: a chapter, its largest published scale and the seeds complete there."""
    if not name.startswith("notebooks/"):
        return {}
    subject = chapters.chapter(name.removeprefix("notebooks/"))
    for scale in reversed(chapters.PUBLISHED_SCALES):
        if Published().path(scale, subject.name).is_file() and (seeds := chapters.status(subject, scale).seeds):
            return {"scale": scale, "seeds": ",".join(map(str, seeds)), "run": "never"} | ONE_WORKER
    return {"scale": "smoke", "seeds": "0,1", "run": "missing"} | ONE_WORKER


def execute(source: Path, target: Path, parameters: dict[str, Any]) -> float:
    """Execute a MyST notebook through papermill, by this Python, and return the seconds it took.

    The result is written under another name and then renamed: what stands at `target` is a whole run.

    Raises
    ------
    UserError
        If a cell fails: the page, the cell and the last line of the error.
    """
    for package in ("jupytext", "papermill", "ipykernel"):
        check(find_spec(package) is not None, package, "missing", NEEDS)
    import jupytext
    import papermill
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from nbclient.exceptions import CellTimeoutError
    from papermill.exceptions import PapermillExecutionError

    class Kernel(AsyncKernelManager):
        kernel_spec = KernelSpec(**get_kernel_dict())  # of this Python, whatever a person's python3 may be

    began = time.perf_counter()
    notebook = jupytext.read(source)
    writable("build folder", target.parent)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.ipynb")
    options = KERNEL | QUIET | TIMEOUTS | {"cwd": str(project()), "progress_bar": False, "kernel_manager_class": Kernel}
    place = str(temporary).replace("{", "{{").replace("}", "}}")  # papermill fills in what stands in braces
    try:
        papermill.execute_notebook(notebook, place, parameters, **options)
    except (CellTimeoutError, RuntimeError) as e:  # a kernel that died, or did not start
        why = (str(e).strip() or type(e).__name__).splitlines()[0]
        raise UserError(f"page (={source.name}): {why}; see {temporary}") from e
    except OSError as e:
        what = f"{e.strerror or e}{f': {e.filename}' if e.filename else ''}"
        why = f"cannot be written ({what}); free the disk or name another folder"
        raise UserError(f"page (={target}): {why}") from e
    except PapermillExecutionError as e:
        why = f"{e.ename}: {(str(e.evalue).strip().splitlines() or [''])[-1]}"
        raise UserError(f"page (={source.name}): cell {e.exec_count} failed ({why}); see {temporary}") from None
    os.replace(temporary, target)
    return time.perf_counter() - began


def _quiet() -> None:
    os.environ[BOOK] = "1"
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    import logging

    logging.getLogger("papermill").setLevel(logging.ERROR)


def execute_pages(say: Callable[[str], None]) -> dict[str, Path]:
    """Execute every page that is not up to date, and return the executed notebooks by page."""
    _quiet()
    done, jobs = {}, {}
    for name, source in pages().items():
        parameters = page_parameters(name)
        done[name] = build_folder() / "executed" / f"{name}.ipynb"
        stamp, stamp_file = page_stamp(source, parameters), done[name].with_suffix(".stamp")
        if not (done[name].is_file() and stamped(stamp_file, stamp)):
            jobs[name] = (source, done[name], parameters, stamp_file, stamp)
    others_first = sorted(jobs, key=lambda n: n.startswith("notebooks/"))  # while toys are trained
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), _quiet) as pool:
        toys = pool.submit(chapters.train_toys, [Path(n).name for n in jobs if n.startswith("notebooks/")])
        futures = {name: pool.submit(execute, *jobs[name][:3]) for name in others_first}
        for name, future in futures.items():
            seconds = future.result()
            write_atomically(jobs[name][3], jobs[name][4])
            values = " ".join(f"{k}={v}" for k, v in jobs[name][2].items())
            say(f"executed {name}{' with ' * bool(values)}{values} ({seconds:.0f} s)")
        toys.result()
    return done


def stage(executed: dict[str, Path]) -> Path:
    """Copy the book's sources and executed pages into one folder, execution switched off, and return it."""
    import yaml

    root, target = project(), build_folder() / "stage"
    shutil.rmtree(target, ignore_errors=True)
    for name in ("book", "transferlab"):
        shutil.copytree(root / name, target / name, ignore=IGNORED)
    shutil.copy2(root / "_toc.yml", target)
    asked, stamp_file = [c.path for c in chapters.chapters().values()], build_folder() / "records.stamp"
    if not stamped(stamp_file, stamp := code_digest() + digest(asked)):
        records.write(build_folder() / "records")
        write_atomically(stamp_file, stamp)
    shutil.copytree(build_folder() / "records", target / "book" / "assets" / "records")
    config = yaml.safe_load((root / "_config.yml").read_text("utf-8")) | {"execute": {"execute_notebooks": "off"}}
    if config["repository"]["url"]:  # the theme's options stand for all that Jupyter Book would make of these
        about = {f"repository_{what}": value for what, value in config["repository"].items()}
        config["sphinx"]["config"]["html_theme_options"] |= about | {"launch_buttons": config["launch_buttons"]}
    words = {name: CARD.findall(path.read_text("utf-8")) for name, path in executed.items()}
    config["sphinx"]["config"]["html_context"]["verdicts"] = {
        k: [w.replace("-", " ") for w in v] for k, v in words.items() if v
    }
    (target / "_config.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    for name, path in executed.items():
        (target / name).with_suffix(".md").unlink(missing_ok=True)
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        page = json.loads(path.read_text("utf-8"))
        for cell in page["cells"]:
            if "injected-parameters" in cell["metadata"].get("tags", []):
                cell["metadata"]["tags"].append("remove-cell")
        (target / name).with_suffix(".ipynb").write_text(json.dumps(page))
    return target


def build(say: Callable[[str], None] = print) -> Path:
    """Make the book and return its first page.

    Raises
    ------
    UserError
        If this is not the project's folder, a page fails, or Jupyter Book warns of anything.
    """
    root = project()
    check((root / "_toc.yml").is_file(), "folder", root, "is not the project: there is no _toc.yml")
    check(find_spec("jupyter_book") is not None, "jupyter-book", "missing", NEEDS)
    for line in concerns():
        say(line)
    staged = stage(execute_pages(say))
    first, stamp_file = root / "_build" / "html" / "book" / "index.html", build_folder() / "html.stamp"
    stamp = digest([p for p in staged.rglob("*") if p.is_file()])
    if first.is_file() and stamped(stamp_file, stamp):
        say("the book is up to date")
        return first
    began = time.perf_counter()
    command = [sys.executable, "-c", JUPYTER_BOOK, "build", str(staged), "--path-output", str(root), *STRICT]
    log = build_folder() / "sphinx.log"
    done = subprocess.run(command, cwd=root, capture_output=True, encoding="utf-8", errors="replace", check=False)
    log.write_text(done.stdout + done.stderr, "utf-8")
    if done.returncode:
        told = re.findall(r"^.*(?:WARNING|ERROR|Error).*$", log.read_text("utf-8"), re.MULTILINE) or ["failed"]
        raise UserError(f"jupyter-book (={done.returncode}): {told[0].strip()}; all of it in {log}")
    write_atomically(stamp_file, stamp)
    say(f"built {first} ({time.perf_counter() - began:.0f} s)")
    return first


def rebuild(pause: float = 1.0) -> None:
    """Build the book, in a process of its own, whenever a file that it is made of has changed; without end."""
    parts = [project() / name for name in ("book", "notebooks", "results", "transferlab", "_toc.yml", "_config.yml")]
    before = None
    while True:
        with suppress(FileNotFoundError):  # an editor's file that has gone meanwhile
            files = [p for part in parts for p in (part, *part.rglob("*.*")) if p.is_file() and p.suffix != ".pyc"]
            now = {p: p.stat().st_mtime_ns for p in files}
            if before and now != before:
                subprocess.run([sys.executable, "-m", "transferlab", "build"], cwd=project(), check=False)
            before = now
        time.sleep(pause)


def concerns() -> list[str]:
    """Return a line for each chapter whose published records are stale or missing, with the command that mends it."""
    lines = []
    for subject in chapters.chapters().values():
        at = [scale for scale in chapters.PUBLISHED_SCALES if Published().path(scale, subject.name).is_file()]
        states = [chapters.status(subject, scale) for scale in at]
        told = "{0.chapter} at scale {0.scale}: {0.stale} stale records; mend with: {0.command}"
        lines += [told.format(s) for s in states if s.stale]
        if not any(s.seeds for s in states):
            shown = "not yet in the table of contents" if subject.draft else "shown at smoke"
            mend = f"publish with: {subject.command('cpu')}"
            lines.append(f"{subject.name}: no seed is published at any scale, {shown}; {mend}")
    return lines
