"""Where things are: the project, the data, the store and the cache. Nothing here imports torch."""

import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import IO

from .errors import DiskError, UserError, check

STANDS_FOR = {  # how a file begins that stands for another one, what it is, and what to do
    b"version https://git-lfs": ("a Git LFS pointer", "git lfs pull"),
    b"/annex/objects": ("a git-annex pointer", "git annex get"),
    b"<!doctype": ("a web page", "a download of the file itself"),
    b"<html": ("a web page", "a download of the file itself"),
}
LEFTOVER = 86_400  # seconds after which half-written files of the dead are removed


def project() -> Path:
    """Return the project's folder: the nearest one, from here upwards, that holds ``_toc.yml`` and ``notebooks``."""
    try:
        here = os.getcwd()
    except FileNotFoundError as e:
        raise UserError("folder (=.): is gone; change into one that is there") from e
    for folder in _upwards(here):
        if os.path.isfile(f"{folder}/_toc.yml") and os.path.isdir(f"{folder}/notebooks"):  # also if it may not be read
            return folder
    return _path(here)


_path = lru_cache(maxsize=64)(Path)  # of a few folders, for which every spec with an image set asks
_upwards = lru_cache(maxsize=8)(lambda here: (Path(here), *Path(here).parents, Path(__file__).parent.parent))


def _named(variable: str, *usual: Path | str) -> Path:
    folder = _path(*([named] if (named := os.environ.get(variable)) else usual))
    try:
        return folder.expanduser() if str(folder).startswith("~") else folder
    except RuntimeError as e:
        raise UserError(f"{variable} (={folder}): there is no such home folder; name one that can be written") from e


def data_root() -> Path:
    """Return the folder of image sets: ``$TRANSFERLAB_DATA``, or ``data`` in the project."""
    return _named("TRANSFERLAB_DATA", project(), "data")


def weights_root() -> Path:
    """Return the folder of weight files: ``$TRANSFERLAB_WEIGHTS``, or ``weights`` beside the image sets' folder."""
    return _named("TRANSFERLAB_WEIGHTS", data_root().parent / "weights")


def weights_file(name: str) -> Path:
    """Return the file of the weights called ``file:NAME`` or ``file:PATH``.

    Raises
    ------
    UserError
        If it is not there, is empty, or only stands for the file.
    """
    path = weights_root() / os.path.expanduser(name.removeprefix("file:"))
    rule = "there is no such file; set TRANSFERLAB_WEIGHTS to the folder of weight files"
    closed = os.path.isdir(path.parent) and not os.access(path.parent, os.X_OK)  # which reading says
    check(closed or os.path.exists(path), "weights", path, rule)
    return whole_file("weights", path)


def stands_for(head: bytes) -> tuple[str, str] | None:
    """Return what it is that stands for a file, and how to get that, if the file begins as such things do."""
    return next((told for begin, told in STANDS_FOR.items() if head[:64].lower().lstrip().startswith(begin)), None)


def whole_file(what: str, path: Path) -> Path:
    """Return the path of a file that is neither empty nor stands for another one.

    Raises
    ------
    UserError
        If it is, or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError as e:
        raise UserError(f"{what} (={path}): cannot be read ({e.strerror})") from e
    check(bool(head), what, path, "is empty; fetch it again")
    if told := stands_for(head):
        raise UserError(f"{what} (={path}): is {told[0]}, not the file itself; get that with: {told[1]}")
    return path


def file_fingerprint(path: Path) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def store_root() -> Path:
    """Return the folder of records and pretrained networks: ``$TRANSFERLAB_STORE``, or ``store`` in the project."""
    return _named("TRANSFERLAB_STORE", project(), "store")


def cache_root() -> Path:
    """Return the folder of decoded images: ``$TRANSFERLAB_CACHE``, or ``transferlab`` in ``$XDG_CACHE_HOME`` or
    ``~/.cache``.
    """
    return _named("TRANSFERLAB_CACHE", os.environ.get("XDG_CACHE_HOME") or "~/.cache", "transferlab")


def elsewhere(path: Path) -> str:
    """Return what to do where `path` cannot be written: the variable that names its folder, if there is one."""
    places = {"TRANSFERLAB_CACHE": cache_root, "TRANSFERLAB_STORE": store_root, "TRANSFERLAB_DATA": data_root}
    for variable, root in places.items():
        if path.absolute().is_relative_to(root().absolute()):
            return f"name another folder with {variable}"
    return "name another folder"


def writable(name: str, folder: Path) -> Path:
    """Create `folder` if need be and return it.

    Raises
    ------
    UserError
        If it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError("permission denied")
    except OSError as e:
        raise UserError(f"{name} (={folder}): cannot be written ({e.strerror or e}); {elsewhere(folder)}") from e
    return folder


def sweep(files: Iterable[Path], age: float = LEFTOVER) -> None:
    """Remove files that were written more than so many seconds ago, by somebody who was killed."""
    for path in files:
        with suppress(FileNotFoundError):  # its writer renamed it
            if time.time() - path.stat().st_mtime > age:
                path.unlink()


def write_atomically(path: Path, data: bytes | str | Callable[[IO[bytes]], object]) -> None:
    """Write a file so that at any moment it is either absent, old or whole.

    Parameters
    ----------
    path : Path
    data : bytes, str or callable
        What to write, or what writes it into an open file.

    Raises
    ------
    UserError
        If the disk is full or the folder cannot be written; what was there before stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")  # machines may share a folder
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            data(file) if callable(data) else file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as e:
        why = f"cannot be written ({e.strerror or e}); free the disk or {elsewhere(path)}"
        raise DiskError(f"file (={path}): {why}") from e
    finally:
        with suppress(OSError):  # it is there only if it was not put in place
            temporary.unlink()
