"""Methods: one file each, found by being here. Nothing is imported with torch until a method is run."""

from importlib import import_module
from pkgutil import iter_modules

from ..specs import Method, Regulariser


def _found() -> dict[str, type]:
    """Return every method and regulariser of this folder by name."""
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    things = (thing for module in modules for thing in vars(module).values() if isinstance(thing, type))
    return {t.__name__: t for t in things if issubclass(t, Method | Regulariser) and t not in (Method, Regulariser)}


globals().update(_found())
