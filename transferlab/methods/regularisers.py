"""What holds a network near to where it started: fields of methods, each with the objective that it trains with."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import check
from ..specs import Regulariser
from ..specs.serial import above_zero, positive
from ..specs.task import CLASSIFIED


@dataclass(frozen=True)
class L2SP(Regulariser, kind="l2-sp", version=1):
    """Half of `strength` times the squared distance of all weights but the head's from the source's.

    The recipe's decay goes on beside it (Li, Grandvalet and Davoine 2018, eq. 1).
    """

    strength: float

    tasks: ClassVar[tuple[str, ...]] = CLASSIFIED

    def __post_init__(self) -> None:
        above_zero(self, "strength")

    def objective(self, net: Any, before: Any, sample: Any) -> Any:
        from ..train import objectives

        return objectives.L2SP(before.state_dict(), self.strength)


@dataclass(frozen=True)
class Distillation(Regulariser, kind="distillation", version=1):
    """What the source's head says about the target's images is to stay as it was: learning without forgetting.

    The distillation loss of Li and Hoiem 2016, eq. 2-3, with weight `strength`; the old head is kept as it is.
    """

    strength: float
    temperature: float = 2.0

    tasks: ClassVar[tuple[str, ...]] = CLASSIFIED

    def __post_init__(self) -> None:
        above_zero(self, "strength", "temperature")

    def objective(self, net: Any, before: Any, sample: Any) -> Any:
        from ..nets.build import with_head
        from ..train import objectives

        return objectives.Distillation(with_head(before), self.strength, self.temperature)


@dataclass(frozen=True)
class CoTuning(Regulariser, kind="co-tuning", version=1):
    """The source's head is kept beside the target's, and learns what the source's classes say about the target's.

    With weight `strength`, the cross-entropy of the kept head's answer and p(y_s | y_t): the mean answer of the source
    network to the training images of the target's class, the direct approach (You et al. 2020, sec. 3.2 and eq. 5).
    """

    strength: float

    def __post_init__(self) -> None:
        above_zero(self, "strength")

    def objective(self, net: Any, before: Any, sample: Any) -> Any:
        from torch import stack

        from ..nets import build, heads
        from ..train import objectives, read

        heads.keep_head(net, heads.SOURCE_HEAD, build.head_of(build.with_head(before))[2])
        answers = read.predict(before, sample).softmax(1)
        relation = stack([answers[sample.labels == label].mean(0) for label in range(sample.classes)])
        return objectives.CoTuning(relation, self.strength)


@dataclass(frozen=True)
class DELTA(Regulariser, kind="delta", version=1):
    """What the last convolutions make of the target's images is to stay as the source makes it.

    Channels weigh as much as the loss grows without them, which is found from the training images before the first step
    (Li et al. 2019, "DELTA"); `train.objectives.DELTA` says how. The recipe's decay goes on beside it.
    """

    strength: float

    def __post_init__(self) -> None:
        above_zero(self, "strength")

    def objective(self, net: Any, before: Any, sample: Any) -> Any:
        from ..nets.taps import last_convolutions
        from ..train import objectives

        learns = [net.get_submodule(name).weight.requires_grad for name in last_convolutions(net)]
        check(any(learns), "hold", self.kind, f"wants convolutions that are trained, in the {type(net).__name__}")
        return objectives.DELTA(before, sample, self.strength)


@dataclass(frozen=True)
class BSS(Regulariser, kind="bss", version=1):
    """`strength` times the sum of squares of the `k` smallest singular values of a batch of features.

    Batch spectral shrinkage (Chen et al. 2019), of what the head reads. It holds nothing near to the source, and
    keeps out what transfers worst.
    """

    strength: float
    k: int = 1

    tasks: ClassVar[tuple[str, ...]] = CLASSIFIED

    def __post_init__(self) -> None:
        above_zero(self, "strength")
        positive("k", self.k)

    def objective(self, net: Any, before: Any, sample: Any) -> Any:
        from ..train import objectives

        return objectives.BSS(self.strength, self.k)
