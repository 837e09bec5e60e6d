"""Image sets and weights by name and fingerprint, without opening them. Nothing here imports torch.

Fingerprints are pinned in ``manifest.json`` beside this file, so that a clone without any data finds the published
records. Sets that a user adds or rebuilds are pinned in a manifest of their own, which is asked first.
"""

import json
from contextlib import suppress
from functools import cache
from pathlib import Path

from ..errors import UserError, suggest
from ..paths import cache_root, data_root, weights_file, write_atomically

SYNTHETIC_FINGERPRINT = "world-1"


@cache
def packaged() -> dict[str, dict]:
    """Return the manifest of the published sets and weights, by name."""
    return json.loads(Path(__file__).with_name("manifest.json").read_text())


def local_path() -> Path:
    """Return the user's own manifest: beside the image sets where that folder exists, else in the cache."""
    folder = data_root()
    return (folder if folder.is_dir() else cache_root()) / "manifest.json"


def local() -> dict[str, dict]:
    """Return the user's own manifest, by name; empty if there is none."""
    path = local_path()
    try:
        return json.loads(path.read_text()) if path.is_file() else {}
    except ValueError as e:
        raise UserError(f"manifest (={path}): is no JSON; restore it, or delete it and pin the sets again") from e


def synthetic_distance(name: str) -> float | None:
    """Return the distance in ``synthetic:DISTANCE``, or ``None`` for ``synthetic:source``.

    Raises
    ------
    UserError
        If it is not a number from 0 to 1.
    """
    text = name.removeprefix("synthetic:")
    if text == "source":
        return None
    with suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise UserError(f"data set (={name}): must be synthetic:source or synthetic:D with D from 0 (near) to 1 (far)")


def names() -> list[str]:
    """Return every pinned name, published sets first."""
    return list(dict.fromkeys([*packaged(), *local()]))


def pinned(name: str) -> dict:
    """Return the manifest's entry for `name`: fingerprint, number of classes, images by split.

    Raises
    ------
    UserError
        If the name is unknown, or a folder or torchvision set that was not pinned yet.
    """
    if name.startswith("synthetic:"):
        synthetic_distance(name)
        return {"fingerprint": SYNTHETIC_FINGERPRINT}
    if entry := local().get(name) or packaged().get(name):
        return entry
    if name.startswith("file:"):
        weights_file(name)  # a file that is not there is not missing a pin
    if name.startswith(("folder:", "torchvision:", "file:")):
        raise UserError(f"data set (={name}): not pinned yet; pin it with: transferlab data pin {name}")
    known = [*names(), "synthetic:DISTANCE", "folder:PATH", "torchvision:NAME"]
    raise UserError(f"data set (={name}): must be one of {', '.join(known)}{suggest(name, known)}")


def named(place: str, fingerprint: str) -> str:
    """Return the pinned name of a thing of which only the fingerprint is known: of several, one that is there.

    Parameters
    ----------
    place : {"folder:", "file:"}
        How the name begins; the fingerprint stands behind it where nothing like that is pinned here.
    fingerprint : str
    """
    entries = packaged() | local()
    found = [n for n, entry in entries.items() if n.startswith(place) and entry["fingerprint"] == fingerprint]
    return max(found, key=lambda n: Path(n.removeprefix(place)).expanduser().exists(), default=place + fingerprint)


def pin(name: str, entry: dict) -> None:
    """Write an entry into the user's own manifest; one that equals the published entry replaces an own one."""
    before = local()
    after = {n: e for n, e in before.items() if n != name} | ({} if entry == packaged().get(name) else {name: entry})
    if after != before:
        write_atomically(local_path(), json.dumps(after, indent=1, sort_keys=True) + "\n")
