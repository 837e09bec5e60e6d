"""What ``smoke``, ``cpu``, ``gpu`` and ``paper`` mean: images, sizes, networks, recipes. Nothing here imports torch."""

from dataclasses import dataclass, replace

from .errors import check, choose
from .methods.finetune import FineTune
from .methods.scratch import Scratch
from .specs import WHOLE, AlexNet, Backbone, OneOf, Recipe, Source, Subset, Target, Torchvision

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


RATES = OneOf(0.01, 0.03, 0.1, seeds=DECIDE)
SMALL_REAL = ("flowers102", "caltech101", "cifar100", "pacs/photo", "scene15")
CORE = ("flowers102", "caltech101", "scene15")

SCALES = {
    "smoke": Scale(
        name="smoke",
        source="synthetic:source",
        classes=25,
        per_class=100,
        targets=("synthetic:0", "synthetic:0.6"),
        core_targets=("synthetic:0.6",),
        size=24,
        backbone=AlexNet((16, 24, 32, 32, 32), (128, 128)),
        pretrain=Recipe(steps=200, batch=64, lr=0.1),
        train=Recipe(steps=100, batch=32, lr=0.05),
        source_subset=Subset(classes=25),
        target_subset=Subset(classes=20, per_class=15),
        seeds=2,
    ),
    "cpu": Scale(
        name="cpu",
        source="tiny-imagenet",
        classes=200,
        per_class=500,
        targets=SMALL_REAL,
        core_targets=CORE,
        size=32,
        backbone=AlexNet((32, 48, 64, 64, 48), (256, 256)),
        pretrain=Recipe(steps=3200, batch=128, lr=0.1),
        train=Recipe(steps=200, batch=64, lr=RATES),
    ),
    "gpu": Scale(
        name="gpu",
        source="tiny-imagenet",
        classes=200,
        per_class=500,
        targets=(*SMALL_REAL, "pacs/art_painting", "pacs/cartoon", "pacs/sketch", "mnist"),
        core_targets=CORE,
        size=64,
        backbone=AlexNet.named("small", hidden=(1024, 1024)),
        pretrain=Recipe(steps=12800, batch=256, lr=0.1, precision="bf16"),
        train=Recipe(steps=600, batch=64, lr=RATES, precision="bf16"),
    ),
    "paper": Scale(
        name="paper",
        source="torchvision:ImageNet",
        classes=1000,
        per_class=1300,
        targets=("torchvision:Flowers102", "torchvision:Caltech101", "torchvision:SUN397", "torchvision:OxfordIIITPet"),
        core_targets=("torchvision:Flowers102", "torchvision:Caltech101", "torchvision:SUN397"),
        size=224,
        backbone=Torchvision("alexnet"),
        pretrain=Recipe(steps=450_000, batch=256, lr=0.01, precision="bf16"),
        train=Recipe(steps=4000, batch=64, lr=OneOf(0.001, 0.003, 0.01, seeds=DECIDE), precision="bf16"),
    ),
}


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
