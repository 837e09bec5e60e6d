"""Numbers that say how good a network is, what it knows, and what training did to it."""

from .blocks import Blocks
from .forgetting import Forgetting
from .unit_trace import UnitTrace
