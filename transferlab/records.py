"""Every published record has an address, its key: what it is of, where it comes from, what makes it again. No torch."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import chapters
from .errors import check, choose
from .lab import Lab
from .paths import write_atomically
from .specs import Trial
from .specs.serial import canonical
from .store import Published

PLAIN = ("kind", "seed", "version")  # of a trial's fields; pages write the others by their place in a list


def trials(subject: chapters.Chapter, scale: str, lab: Lab | None = None) -> dict[str, Trial]:
    """Return the trials that stand behind a chapter's page by key: of searches, and what these chose as far as known."""
    lab = lab or Lab(run="never", published=Published().read(scale, subject.name))
    return {trial.key: trial for trial in lab.closure(subject.shown(scale))}


def places() -> Iterator[tuple[chapters.Chapter, str]]:
    """Yield the chapters with the scales at which they have published records."""
    for subject in chapters.chapters().values():
        yield from ((subject, s) for s in chapters.PUBLISHED_SCALES if Published().path(s, subject.name).is_file())


def record(key: str) -> dict[str, Any]:
    """Return a published record with its trial, the chapters that show it, and the command that makes it again.

    Raises
    ------
    UserError
        If no published record has this key (did you mean).
    """
    known = Published().read()
    found = known[choose("key", key, known, listed=2)]
    shown = [(c, s) for c, s in places() if key in Published().read(s, c.name)]
    subject, scale = shown[0]
    made = trials(subject, scale).get(key)
    check(made is not None, "key", key, f"is stale: {subject.name} asks for it no more; see transferlab status")
    about = {"trial": made.to_dict(), "shown in": [f"{s}/{c.name}" for c, s in shown]}
    return found | about | {"command": f"{subject.command(scale)} --key {key}"}


def shards() -> dict[str, Any]:
    """Return what the page *One record* reads: rows by the first two digits of the key, and what rows share.

    A row holds label, status, seconds, numbers measured, how many lists are left out, provenance, chapters and trial.
    """
    shared, rows = {"parts": {}, "provenance": {}, "places": {}}, {}

    def number(of: str, value: Any) -> int:
        return shared[of].setdefault(canonical(value), len(shared[of]))

    for subject, scale in places():
        published, known = Published().read(scale, subject.name), trials(subject, scale)
        for key in sorted(published.keys() & known.keys()):  # what is stale is named by `chapters.status`
            found = published[key]
            spec = {k: v if k in PLAIN else number("parts", v) for k, v in known[key].to_dict().items()}
            numbers = {k: v for k, v in found["metrics"].items() if not isinstance(v, list | dict)}
            left = len(found["metrics"]) - len(numbers)
            row = [found["label"], found["status"], found["seconds"], numbers, left]
            row += [number("provenance", found["provenance"]), [], spec]
            rows.setdefault(key[:2], {}).setdefault(key, row)[6].append(number("places", f"{scale}/{subject.name}"))
    return {"shared": {of: list(map(json.loads, texts)) for of, texts in shared.items()}, **dict(sorted(rows.items()))}


def write(folder: Path) -> None:
    """Write the records as scripts: a page that was opened from disk may read nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in shards().items():
        write_atomically(folder / f"{name}.js", f'tlRecords("{name}", {canonical(rows)});\n')
