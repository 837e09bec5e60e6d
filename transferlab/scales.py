"""What ``smoke``, ``cpu``, ``gpu`` and ``paper`` mean: images, sizes, networks, recipes. Nothing here imports torch."""

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

from .errors import check, choose
from .methods.finetune import FineTune
from .methods.scratch import Scratch
from .specs import WHOLE, Backbone, Recipe, Source, Subset, Target
from .specs.serial import of_plain

MOST_SEEDS = 1000  # that one call may name
DECIDE = (0, 1)  # the seeds whose validation accuracy chooses, of the studies that seeds 0 to 7 made


@dataclass(frozen=True)
class Scale:
    """How big a study is.

    Attributes
    ----------
    name : str
    source : str
        Image set that sources are taken from.
    classes, per_class : int
        Classes of the whole source, and images of each (of the most frequent, where they differ).
    targets : tuple of str
        Image sets that carry a study's end points, most telling first.
    core_targets : tuple of str
        Those of them that carry all arms of a study.
    size : int
        Side of all images in pixels.
    backbone : Backbone
    pretrain, train : Recipe
        Of sources, and of everything that is trained on a target. `train` has the rates that every arm searches.
    source_subset, target_subset : Subset
        Part of the source, and of each target, that the scale works with at all.
    seeds : int
        That the published study has.
    reference : Recipe, optional
        A longer one of sources, for what starts from the reference sources that are published.
    head_lr : float
        Learning rate of a new head as a multiple of the backbone's.
    """

    name: str
    source: str
    classes: int
    per_class: int
    targets: tuple[str, ...]
    core_targets: tuple[str, ...]
    size: int
    backbone: Backbone
    pretrain: Recipe
    train: Recipe
    source_subset: Subset = WHOLE
    target_subset: Subset = WHOLE
    seeds: int = 8
    reference: Recipe | None = None
    head_lr: float = 3.0

    def source_of(self, **subset: object) -> Source:
        """Return this scale's source, or the part of it that the fields of `Subset` say."""
        return Source(self.source, self.size, self.pretrain, replace(self.source_subset, **subset))

    def target(self, name: str) -> Target:
        """Return one of this scale's targets."""
        return Target(name, self.size, self.target_subset)

    @property
    def scratch(self) -> Scratch:
        """Training from scratch on a target, rate searched."""
        return Scratch(self.train)

    @property
    def finetune(self) -> FineTune:
        """Fine-tuning on a target, rate searched among the same ones."""
        return FineTune(self.train, self.head_lr)


TABLES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
SCALES = {name: Scale(name, **{field: of_plain(value) for field, value in t.items()}) for name, t in TABLES.items()}


def scale(name: str) -> Scale:
    """Return a scale by name.

    Raises
    ------
    UserError
        If there is none of that name.
    """
    return SCALES[choose("scale", name, SCALES)]


def seed_list(seeds: int | str) -> list[int]:
    """Return the seeds that ``8`` (0 to 7), ``"0-3"`` or ``"0,2,5"`` mean.

    Raises
    ------
    UserError
        If the text means none.
    """
    text = f"0-{seeds - 1}" if isinstance(seeds, int) else seeds
    ends = [part.partition("-") for part in text.split(",")]
    try:
        blocks = [range(int(first), int(last or first) + 1) for first, _, last in ends]
    except ValueError:
        blocks = []
    check(any(blocks), "seeds", seeds, "must be a number of seeds (8), a block (0-3) or a list (0,2,5)")
    check(all(b.stop - b.start <= MOST_SEEDS for b in blocks), "seeds", seeds, f"must be {MOST_SEEDS} at most")
    found = [seed for block in blocks for seed in block]
    check(len(set(found)) == len(found), "seeds", seeds, "names a seed twice")
    return found
