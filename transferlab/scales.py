"""What ``smoke``, ``cpu``, ``gpu`` and ``paper`` mean: images, sizes, networks, recipes. Nothing here imports torch."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from .backbones import AlexNet, Backbone, Torchvision
from .errors import check, choose
from .method_specs import SCOPES
from .specs import EVERYTHING, FineTune, Grow, Recipe, Scratch, Source, Subset, Target

EIGHT_SEEDS = 8
MOST_SEEDS = 1000  # that one call may name
NEW_LR = 10.0  # how many times as fast as old layers new ones learn where networks grow (Wang et al., sec. 3.3)


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
    carry : tuple of str
        Those of them that carry all arms of a study.
    size : int
        Side of all images in pixels.
    backbone : Backbone
    pretrain, train : Recipe
        Of sources, and of everything that is trained on a target. `train` has the rates that every arm searches.
    part, sample : Subset
        Part of the source, and of each target, that the scale works with at all.
    seeds : int
        That the published study has.
    head_lr : float
        Learning rate of a new head as a multiple of the backbone's.
    grow_lr : float or tuple of float
        Rates of old layers where networks grow; new ones have `NEW_LR` times as much.
    scopes : dict of str to str or None
        What is trained where networks grow (`method_specs.SCOPES`), with the last layer that is kept.
    """

    name: str
    source: str
    classes: int
    per_class: int
    targets: tuple[str, ...]
    carry: tuple[str, ...]
    size: int
    backbone: Backbone
    pretrain: Recipe
    train: Recipe
    part: Subset = EVERYTHING
    sample: Subset = EVERYTHING
    seeds: int = EIGHT_SEEDS
    head_lr: float = 3.0
    grow_lr: float | tuple[float, ...] = (0.004, 0.016, 0.064)
    scopes: dict[str, str | None] = field(default_factory=lambda: dict(zip(SCOPES, ("fc7", "fc6", "pool5", None), strict=True)))

    def source_of(self, **subset: object) -> Source:
        """Return this scale's source, or the part of it that the fields of `Subset` say."""
        return Source(self.source, self.size, self.pretrain, replace(self.part, **subset))

    def target(self, name: str) -> Target:
        """Return one of this scale's targets."""
        return Target(name, self.size, self.sample)

    @property
    def growth(self) -> Recipe:
        """Training of grown networks and of those that they are compared with.

        Images are not augmented, so that the activations of frozen layers can be kept.
        """
        return replace(self.train, lr=self.grow_lr, augment="none")

    @property
    def width(self) -> int:
        """Units of FC7."""
        return getattr(self.backbone, "hidden", (4096, 4096))[-1]

    @property
    def gain(self) -> float:
        """What gains of grown networks start from: 20 where FC7 has 4096 units (Wang et al., sec. 3.2); in others a unit is as large."""
        return round(20 * (self.width / 4096) ** 0.5, 3)

    def grown(self, how: str, units: tuple[int, ...] = (), norm: str = "l2", **given: object) -> Grow:
        """Return a way to grow, rate searched; its gains start from `gain` unless `scale` is given."""
        start = {"scale": self.gain} if norm == "l2" and not how.startswith("net2") else {}
        return Grow(self.growth, how, units, norm, **start | given)

    def trained(self, pairs: Iterable[tuple[object, object]]) -> list[str]:
        """Return which of `scopes` records are, by their columns ``scope`` (of grown networks) and ``freeze`` (of fixed ones)."""
        frozen = {layer: scope for scope, layer in self.scopes.items()}
        return [scope if isinstance(scope, str) else frozen[kept if isinstance(kept, str) else None] for scope, kept in pairs]

    def fixed(self, scope: str = "all") -> FineTune:
        """Return what growing is compared with: the network as it is, new head, rate searched among the same ones."""
        return FineTune(self.growth, NEW_LR, self.scopes[scope])

    @property
    def scratch(self) -> Scratch:
        """Training from scratch on a target, rate searched."""
        return Scratch(self.train)

    @property
    def finetune(self) -> FineTune:
        """Fine-tuning on a target, rate searched among the same ones."""
        return FineTune(self.train, self.head_lr)


RATES = (0.01, 0.03, 0.1)
SMALL_REAL = ("flowers102", "caltech101", "cifar100", "pacs/photo", "scene15")
CARRY = ("flowers102", "caltech101", "scene15")

SCALES = {
    "smoke": Scale(
        name="smoke",
        source="synthetic:source",
        classes=25,
        per_class=100,
        targets=("synthetic:0", "synthetic:0.6"),
        carry=("synthetic:0.6",),
        size=24,
        backbone=AlexNet((16, 24, 32, 32, 32), (128, 128)),
        pretrain=Recipe(steps=200, batch=64, lr=0.1),
        train=Recipe(steps=100, batch=32, lr=0.05),
        part=Subset(classes=25),
        sample=Subset(classes=20, per_class=15),
        seeds=2,
        grow_lr=0.016,
        scopes={"new": "fc7", "all": None},
    ),
    "cpu": Scale(
        name="cpu",
        source="tiny-imagenet",
        classes=200,
        per_class=500,
        targets=SMALL_REAL,
        carry=CARRY,
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
        carry=CARRY,
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
        carry=("torchvision:Flowers102", "torchvision:Caltech101", "torchvision:SUN397"),
        size=224,
        backbone=Torchvision("alexnet"),
        pretrain=Recipe(steps=450_000, batch=256, lr=0.01, precision="bf16"),
        train=Recipe(steps=4000, batch=64, lr=(0.001, 0.003, 0.01), precision="bf16"),
        grow_lr=(0.0002, 0.001, 0.005),
        scopes=dict(zip(SCOPES, ("fc7", "fc6", "features.12", None), strict=True)),
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
    text = str(seeds).strip()
    rule = "must be a number of seeds (8), a block (0-3) or a list (0,2,5)"
    try:
        if text.isdecimal() and isinstance(seeds, int):
            blocks = [range(seeds)]
        else:
            ends = [part.partition("-") for part in text.split(",")]
            blocks = [range(int(first), int(last or first) + 1) for first, _, last in ends]
    except ValueError:
        blocks = []
    check(any(blocks), "seeds", seeds, rule)
    check(all(b.stop - b.start <= MOST_SEEDS for b in blocks), "seeds", seeds, f"must be {MOST_SEEDS} at most")
    found = [seed for block in blocks for seed in block]
    check(len(set(found)) == len(found), "seeds", seeds, "names a seed twice")
    return found
