"""Methods: one file each, found by being here. Nothing is imported with torch until a method is run."""

from importlib import import_module
from pkgutil import iter_modules

from ..specs import Method, Regulariser

for module in iter_modules(__path__):
    things = vars(import_module(f"{__name__}.{module.name}"))
    globals().update({n: t for n, t in things.items() if isinstance(t, type) and issubclass(t, Method | Regulariser)})
