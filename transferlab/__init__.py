"""transferlab: the training and analysis behind an interactive book on how visual knowledge transfers."""

import os
from typing import Any

__version__ = "0.1.0"

if os.path.expanduser("~") == "~":  # nobody knows where home is: libraries that ask would fail when they are imported
    os.environ["HOME"] = os.devnull  # in which nothing can be kept


def __getattr__(name: str) -> Any:
    """Import what a user asks for by name, when it is asked for: it imports torch."""
    if name == "FineTuner":
        from .own.tuner import FineTuner

        return FineTuner
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
