"""Which source images look like a target's: descriptors, near-duplicates and nearest neighbours. No torch here.

What joint training reads, with ``arrays = context.arrays(Neighbours(selection, pool, target, size, k))``:

- ``arrays["indices"]``, int32 (images of the target's stored ``train`` split, k): rows of the pool's stored ``train``
  split, nearest first; ``arrays["distances"]``, float32, beside them. One table serves all seeds and samples.
- ``context.arrays(neighbours.duplicates)["pool"]``, int64: rows of the pool that look like a test image of the target.
  No neighbour is one; whoever draws from the pool otherwise (all, random) leaves them out too.
- ``select.selection.neighbour_table(arrays, target_rows, pool_rows, counts) -> (table, used)`` makes of it what a
  second ``Stream`` takes: `target_rows` and `pool_rows` are the samples' own ``rows``, `counts` how many neighbours
  each image has.
"""

from dataclasses import dataclass
from typing import Any

from ..errors import check, choose
from .artefacts import FORWARD_SHARE, PACE, Artefact, Pretrained, Trained, stored_split
from .catalog import pinned
from .data import WHOLE, ImageSet, Subset
from .serial import Spec, above_zero, flags, positive

BINNING = 1.5e-8  # seconds a core takes for the responses of a channel to one pixel, and their bins
HASHING = 3e-4  # and to hash an image
UNKNOWN = 1000  # images of a split that no manifest counts


class _Binned:
    """What descriptors share: one histogram a channel, over bins of about equal mass in the target's images."""

    def __post_init__(self) -> None:
        choose("binning", self.binning, ("quantiles", "walk"))
        check(isinstance(self.bins, int) and self.bins > 1, "bins", self.bins, "must be a whole number above 1")

    def cost(self, ours: int, theirs: int, size: int) -> float:
        """Seconds to compare so many images of a target and of a pool."""
        return self.channels * ((ours + theirs) * size**2 * BINNING + ours * theirs * self.bins / PACE)


@dataclass(frozen=True)
class Gabor(_Binned, Spec, kind="gabor", version=1):
    """Responses of Gabor filters to the luma, real and imaginary parts apart (Ge and Yu 2017, sec. 3.2).

    The paper gives 4 scales and 6 orientations and no more; frequencies are those of Manjunath and Ma (1996). The
    real parts have mean zero. Images are continued by reflection, so each pixel has a response.

    Parameters
    ----------
    scales, orientations : int
        Frequencies from `highest` to `lowest`, each the same multiple of the next; angles k * 180 / orientations
        degrees.
    highest, lowest : float
        In cycles a pixel.
    width : float
        Standard deviation of the round Gaussian window, in wavelengths; 0.56 is about an octave at half height.
    extent : float
        Radius of a filter, in such standard deviations.
    binning : {"quantiles", "walk"}
        Edges at exact quantiles of the responses to the whole training split, or by the released walk over 2,000 cells.
    bins : int
    """

    scales: int = 4
    orientations: int = 6
    highest: float = 0.4
    lowest: float = 0.05
    width: float = 0.56
    extent: float = 2.0
    binning: str = "quantiles"
    bins: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("scales", self.scales)
        positive("orientations", self.orientations)
        rule = "must be above 0, below highest, and that at most 0.5"
        check(0 < self.lowest < self.highest <= 0.5, "lowest", self.lowest, rule)
        above_zero(self, "width", "extent")

    @property
    def side(self) -> int:
        """Side of the largest filter, in pixels."""
        return 2 * round(self.extent * self.width / self.lowest) + 1

    @property
    def channels(self) -> int:
        """Number of filters, parts apart."""
        return 2 * self.scales * self.orientations


@dataclass(frozen=True)
class FirstConvolutions(_Binned, Spec, kind="first-convolutions", version=1):
    """Responses of the first two convolutions of a network, the descriptor of Ge and Yu (2017, sec. 3.2).

    Parameters
    ----------
    network : Pretrained or Trained
    relu : bool, optional
        Behind the nonlinearity, as the paper says; by default before it, as the released code has it.
    binning : {"quantiles", "walk"}
        As in `Gabor`.
    bins : int
    """

    network: Pretrained | Trained
    relu: bool | None = None
    binning: str = "quantiles"
    bins: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        flags(self, "relu")

    @property
    def channels(self) -> int:
        """Number of kernels, AlexNet's if it is not known."""
        return sum(getattr(self.network.backbone, "channels", (96, 256))[:2])


