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

AS_IT_IS = ("kind", "seed", "version")  # of a trial's fields; pages write the others by their place in a list


def trials(subject: chapters.Chapter, scale: str, lab: Lab | None = None) -> dict[str, Trial]:
    """Return the trials behind a chapter's page by key: those of searches, and what these chose as far as known."""
    return {trial.key: trial for trial in (lab or subject.lab(scale)).closure(subject.shown(scale))}


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


def write(folder: Path) -> None:
    """Write the records as scripts, by the first two digits of their keys: a page from disk may read nothing else.

    A row: label, status, seconds, numbers measured, how many lists are left out, provenance, chapters, trial. What rows
    share stands once, in ``shared.js``, and is named by its place there. Records that are stale are left out.
    """
    shared, rows = {"parts": {}, "provenance": {}, "places": {}}, {}

    def number(of: str, value: Any) -> int:
        return shared[of].setdefault(canonical(value), len(shared[of]))

    for subject, scale in places():
        published, known = Published().read(scale, subject.name), trials(subject, scale)
        for key in sorted(published.keys() & known.keys()):
            found, trial = published[key], known[key].to_dict()
            numbers = {k: v for k, v in found["metrics"].items() if not isinstance(v, list | dict)}
            row = [found["label"], found["status"], found["seconds"], numbers, len(found["metrics"]) - len(numbers)]
            row += [number("provenance", found["provenance"]), []]
            row += [{k: v if k in AS_IT_IS else number("parts", v) for k, v in trial.items()}]
            rows.setdefault(key[:2], {}).setdefault(key, row)[6].append(number("places", f"{scale}/{subject.name}"))
    folder.mkdir(parents=True, exist_ok=True)
    for name, told in {"shared": {of: [*map(json.loads, texts)] for of, texts in shared.items()}, **rows}.items():
        write_atomically(folder / f"{name}.js", f'tlRecords("{name}", {canonical(told)});\n')
