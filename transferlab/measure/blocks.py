"""What each block of a network's representation reaches alone (Wang et al., figure 6)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import check
from ..specs import Measure, Trial


@dataclass(frozen=True)
class Blocks(Measure, kind="blocks", version=1):
    """What each block of a widened layer reaches alone: the trained head without the weights that read the other block.

    Parameters
    ----------
    units : tuple of int, optional
        Units of the first block and of the second; by default those that were there before growth, and the new ones.
    """

    units: tuple[int, ...] | None = None

    columns: ClassVar[tuple[str, ...]] = ("accuracy_old", "accuracy_new")

    def watch(self, trial: Trial, run: Any, context: Any) -> None:
        """Refuse what has no such blocks, before it is trained."""
        self.read(run.trained)

    def measure(self, trial: Trial, net: Any, context: Any) -> dict[str, Any]:
        """Return ``accuracy_old`` and ``accuracy_new``."""
        from ..train.read import inputs_of
        from .metrics import scores

        head, blocks = self.read(net)
        sample = context.sample(trial.target, "test", trial.seed)
        parts = logit_contribution(head, inputs_of(net, head, sample), blocks)
        alone = (scores(part + head.bias.detach(), sample.labels)["accuracy"] for part in parts)
        return dict(zip(self.columns, alone, strict=True))

    def read(self, net: Any) -> tuple[Any, list[int]]:
        """Return a network's head and the units of the blocks that it reads.

        Raises
        ------
        UserError
            If the head is no linear layer, or does not read two blocks of so many units.
        """
        from torch import nn

        from ..nets.build import head_of
        from ..nets.sites import read_by_head

        _, _, head = head_of(net)
        blocks = list(self.units or read_by_head(net))
        check(isinstance(head, nn.Linear), "blocks", type(net).__name__, "wants a network whose head is a linear layer")
        rule = f"must be two; the head reads {head.weight.shape[1]} units"
        check(len(blocks) == 2 and head.weight.shape[1] == sum(blocks), "blocks", blocks, rule)
        return head, blocks


def logit_contribution(head: Any, inputs: Any, blocks: list[int]) -> list[Any]:
    """Return what each block that the head reads adds to the logits, shape (N, classes) each."""
    parts = zip(inputs.float().split(blocks, 1), head.weight.detach().float().split(blocks, 1), strict=True)
    return [x @ w.T for x, w in parts]