@dataclass(frozen=True)
class DeepFeatures(Spec, kind="deep-features", version=1):
    """What the head of a network reads, for comparison with what images look like at a low level.

    Distances are one minus the cosine.

    Parameters
    ----------
    network : Pretrained or Trained
    """

    network: Pretrained | Trained

    def cost(self, ours: int, theirs: int, size: int) -> float:
        """Seconds to compare so many images of a target and of a pool."""
        return (ours + theirs) * self.network.backbone.multiply_adds(size) / PACE * FORWARD_SHARE


Selection = Gabor | FirstConvolutions | DeepFeatures


def images_of(images: ImageSet, split: str) -> int:
    """Return how many images a split has, about if no manifest says it."""
    return pinned(images.name).get("splits", {}).get(split, UNKNOWN)


@dataclass(frozen=True)
class Duplicates(Artefact, kind="duplicates", version=1):
    """Images of a pool that look like a test image of a target: pairs whose perceptual hashes differ in few bits.

    Parameters
    ----------
    pool, target : ImageSet or str
    size : int
        Side of the images that are hashed.
    bits : int
        Of 64, in which the hashes of a pair differ at most.
    """

    pool: ImageSet
    target: ImageSet
    size: int
    bits: int = 4

    def __post_init__(self) -> None:
        for name in ("pool", "target"):
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, ImageSet(getattr(self, name)))
        check(isinstance(self.size, int) and self.size >= 16, "size", self.size, "must be 16 pixels or more")
        check(isinstance(self.bits, int) and 0 <= self.bits < 32, "bits", self.bits, "must be 0 to 31")

    @property
    def label(self) -> str:
        return f"test images of {self.target.name} in {self.pool.name}"

    def cost(self) -> float:
        return HASHING * (images_of(self.pool, "train") + images_of(self.target, stored_split(self.target, "test")))

    def evaluate(self, context: Any) -> dict[str, Any]:
        """Return int64 ``pool``, the rows to leave out, ascending, and their nearest ``test`` rows and ``bits``."""
        return context.duplicates(self)


@dataclass(frozen=True)
class Neighbours(Artefact, kind="neighbours", version=1):
    """The images of a pool that are nearest to each training image of a target, by symmetric KL of histograms or the
    angle between features.

    Parameters
    ----------
    selection : Gabor, FirstConvolutions or DeepFeatures
    pool, target : ImageSet or str
        Two sets, both read as they are stored at `size` px. The pool is its stored training split, the target's whole
        training split makes the bins of histograms.
    size : int
    k : int
        Nearest images that are kept of each target image; the paper's code keeps 5,000.
    subset : Subset
        Classes of the pool, by `Subset.exclude` or by name: what a seed draws cannot be part of what all seeds share.
    bits : int
        As in `Duplicates`: what looks like a test image of the target is no neighbour.
    """

    selection: Selection
    pool: ImageSet
    target: ImageSet
    size: int
    k: int
    subset: Subset = WHOLE
    bits: int = 4

    def __post_init__(self) -> None:
        duplicates = self.duplicates
        for name in ("pool", "target"):
            object.__setattr__(self, name, getattr(duplicates, name))
        check(self.pool.key != self.target.key, "pool", self.pool.name, "is the target itself")
        positive("k", self.k)
        count = pinned(self.pool.name).get("splits", {}).get("train", self.k)
        check(self.k <= count, "k", self.k, f"{self.pool.name} has only {count} images")
        named = not isinstance(self.subset.classes, int)
        plain = Subset(exclude=self.subset.exclude, classes=self.subset.classes)
        check(
            named and self.subset == plain, "subset", self.subset.label, "must leave out or name classes, and no more"
        )
        side = getattr(self.selection, "side", 0)
        check(side <= self.size, "size", self.size, f"smaller than the largest filter, {side} px; raise its lowest")

    @property
    def duplicates(self) -> Duplicates:
        """What is left out of the pool."""
        return Duplicates(self.pool, self.target, self.size, self.bits)

    @property
    def label(self) -> str:
        return f"neighbours of {self.target.name} in {self.pool.name}, {self.selection.kind}"

    def needs(self) -> tuple[Artefact, ...]:
        network = getattr(self.selection, "network", None)
        return (self.duplicates, network) if network else (self.duplicates,)

    def cost(self) -> float:
        return self.selection.cost(images_of(self.target, "train"), images_of(self.pool, "train"), self.size)

    def evaluate(self, context: Any) -> dict[str, Any]:
        """Return ``indices`` and ``distances``, as on top of this page."""
        return context.neighbours(self)
