"""Old and new units of FC7 while they are trained (Wang et al., sec. 3.2: "pace of learning")."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import check
from ..specs import Measure, Trial
from .blocks import logit_contribution

QUANTITIES = ("activation_rms", "logit_contribution", "weight_change")


@dataclass(frozen=True)
class UnitTrace(Measure, kind="unit-trace", version=1):
    """How old and new units of FC7 fare while they are trained.

    It puts on record lists of numbers, one for each step of ``at``, before that step is taken. ``activation_rms_*``:
    root mean square of what the head reads of a block. ``logit_contribution_*``: that of what a block adds to the
    logits, means over classes taken away. ``weight_change_*``: change of a block's incoming weights since the last
    look, in thousandths of their norm a step (one number fewer).

    Parameters
    ----------
    looks : int
        How often it looks, evenly.
    """

    looks: int = 21

    columns: ClassVar[tuple[str, ...]] = ("at", *(f"{q}_{block}" for q in QUANTITIES for block in ("old", "new")))

    def watch(self, trial: Trial, run: Any, context: Any) -> "UnitWatcher":
        steps = trial.recipe.steps - 1
        return UnitWatcher(run.trained, sorted({round(i * steps / (self.looks - 1)) for i in range(self.looks)}))


class UnitWatcher:
    """Looks at the two blocks of FC7 of a network in training.

    Parameters
    ----------
    net : Module
        With one new block beside FC7.
    steps : list of int
        When it looks.

    Raises
    ------
    UserError
        If the network has no FC7 with one new block.
    """

    def __init__(self, net: Any, steps: list[int]) -> None:
        from ..nets.sites import read_by_head, sites

        self.blocks, self.steps = read_by_head(net), steps
        fc7 = "fc7" in sites(net) and len(self.blocks) == 2
        check(fc7, "unit trace", type(net).__name__, "wants an FC7 with one block of new units")
        layer = sites(net)["fc7"].layer
        names = {id(p): name for name, p in net.named_parameters()}
        self.names = {"old": names[id(layer.weight)], "new": names[id(layer.new[0].weight)]}
        self.found: dict[str, list] = {"at": list(steps)} | {name: [] for name in UnitTrace.columns[1:]}

    def bind(self, net: Any) -> None:
        """Look at this network, or the last part of the one that was given: it is the one that is trained."""
        from ..nets.build import head_of

        parameters = dict(net.named_parameters())
        _, _, self.head = head_of(net)
        self.weights = {block: parameters[name] for block, name in self.names.items()}
        self.before = {block: w.detach().clone() for block, w in self.weights.items()}

    @contextmanager
    def look(self, step: int) -> Iterator[None]:
        """Look at what the head reads while the loss of a step is computed."""
        from ..train.read import kept_inputs

        inputs: list[Any] = []
        with kept_inputs(self.head, inputs.append):
            yield
        self._note(step, inputs[0].detach().float())

    def _note(self, step: int, inputs: Any) -> None:
        parts = zip(inputs.split(self.blocks, 1), logit_contribution(self.head, inputs, self.blocks), strict=True)
        passed = step - self.steps[self.steps.index(step) - 1]
        for (block, weight), (x, logits) in zip(self.weights.items(), parts, strict=True):
            centred = logits - logits.mean(1, keepdim=True)
            values = dict(zip(QUANTITIES, (y.square().mean().sqrt() for y in (x, centred)), strict=False))
            if step:
                change = (weight.detach() - self.before[block]).norm() / self.before[block].norm()
                values["weight_change"] = 1000 * change / passed
            self.before[block].copy_(weight.detach())
            for name, value in values.items():
                self.found[f"{name}_{block}"].append(float(f"{value.item():.4g}"))

    def state(self) -> dict[str, Any]:
        """Return what was seen so far, and what the next look depends on."""
        return {"found": self.found, "before": self.before}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where `state` was taken."""
        self.found = state["found"]
        for block, kept in self.before.items():
            kept.copy_(state["before"][block])
