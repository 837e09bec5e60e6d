"""transferlab: the training and analysis behind an interactive book on how visual knowledge transfers."""

import os

__version__ = "0.1.0"

if os.path.expanduser("~") == "~":  # nobody knows where home is: libraries that ask would fail when they are imported
    os.environ["HOME"] = os.devnull  # in which nothing can be kept
