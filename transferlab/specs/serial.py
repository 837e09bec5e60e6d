"""Frozen dataclasses that are values: canonical JSON, keys, kinds and versions. Nothing here imports torch."""

import hashlib
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property, lru_cache
from typing import Any, ClassVar

from ..errors import check, choose

KEY_DIGITS = 16


class Spec:
    """A frozen dataclass that goes to plain data and back.

    Subclasses carry a ``kind`` (their name in JSON; bases of others have none) and may carry a ``version``, raised by
    hand when the results of the code behind them change.
    """

    kind: ClassVar[str]
    version: ClassVar[int | None] = None
    kinds: ClassVar[dict[str, type["Spec"]]] = {}
    aside: tuple[str, ...] = ()  # the names of the fields that do not tell this value from others

    def __init_subclass__(cls, kind: str | None = None, version: int | None = None) -> None:
        if kind:
            cls.kind, cls.version = kind, version
            Spec.kinds[kind] = cls
            if hasattr(cls, "__post_init__"):
                cls.__post_init__ = _for_each_choice(cls.__post_init__)

    def to_dict(self) -> dict:
        """Return the spec as plain data: kind, version and every field that is neither ``None`` nor empty."""
        return {name: _plain(value) for name, value in self._parts()}

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
        return cls(**{k: of_plain(v) for k, v in data.items()})

    @cached_property
    def canonical(self) -> str:
        """`canonical` of `to_dict`, put together from the parts' own, which other specs share."""
        return "{" + ",".join([f'"{name}":{_text(value)}' for name, value in self._parts()]) + "}"

    @cached_property
    def searched(self) -> dict[tuple[str, ...], "OneOf"]:
        """The fields that are to be chosen, here and in specs inside, by the names that lead to them."""
        found: dict[tuple[str, ...], OneOf] = {}
        for name in _fields(type(self)):
            value = getattr(self, name)
            if isinstance(value, OneOf):
                found[name,] = value
            elif isinstance(value, Spec):
                found |= {(name, *path): options for path, options in value.searched.items()}
        return found

    def _parts(self) -> list[tuple[str, object]]:
        names = _ordered(type(self), self.aside)
        return [(name, value) for name in names if (value := getattr(self, name)) or value not in (None, ())]

    @cached_property
    def key(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the canonical JSON."""
        return digest(self.canonical)


@dataclass(frozen=True, init=False)
class OneOf(Spec, kind="one-of"):
    """Values of a field among which a search chooses, by mean validation accuracy over some seeds; of equals the first.

    Parameters
    ----------
    *options
        In the order in which they win ties.
    seeds : tuple of int
        Those that decide.
    later : bool, optional
        Searched when what is not `later` has been chosen, by trials that have the first of these values.
    """

    options: tuple[Any, ...]
    seeds: tuple[int, ...]
    later: bool | None

    def __init__(
        self,
        *given: Any,
        options: tuple[Any, ...] = (),
        seeds: tuple[int, ...] = (0, 1, 2, 3),
        later: bool | None = None,
    ) -> None:
        options = given or tuple(options)
        check(len(set(options)) == len(options) > 1, "options", options, "must be two different values or more")
        check(bool(seeds), "seeds", seeds, "must name those that decide")
        object.__setattr__(self, "options", options)
        object.__setattr__(self, "seeds", tuple(seeds))
        object.__setattr__(self, "later", later)
        flags(self, "later")


def components_of(value: float | str | None) -> float:
    """Return a number of principal components: 0 for ``all`` and for ``None``, below 1 for a share of the variance.

    Raises
    ------
    UserError
        If it is none of these.
    """
    if value in (None, "all"):
        return 0
    whole = isinstance(value, int) and value > 0
    fits = whole or (isinstance(value, float) and 0 < value < 1)
    check(fits, "components", value, "must be all, a whole number above 0, or a share of the variance below 1")
    return value


def _for_each_choice(check_fields: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return what checks the fields of a spec with each choice of what is searched in it."""

    def check_each(self: Spec) -> None:
        here = {(name,): of for name in _fields(type(self)) if isinstance(of := getattr(self, name), OneOf)}
        if not here:
            check_fields(self)
            return
        first, *_ = [filled(self, choice) for choice in combinations(here)]
        for name in {*_fields(type(self))} - {name for (name,) in here}:
            object.__setattr__(self, name, getattr(first, name))

    return check_each


def each(value: object) -> tuple:
    """Return the values of a field: one, or those of a search."""
    return value.options if isinstance(value, OneOf) else (value,)


def cell(value: object) -> object:
    """Return a field's value for a table: several as ``64+128``, none for what a search is still to choose."""
    if isinstance(value, Spec):
        return None if isinstance(value, OneOf) else getattr(value, "label", getattr(value, "name", value.kind))
    return "+".join(str(cell(v)) for v in value) if isinstance(value, tuple) else value


def filled(spec: Spec, chosen: dict[tuple[str, ...], Any]) -> Spec:
    """Return a spec with values in place of the fields that `Spec.searched` names."""
    parts: dict[str, dict] = {}  # all at once: each copy of a spec is checked with every choice that is left
    for (name, *inside), value in chosen.items():
        parts.setdefault(name, {})[tuple(inside)] = value
    return replace(spec, **{n: its[()] if () in its else filled(getattr(spec, n), its) for n, its in parts.items()})


def combinations(options: dict[tuple[str, ...], OneOf]) -> list[dict[tuple[str, ...], Any]]:
    """Return every choice, in the order in which they win ties."""
    every = itertools.product(*(of.options for of in options.values()))
    return [dict(zip(options, values, strict=True)) for values in every]


ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical(data: object) -> str:
    """Return `data` as JSON with sorted keys, no spaces and ASCII only."""
    return ENCODER.encode(data)


def digest(text: str) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]


@cache
def _ordered(cls: type[Spec], aside: tuple[str, ...]) -> list[str]:
    return sorted({"kind", "version", *_fields(cls)} - {*aside})


@cache
def _fields(cls: type[Spec]) -> list[str]:
    return [f.name for f in fields(cls)]


_simple = lru_cache(maxsize=10_000)(canonical)


def _text(value: object) -> str:
    if type(value) in (str, int):  # most values by far, and the same ones
        return _simple(value)
    if isinstance(value, Spec):
        return value.canonical
    return "[" + ",".join(map(_text, value)) + "]" if isinstance(value, tuple) else canonical(value)


def _plain(value: object) -> object:
    if isinstance(value, Spec):
        return value.to_dict()
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def of_plain(value: object) -> object:
    """Return what plain data stands for: tables are specs, lists are tuples."""
    if isinstance(value, dict):
        return Spec.from_dict(value)
    return tuple(of_plain(v) for v in value) if isinstance(value, list) else value


def positive(name: str, value: object) -> None:
    """Check that a number counts something.

    Raises
    ------
    UserError
        If it is not a whole number above 0.
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    check(whole and value > 0, name, value, "must be a whole number above 0")


def above_zero(spec: Spec, *names: str) -> None:
    """Check that fields, where they are given, are numbers above 0."""
    for name in names:
        value = getattr(spec, name)
        check(value is None or value > 0, name, value, "must be above 0")


def flags(spec: Spec, *names: str) -> None:
    """Check that fields are ``True`` or left out, so that there is one way to say no."""
    for name in names:
        check(getattr(spec, name) in (None, True), name, getattr(spec, name), "must be True or left out")
