"""Tools are no package: they are imported by path, and their tests share helpers with those of the data."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests" / "data")]
