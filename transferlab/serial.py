"""Frozen dataclasses that are values: canonical JSON, keys, kinds and versions. Nothing here imports torch."""

import hashlib
import json
from dataclasses import fields
from functools import cache, cached_property
from typing import ClassVar

from .errors import check, choose

KEY_DIGITS = 16


class Spec:
    """A frozen dataclass that goes to plain data and back.

    Subclasses carry a ``kind`` (their name in JSON) and may carry a ``version``, raised by hand when the results of
    the code behind them change.
    """

    kind: ClassVar[str]
    version: ClassVar[int | None] = None
    kinds: ClassVar[dict[str, type["Spec"]]] = {}

    def __init_subclass__(cls, kind: str, version: int | None = None) -> None:
        cls.kind, cls.version = kind, version
        Spec.kinds[kind] = cls

    def to_dict(self) -> dict:
        """Return the spec as plain data: kind, version and every field that is not ``None``."""
        head = {"kind": self.kind} | ({"version": self.version} if self.version is not None else {})
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return head | {k: _plain(v) for k, v in values.items() if v is not None}

    @staticmethod
    def from_dict(data: dict) -> "Spec":
        """Return the spec that :meth:`to_dict` described.

        Raises
        ------
        UserError
            If the kind is unknown or its version is not the one of this package.
        """
        data = dict(data)
        cls = Spec.kinds[choose("kind", data.pop("kind", None), Spec.kinds)]
        version = data.pop("version", None)
        check(version == cls.version, f"{cls.kind} version", version, f"this package has version {cls.version}")
        return cls(**{k: _spec(v) for k, v in data.items()})

    @cached_property
    def canonical(self) -> str:
        """`canonical` of `to_dict`, put together from the parts' own, which other specs share."""
        parts = ((name, getattr(self, name)) for name in _names(type(self)))
        return "{" + ",".join(f'"{name}":{_text(value)}' for name, value in parts if value is not None) + "}"

    @cached_property
    def key(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the canonical JSON."""
        return digest(self.canonical)


ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical(data: object) -> str:
    """Return `data` as JSON with sorted keys, no spaces and ASCII only."""
    return ENCODER.encode(data)


def digest(text: str) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]


@cache
def _names(cls: type[Spec]) -> list[str]:
    return sorted(["kind", "version", *(f.name for f in fields(cls))])


def _text(value: object) -> str:
    if isinstance(value, Spec):
        return value.canonical
    if type(value) is int:  # most values by far; `canonical` would give the same
        return repr(value)
    return "[" + ",".join(map(_text, value)) + "]" if isinstance(value, tuple) else canonical(value)


def _plain(value: object) -> object:
    if isinstance(value, Spec):
        return value.to_dict()
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _spec(value: object) -> object:
    if isinstance(value, dict):
        return Spec.from_dict(value)
    return tuple(_spec(v) for v in value) if isinstance(value, list) else value


def positive(name: str, value: object) -> None:
    """Check that a number counts something.

    Raises
    ------
    UserError
        If it is not a whole number above 0.
    """
    check(isinstance(value, int) and not isinstance(value, bool) and value > 0, name, value, "must be a whole number above 0")


def above_zero(spec: Spec, *names: str) -> None:
    """Check that fields, where they are given, are numbers above 0."""
    for name in names:
        value = getattr(spec, name)
        check(value is None or value > 0, name, value, "must be above 0")


def flags(spec: Spec, *names: str) -> None:
    """Check that fields are ``True`` or left out, so that there is one way to say no."""
    for name in names:
        check(getattr(spec, name) in (None, True), name, getattr(spec, name), "must be True or left out")
