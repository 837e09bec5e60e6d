"""What holds a network near to where it started: fields of methods, each with the objective that it trains with."""

from dataclasses import dataclass
from typing import Any

from ..specs import Regulariser
from ..specs.serial import above_zero


@dataclass(frozen=True)
class L2SP(Regulariser, kind="l2-sp", version=1):
    """Half of `strength` times the squared distance of all weights but the head's from the source's.

    The recipe's decay goes on beside it (Li, Grandvalet and Davoine 2018, eq. 1).
    """

    strength: float

    def __post_init__(self) -> None:
        above_zero(self, "strength")

    def objective(self, net: Any, before: Any) -> Any:
        from ..train import objectives

        return objectives.L2SP(before.state_dict(), self.strength)


@dataclass(frozen=True)
class Distillation(Regulariser, kind="distillation", version=1):
    """What the source's head says about the target's images is to stay as it was: learning without forgetting.

    The distillation loss of Li and Hoiem 2016, eq. 2-3, with weight `strength`; the old head is kept as it is.
    """

    strength: float
    temperature: float = 2.0

    def __post_init__(self) -> None:
        above_zero(self, "strength", "temperature")

    def objective(self, net: Any, before: Any) -> Any:
        from ..train import objectives

        return objectives.Distillation(before, self.strength, self.temperature)
