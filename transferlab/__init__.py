"""transferlab: the training and analysis behind an interactive book on how visual knowledge transfers."""

__version__ = "0.1.0"
