"""``python -m transferlab``."""

from .cli import main

main()
