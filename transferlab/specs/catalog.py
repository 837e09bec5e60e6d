"""Image sets and weights by name and fingerprint, without opening them. Nothing here imports torch.

Fingerprints are pinned in ``manifest.json`` beside this file, so that a clone without any data finds the published
records. Sets that a user adds or rebuilds are pinned in manifests of their own, which are asked first: beside the image
sets, where other machines find them, and in the cache, where they stay when another folder of image sets is named.
"""

import json
import os
import warnings
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path

from ..errors import DiskError, UserError, check, few, line, suggest
from ..paths import cache_root, data_root, elsewhere, weights_file, write_atomically

SYNTHETIC_FINGERPRINT = "world-1"
SYNTHETIC = {"fingerprint": SYNTHETIC_FINGERPRINT, "objects": {"fingerprint": "scenes-1", "boxes": {}}}
LIST = ".images.json"  # how the name of a file ends that lists images (see `data.readers.write_list`)
PLACED = ("folder:", "file:")  # how names begin that say where something lies, whatever the folder of image sets is


@cache
def packaged() -> dict[str, dict]:
    """Return the manifest of the published sets and weights, by name."""
    return json.loads(Path(__file__).with_name("manifest.json").read_text())


def manifests() -> list[Path]:
    """Return the user's own manifests, of which a later one goes before: beside the image sets; in the cache; there
    too, of what lies beside image sets where nothing can be written. Without a home there is the first one alone.
    """
    folder = data_root()
    paths = [folder / "manifest.json"]
    with suppress(UserError, RuntimeError):
        cache = cache_root()
        paths += [
            cache / "manifest.json",
            cache / f"manifest-{sha256(os.fsencode(folder.absolute())).hexdigest()[:8]}.json",
        ]
    return paths


def local_path(name: str = "") -> Path:
    """Return the manifest in which `name` is pinned: beside the image sets, if that folder can be written."""
    beside, *own = manifests()
    there = os.path.isdir(beside.parent)
    if there and os.access(beside.parent, os.W_OK):
        return beside
    return own[there and not name.startswith(PLACED)] if own else cache_root()  # which says what is missing


def local() -> dict[str, dict]:
    """Return what the user's own manifests hold, by name; empty if there are none."""
    return {name: entry for path in manifests() for name, entry in _read(path).items()}


def _read(path: Path) -> dict[str, dict]:
    try:
        found = json.loads(path.read_text("utf-8")) if os.path.isfile(path) else {}  # also in a home of somebody else
    except OSError as e:
        raise UserError(f"manifest (={path}): cannot be read ({e.strerror})") from e
    except ValueError as e:
        raise UserError(f"manifest (={path}): is no JSON; restore it, or delete it and pin the sets again") from e
    ours = isinstance(found, dict) and all(isinstance(e, dict) and "fingerprint" in e for e in found.values())
    check(ours, "manifest", path, "holds something else than pins; rename it, or name another folder of image sets")
    return found


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


def pinned(name: str, fingerprint: str = "") -> dict:
    """Return the manifest's entry for `name`: fingerprint, number of classes, images by split; of a set with objects
    that of its whole images, which is inside (``objects``), where the fingerprint is that one's.

    Raises
    ------
    UserError
        If the name is unknown, or a folder or torchvision set that was not pinned yet.
    """
    if name.startswith("synthetic:"):
        synthetic_distance(name)
    if entries := known(name):
        return entries.get(fingerprint) or [*entries.values()][-1]
    if name.startswith("folder:") and name.endswith(LIST):
        return listed(Path(name.removeprefix("folder:")))["pinned"]
    if name.startswith("file:"):
        weights_file(name)  # a file that is not there is not missing a pin
    if name.startswith(("folder:", "torchvision:", "file:")):
        raise UserError(f"data set (={name}): not pinned yet; pin it with: transferlab data pin {name}")
    legal = [*names(), "synthetic:DISTANCE", "folder:PATH", "torchvision:NAME"]
    raise UserError(f"data set (={name}): must be one of {', '.join(legal)}{suggest(name, legal)}")


