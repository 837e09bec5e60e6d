"""Arms of the chapters on growing a network (Wang et al.), at every scale."""

from dataclasses import dataclass, replace
from itertools import product

import pandas as pd

from ..errors import choose
from ..measure.unit_trace import QUANTITIES
from ..methods.finetune import FineTune
from ..methods.grow import Grow
from ..scales import DECIDE, Scale
from ..scales import scale as scale_of
from ..specs import OneOf, Recipe
from ..specs.networks import GROWTH_SCOPES

NEW_LR = 10.0  # how many times as fast as old layers new ones learn (Wang et al., sec. 3.3)
GROWN = "#7d5ba6"
GROWTH_TONES = {"widen": GROWN, "deepen": "#2b93a3", "widen-and-deepen": "#a0703c", "widen-twice": "#b56fba"}
NORMALISED = "#6b8e23"  # a network of fixed size whose representation is normalised
WAYS = dict(zip(("wider", "deeper", "wider and deeper", "wider in two layers"), GROWTH_TONES, strict=True))
WAY_TONES = {way: GROWTH_TONES[how] for way, how in WAYS.items()}
SCOPE_WORDS = {"new": "new layers", "fc7-new": "and FC7", "fc6-new": "and FC6", "all": "all layers"}
SMALL_RATES = OneOf(0.004, 0.016, 0.064, seeds=DECIDE)
LARGE_RATES = OneOf(0.0002, 0.001, 0.005, seeds=DECIDE)
GROWTH_RATES = {"smoke": 0.016, "cpu": SMALL_RATES, "gpu": SMALL_RATES, "paper": LARGE_RATES}
# Of what is trained (`specs.networks.GROWTH_SCOPES`), the last layer that is kept.
SMALL = dict(zip(GROWTH_SCOPES, ("fc7", "fc6", "pool5", None), strict=True))
LARGE = SMALL | {"fc6-new": "features.12"}
LAST_KEPT = {"smoke": {"new": "fc7", "all": None}, "cpu": SMALL, "gpu": SMALL, "paper": LARGE}


@dataclass(frozen=True)
class Growing:
    """Networks that grow, and those that they are compared with, at one scale."""

    scale: Scale

    @property
    def scopes(self) -> dict[str, str | None]:
        """What is trained, with the last layer that is kept."""
        return LAST_KEPT[self.scale.name]

    @property
    def recipe(self) -> Recipe:
        """Training of grown networks and of those that they are compared with.

        Images are not augmented, so that the activations of frozen layers can be kept.
        """
        return replace(self.scale.train, lr=GROWTH_RATES[self.scale.name], augment="none")

    @property
    def width(self) -> int:
        """Units of FC7."""
        return getattr(self.scale.backbone, "hidden", (4096, 4096))[-1]

    @property
    def gain(self) -> float:
        """What gains of grown networks start from: 20 where FC7 has 4096 units (sec. 3.2); in others a unit is as
        large.
        """
        return round(20 * (self.width / 4096) ** 0.5, 3)

    def grown(self, how: str, units: tuple[int, ...] = (), norm: str = "l2", **given: object) -> Grow:
        """Return a way to grow, rate searched; its gains start from `gain` unless `scale` is given."""
        start = {"scale": self.gain} if norm == "l2" else {}
        return Grow(self.recipe, how, units, norm, **start | given)

    def by(self, way: str, share: float, norm: str = "l2", **given: object) -> Grow:
        """Return a way to grow by a share of FC7's units; beside FC6 by half as many.

        Parameters
        ----------
        way : str
            One of `WAYS`, in words.
        share : float
        norm, **given
            As in `grown`.
        """
        how, count = WAYS[choose("way", way, WAYS)], round(share * self.width)
        units = {"widen-twice": (count // 2, count), "widen-and-deepen": (count, count)}.get(how, (count,))
        return self.grown(how, units, norm, **given)

    def fixed(self, scope: str = "all", **given: object) -> FineTune:
        """Return what growing is compared with: the network as it is, new head, rate searched among the same ones."""
        return FineTune(self.recipe, NEW_LR, self.scopes[choose("scope", scope, self.scopes)], **given)


def growing(scale: str) -> Growing:
    """Return the arms at a scale, by its name."""
    return Growing(scale_of(scale))


def traces(records: pd.DataFrame, *by: str) -> pd.DataFrame:
    """Return what the measure `UnitTrace` put on record, a row for each number.

    Parameters
    ----------
    records : DataFrame
        Those without it are left out.
    *by : str
        Columns to keep.

    Returns
    -------
    DataFrame
        Columns `by`, ``look`` (one of its quantities), ``units`` (old or new ones), ``step`` and ``value``.
    """
    rows, found = records[records["at"].notna()], []
    for look, block in product(QUANTITIES, ("old", "new")):
        values = rows[f"{look}_{block}"]
        steps = [at[-len(seen) :] for at, seen in zip(rows["at"], values, strict=True)]  # some start a look later
        found.append(rows[list(by)].assign(look=look, units=f"{block} units", step=steps, value=values))
    found = pd.concat(found).explode(["step", "value"], ignore_index=True)
    return found.astype({"step": int, "value": float})
