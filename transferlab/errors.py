"""One-line errors, the only kind a user of the package should ever meet."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType


class UserError(ValueError):
    """Something the user asked for cannot be done; the message is one line that says what would be legal."""


class DiskError(UserError):
    """A file cannot be written: the same command goes on when it can."""


class RefusedError(UserError):
    """Some trials of a study ask for what is not there; the others were run."""


def line(e: BaseException) -> str:
    """Return what an exception says, with its kind, in a line."""
    return " ".join(f"{type(e).__name__}: {e}".split())[:200]


def plain(text: str) -> str:
    """Return text as one line that every terminal can be sent."""
    words = " ".join(text.encode(errors="backslashreplace").decode().split())
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in words)


def torchvision(part: str) -> ModuleType:
    """Return a part of torchvision, imported where it is needed: that takes as long as importing torch.

    Raises
    ------
    UserError
        If torch and torchvision do not fit together.
    """
    try:
        return import_module(f"torchvision.{part}")
    except RuntimeError as e:
        pair = "pip uninstall -y torch torchvision, then install the matching pair from one source"
        check("torchvision::" not in str(e), "torch and torchvision", line(e), f"are not a pair; {pair}")
        raise


def few(names: Sequence[str], shown: int = 3) -> str:
    """Return the first few of some names."""
    return ", ".join(names[:shown]) + (" ..." if len(names) > shown else "")


def suggest(value: object, legal: Iterable[str]) -> str:
    """Return ``"; did you mean x?"`` for the legal value closest to `value`, or an empty string."""
    close = get_close_matches(str(value), list(legal), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def check(ok: bool, name: str, value: object, rule: str) -> None:
    """Raise ``name (=value): rule`` unless `ok`.

    Raises
    ------
    UserError
        If `ok` is false.
    """
    if not ok:
        raise UserError(f"{name} (={value}): {rule}")


def choose(name: str, value: object, legal: Iterable[str], listed: int = 12) -> str:
    """Return `value` if it is one of `legal`.

    Raises
    ------
    UserError
        Naming the legal values (the first `listed` of them) and the closest one.
    """
    legal = list(legal)
    if value in legal:
        return value
    shown = ", ".join(map(str, legal[:listed])) + (f" and {len(legal) - listed} more" if len(legal) > listed else "")
    raise UserError(f"{name} (={value}): must be one of {shown or '(none)'}{suggest(value, map(str, legal))}")
