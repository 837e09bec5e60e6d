"""What pages are made of: studies, charts, controls, rules and verdicts. Nothing here imports torch."""

from . import charts, contrasts, theme
from .cards import Short, bracketed, effects_table, interval, more, number, p_value
from .controls import Control, Explorer, Workbench
from .figure import Figure, Table
from .rules import Part, Rule, Verdict, above, below, equal, order
from .stats import Effect, brings, by_group, effect, trend
from .study import MEAN, Study
