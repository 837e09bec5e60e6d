"""Numbers that say how good a network is, what it knows, and what training did to it."""

from .barrier import Barrier
from .blocks import Blocks
from .borrowed import Borrowed
from .forgetting import Forgetting
from .forgetting_curve import ForgettingCurve
from .gallery import Gallery
from .selectivity import Selectivity
from .similarity import Similarity
from .train_accuracy import TrainAccuracy
from .unit_trace import UnitTrace
from .weight_change import WeightChange
