"""Pins of image sets: every image is looked at, and what a set is goes into a manifest."""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

from PIL import Image

from ..cores import cpu_workers
from ..errors import UserError, check, few
from ..paths import file_fingerprint, weights_file
from ..specs import catalog
from ..specs.serial import digest
from .decoding import TooLargeError, several
from .opened import Item, Opened, counted
from .readers import open_set


class Looked(NamedTuple):
    """What a look at every image of a set found: ``split/path`` of those that are unreadable, with the reason, and how
    many files hold several pictures.
    """

    bad: dict[str, UserError]
    several: int


def look(opened: Opened, each: Callable[[str, Image.Image], object] | None = None) -> Looked:
    """Decode every image of a set; `each` is given the ``split/path`` and the picture of those that can be read."""

    def trouble(name: str, item: Item) -> tuple[UserError | None, bool]:
        try:
            content = item.content()  # once: files may be large, or far away
            picture = item._replace(load=lambda: content).image()
            if each:
                each(name, picture)
        except UserError as e:
            return e, False
        return None, several(content)

    found = [(f"{split}/{item.path}", item) for split, items in opened.splits.items() for item in items]
    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor(cpu_workers(1)) as pool:
        looked = list(pool.map(trouble, *zip(*found, strict=True)))
    bad = {name: error for (name, _), (error, _) in zip(found, looked, strict=True) if error}
    return Looked(bad, sum(more for _, more in looked))


def readable(
    opened: Opened, skip_unreadable: bool, each: Callable[[str, Image.Image], object] | None = None
) -> tuple[Opened, Looked]:
    """Return a set without its unreadable images, and what a `look` at all of them found.

    Raises
    ------
    UserError
        If images are unreadable and may not be skipped, or one class or split has no others.
    """
    looked = look(opened, each)
    check(not looked.bad or skip_unreadable, "data set", opened.name, _unreadable(looked.bad))
    return opened.without({*looked.bad}), looked


def _unreadable(bad: dict[str, UserError]) -> str:
    """Return the rule that unreadable images break: those that are too large apart, and how to have them."""
    large = [name for name, error in bad.items() if isinstance(error, TooLargeError)]
    broken = [name for name in bad if name not in large]
    rules, why = [], ""
    if broken:
        rules.append(f"{len(broken)} unreadable image{'s' * (len(broken) > 1)} ({few(broken)})")
        why = f"; {broken[0]}: {str(bad[broken[0]]).partition('): ')[2]}"
    if large:
        most = max((str(bad[name]).rpartition("allow it with ")[2] for name in large), key=lambda v: (len(v), v))
        rules.append(f"{len(large)} too large ({few(large)}; allow with {most})")
    return f"{', '.join(rules)}; leave out with --skip-unreadable{why}"


def pin(name: str, skip_unreadable: bool = False, columns: dict[str, str] | None = None) -> dict:
    """Open a set, check every image, and write its fingerprint into the user's manifest.

    Parameters
    ----------
    name : str
        As in `open_set`; also ``file:NAME`` for weights, whose file is not looked into.
    skip_unreadable : bool
        Leave unreadable images out (their names are kept in the manifest).
    columns : dict, optional
        Of Parquet files, the columns called ``image`` and ``label`` here: kept in the manifest, and read from there by
        default.

    Returns
    -------
    dict
        The manifest's entry.

    Raises
    ------
    UserError
        If images are unreadable and may not be skipped, or as `open_set`.
    """
    if name.startswith("file:"):
        entry = {"fingerprint": file_fingerprint(weights_file(name))}
    else:
        columns = columns or catalog.local().get(name, {}).get("columns")
        entry = _looked_at(name, skip_unreadable, columns)
    catalog.pin(name, entry)
    return entry


def _looked_at(name: str, skip_unreadable: bool, columns: dict[str, str] | None) -> dict:
    """Return a manifest entry; that of whole images, where boxes of objects make no set of images with labels."""

    def entry(opened: Opened) -> dict:
        opened, looked = readable(opened, skip_unreadable)
        more = {"skipped": [*looked.bad], "several": looked.several, "columns": columns}
        return describe(opened) | {what: value for what, value in more.items() if value}

    try:
        opened = open_set(name, columns)
    except UserError as e:
        with suppress(UserError):
            return entry(open_set(name, columns, objects=True))
        raise e from None
    boxes = any(item.box for items in opened.splits.values() for item in items)
    return entry(opened) | ({"objects": entry(open_set(name, columns, objects=True))} if boxes else {})


def describe(opened: Opened) -> dict:
    """Return a manifest entry: fingerprint, number of classes, images by split, and a hash over the images' names; and
    of what was passed over, if anything was, how many there are of each kind and the first names.
    """
    splits = {s: len(items) for s, items in opened.splits.items()}
    names = names_digest({s: [i.path for i in items] for s, items in opened.splits.items()})
    entry = {"fingerprint": opened.fingerprint(), "classes": len(opened.classes), "splits": splits, "names": names}
    boxes = {s: sum(len(i.objects) for i in items) for s, items in opened.splits.items() if opened.annotated}
    entry |= {"boxes": boxes} if boxes else {}
    entry |= {"named": few(opened.classes, 5)} if opened.name.startswith("folder:") else {}  # they may be others' names
    return entry | ({"passed": passed} if (passed := counted(opened.passed)) else {})


def names_digest(names: dict[str, list[str]]) -> str:
    """Return 16 hexadecimal digits over the names of a set's images by split, in any order."""
    return digest("\n".join(sorted(f"{split}/{name}" for split, paths in names.items() for name in paths)))
