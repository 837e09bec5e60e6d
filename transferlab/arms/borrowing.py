"""Arms of the chapters on borrowing source images (Ge and Yu), at every scale."""

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import choose
from ..methods import FineTune, JointFineTune, Scratch
from ..methods.joint import Selected
from ..scales import DECIDE, Scale
from ..scales import scale as scale_of
from ..specs import (
    WHOLE,
    Backbone,
    FirstConvolutions,
    Gabor,
    OneOf,
    Pretrained,
    Recipe,
    Selection,
    Source,
    Subset,
    Target,
    Weights,
)
from ..specs.serial import of_plain

LONGER = 4  # times the steps, of the second length
RATES = OneOf(0.0025, 0.01, 0.04, 0.16, 0.64, seeds=DECIDE)
WEIGHTS = OneOf(1.0, 0.25, 0.0625, 4.0, seeds=DECIDE, later=True)  # of the source's loss; the paper's is 1
HEADS = OneOf(3.0, 1.0, 10.0, 30.0, seeds=DECIDE, later=True)  # plain training is searched as widely
PLAIN, ALL, RANDOM, SELECTED = "plain", "all", "random", "selected"
TONES = {PLAIN: "#6b6f76", ALL: "#a0703c", RANDOM: "#2b93a3", SELECTED: "#2878b5"}
BY_SCALE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))  # fields of `Borrowing`, by scale


@dataclass(frozen=True)
class Setting:
    """Where borrowing is tried: a network, how it is trained, and how few images of each class a target has."""

    backbone: Backbone
    source: Source | Weights
    size: int
    recipe: Recipe
    subset: Subset

    def target(self, name: str, per_class: int | None = None) -> Target:
        """Return a target with as few images, or with so many a class."""
        subset = replace(self.subset, per_class=per_class) if per_class else self.subset
        return Target(name, self.size, subset)


def setting(scale: str) -> Setting:
    """Return where it is tried at a scale: where plain training was seen to overfit, which borrowing is to cure."""
    s = scale_of(scale)
    if scale in ("smoke", "paper"):
        source = s.source_of() if scale == "smoke" else Weights("torchvision:IMAGENET1K_V1")
        return Setting(s.backbone, source, s.size, s.train, s.target_subset)
    source = replace(s.source_of(), recipe=s.reference or s.pretrain)
    return Setting(s.backbone, source, s.size, Recipe(800, 32, RATES), Subset(per_class=2))


@dataclass(frozen=True)
class Borrowing:
    """Training with borrowed images, and what it is compared with, at one scale.

    Attributes
    ----------
    scale, setting
    pool : str
        The image set that is borrowed from.
    pool_subset : Subset
        How much of it: so that plain training's steps pass over all of it once.
    targets : tuple of str
        Image sets that borrow.
    k : int
        K0: how many neighbours an image has.
    gabor : Gabor
        The descriptor that the network's is compared with; filters fit into small images.
    """

    scale: Scale
    setting: Setting
    pool: str
    pool_subset: Subset
    targets: tuple[str, ...]
    k: int
    gabor: Gabor

    @property
    def descriptor(self) -> FirstConvolutions:
        """What neighbours look like: responses of the first two convolutions of one source network, for all seeds."""
        return FirstConvolutions(Pretrained(self.setting.source, self.setting.backbone, 0), bins=self.gabor.bins)

    def recipe(self, times: int = 1) -> Recipe:
        """The recipe, with so many times its steps."""
        return replace(self.setting.recipe, steps=times * self.setting.recipe.steps)

    def searched(self, options: OneOf) -> Any:
        """Options, where rates are searched; else the first of them."""
        return options if self.setting.recipe.searched else options.options[0]

    def plain(self, times: int = 1, **given: Any) -> FineTune:
        """Fine-tuning on the target alone; rate, then the head's, searched. `given` are fields of `FineTune`."""
        return FineTune(self.recipe(times), **{"head_lr": self.searched(HEADS)} | given)

    def scratch(self) -> Scratch:
        """The same network from random weights, rate searched."""
        return Scratch(self.recipe())

    def select(self, k: int | None = None, descriptor: Selection | None = None, **given: Any) -> Selected:
        """Return the choice of look-alikes, by default `k` and `descriptor` of this scale.

        All share a table in which an image can gain four times K0 twice, of a quarter of the pool.
        """
        rows = 9 * self.k * (1 if self.pool_subset == WHOLE else 4)
        return Selected(descriptor or self.descriptor, k or self.k, nearest=rows, **given)

    def joint(self, how: str = SELECTED, times: int = 1, **given: Any) -> JointFineTune:
        """Training with borrowed images; rate, then the weight of the source's loss, searched.

        Parameters
        ----------
        how : {"all", "random", "selected"}
            Which images are borrowed.
        times : int
            The steps.
        **given
            Fields of `JointFineTune`.
        """
        choose("how", how, (ALL, RANDOM, SELECTED))
        which = None if how == ALL else self.select(random=how == RANDOM or None)
        given = {"selected": which, "source_weight": self.searched(WEIGHTS), "pool_subset": self.pool_subset} | given
        return JointFineTune(self.recipe(times), self.pool, **given)


def borrowing(scale: str) -> Borrowing:
    """Return the arms at a scale, by its name."""
    s = scale_of(scale)
    return Borrowing(s, setting(scale), **{name: of_plain(value) for name, value in BY_SCALE[s.name].items()})