def known(name: str) -> dict[str, dict]:
    """Return what is pinned under a name, by fingerprint: of a set with objects its whole images before it, and last
    what goes before the rest.
    """
    drawn = SYNTHETIC if name.startswith("synthetic:") else None
    entries = [entry for entry in (drawn, packaged().get(name), local().get(name)) if entry]
    inside = [entry["objects"] for entry in entries if "objects" in entry]
    found: dict[str, dict] = {}
    for entry in (*inside, *entries):
        found.pop(entry["fingerprint"], None)
        found[entry["fingerprint"]] = entry
    return found


@lru_cache(maxsize=4)
def listed(path: Path) -> dict:
    """Return a list of images, which says itself what is pinned; its name is that of its content.

    Raises
    ------
    UserError
        If it is not there, or no JSON.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as e:
        raise UserError(f"data set (={path}): cannot be read ({line(e)}); run what made it again") from e


def named(place: str, fingerprint: str) -> str:
    """Return the pinned name of a thing of which only the fingerprint is known: of several, one that is there.

    Parameters
    ----------
    place : {"folder:", "file:"}
        How the name begins; the fingerprint stands behind it where nothing like that is pinned here.
    fingerprint : str
    """
    entries = {n: (entry, entry.get("objects", {})) for n, entry in (packaged() | local()).items()}
    found = [n for n in entries if n.startswith(place) and fingerprint in [e.get("fingerprint") for e in entries[n]]]
    there = [n for n in found if os.path.exists(os.path.expanduser(n.removeprefix(place)))]
    return [*there, *found, place + fingerprint][0]


def pin(name: str, entry: dict) -> None:
    """Write an entry into the user's own manifests; one that equals the published entry replaces an own one.

    Raises
    ------
    DiskError
        If none of them can be written.
    """
    place, paths = local_path(name), manifests()
    for path in paths:
        wanted = path == place or (name.startswith(PLACED) and path in paths[1:2])
        try:
            _put(path, name, entry if wanted and entry != packaged().get(name) else None)
        except DiskError:
            if path == place:
                raise
    if local().get(name, packaged().get(name)) != entry:  # the published set, and others' manifest names another
        _put(paths[-1], name, entry)


def _put(path: Path, name: str, entry: dict | None) -> None:
    """Write an entry into a manifest, or remove it; what others write meanwhile stays."""
    if _read(path).get(name) != entry:
        with _alone(path):
            rest = {n: e for n, e in _read(path).items() if n != name}
            after = rest | ({name: entry} if entry else {})
            write_atomically(path, json.dumps(after, indent=1, sort_keys=True) + "\n")


@contextmanager
def _alone(path: Path):
    """Keep others from writing a file, by a lock beside it; where the file system has none, by one that is a file."""
    from filelock import FileLock, SoftFileLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings(action="ignore"):  # that it takes the other lock by itself
            try:
                lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=60)
                lock.acquire()
            except (OSError, NotImplementedError):
                lock = SoftFileLock(path.with_name(f".{path.name}.soft"), timeout=60)
                lock.acquire()
    except OSError as e:
        raise DiskError(f"manifest (={path}): cannot be written ({e.strerror or e}); {elsewhere(path)}") from e
    try:
        yield
    finally:
        lock.release()


def passed_over(passed: dict[str, list]) -> str:
    """Return in a few words what was passed over, from how many there are of each kind and their first names."""
    kinds = ", ".join(f"{kind} {count} ({names})" for kind, (count, names) in sorted(passed.items()))
    return f"passed over: {kinds}" if kinds else ""


def notes(entry: dict) -> list[str]:
    """Return what is to be said of a set besides its images: what was left out, and what is read in part."""
    skipped, several = entry.get("skipped", ()), entry.get("several")
    left = f"{len(skipped)} unreadable left out ({few(skipped)})" if skipped else ""
    first = f"{several} with several pictures, of which the first is read" if several else ""
    classes = f"classes {entry['named']}" if "named" in entry else ""
    none = "no test images: a source, and no target" if [*entry.get("splits", ())] == ["train"] else ""
    boxes = f"{sum(entry['boxes'].values()):,} objects, for multi-label and detection" if "boxes" in entry else ""
    found = [*filter(None, (classes, none, left, first, boxes, passed_over(entry.get("passed", {}))))]
    inner = entry.get("objects")
    return found + ([f"whole: {sum(inner['splits'].values()):,} images, {'; '.join(notes(inner))}"] if inner else [])
