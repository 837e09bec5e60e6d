"""What a network learns from: image sets, parts of them, targets, sources, weights. Nothing here imports torch."""

from dataclasses import dataclass, replace
from functools import cached_property

from ..errors import check, choose
from . import catalog
from .recipe import Recipe
from .serial import OneOf, Spec, flags, positive
from .task import SINGLE_LABEL, Task


class _Pinned:
    """What is known by `name` and `fingerprint`; a name that says where it lies on a machine tells nothing apart.

    Such a name begins with the class's `place`.
    """

    def __post_init__(self) -> None:
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", catalog.pinned(self.name)["fingerprint"])
        if not self.name:
            object.__setattr__(self, "name", catalog.named(self.place, self.fingerprint))

    @property
    def aside(self) -> tuple[str, ...]:
        return ("name",) if self.name.startswith(self.place) else ()


@dataclass(frozen=True)
class ImageSet(_Pinned, Spec, kind="image-set", version=1):
    """A labelled image set, by name and content. The version is that of decoding (and of the synthetic world).

    Parameters
    ----------
    name : str
        ``flowers102`` (a Parquet set), ``folder:PATH``, ``torchvision:CIFAR100`` or ``synthetic:DISTANCE``. The trials
        of a folder are the same wherever it lies; without a name it is looked up by its fingerprint.
    fingerprint : str
        What the images are; by default the one pinned for `name` in the manifest.
    """

    name: str = ""
    fingerprint: str = ""

    place = "folder:"

    @property
    def annotated(self) -> "ImageSet":
        """The same set, if its images are boxes of objects: as whole images, which have boxes.

        Raises
        ------
        UserError
            If it is known here, and has no objects.
        """
        entry = catalog.known(self.name).get(self.fingerprint, {})
        whole = entry.get("objects", {}).get("fingerprint", self.fingerprint)
        rule = f"no boxes of objects are noted; if it has some: transferlab data pin {self.name}"
        check(not entry or "objects" in entry or "boxes" in entry, "data set", self.name, rule)
        return replace(self, fingerprint=whole)


@dataclass(frozen=True)
class Subset(Spec, kind="subset", version=1):
    """Which part of a set's training images, and under which labels. The version is that of the draws.

    The steps are taken in the order of the fields. Draws are nested: for one seed, 20 images per class are among the
    50, and 50 classes are among the 100.

    Parameters
    ----------
    exclude : tuple of str, optional
        Classes, or inner nodes of the class tree, whose images are left out.
    classes : int or tuple of str, optional
        How many classes, drawn at random by the seed; or which: classes, or inner nodes of the class tree for all that
        lie below them (a name that is both means the class).
    per_class : int, optional
        Images per class, drawn at random by the seed; all of them by default.
    depth : int, optional
        Coarse labels, bottom-up: each class is replaced by its ancestor at this depth of the class tree (the root has
        depth 0); a class that is shallower stays (Huh et al., sec. 3.2).
    images : int, optional
        Images in all, instead of `per_class`: spread over the classes as evenly as can be (before labels are merged),
        drawn at random by the seed.
    lift : int, optional
        Coarse labels, top-down, instead of `depth`: so many times, each class is replaced by its parent, and what then
        lies below another one is merged into it (Huh et al., sec. 3.2).
    tail : float, optional
        Long-tailed, above 1: the largest class has so many times the images of the smallest, exponential in between.
        The largest has `per_class` images, or as many as the smallest class of the set; the seed draws their order.
    """

    exclude: tuple[str, ...] | None = None
    classes: int | tuple[str, ...] | None = None
    per_class: int | None = None
    depth: int | None = None
    images: int | None = None
    lift: int | None = None
    tail: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.classes, int):
            check(self.classes > 1, "classes", self.classes, "must be at least 2")
        for name in ("per_class", "images", "lift"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))
        whole = self.depth is None or (isinstance(self.depth, int) and self.depth >= 0)
        check(whole, "depth", self.depth, "must be a whole number, 0 or more")
        check(None in (self.depth, self.lift), "lift", self.lift, "labels are merged by depth or by lift, not by both")
        check(None in (self.images, self.per_class), "images", self.images, "a budget is images or per_class, not both")
        long = self.tail is None or (isinstance(self.tail, float) and self.tail > 1)
        check(long, "tail", self.tail, "must be a float above 1")
        check(None in (self.tail, self.images), "tail", self.tail, "goes with per_class or all images, not with images")

    @property
    def label(self) -> str:
        """A few words, for tables and progress."""
        drawn = isinstance(self.classes, int | None)
        chosen = f"{self.classes} classes" if drawn else _several(self.classes)
        parts = [chosen if self.classes else "", f"{self.per_class} a class" if self.per_class else ""]
        parts += [f"{self.images} images" if self.images else "", f"tail {self.tail:g}" if self.tail else ""]
        parts += [f"depth {self.depth}" if self.depth is not None else "", f"lifted {self.lift}" if self.lift else ""]
        parts += [f"without {_several(self.exclude)}" if self.exclude else ""]
        return ", ".join(filter(None, parts))

    @cached_property
    def shape(self) -> "Subset":
        """What parts have in common that make the same task: all but the number of images."""
        return replace(self, per_class=None, images=None, tail=None)


def _several(names: tuple[str, ...]) -> str:
    return "+".join(names) if len(names) < 3 else f"{len(names)} named"


WHOLE = Subset()


class _OnImages:
    """What sources and targets share: images by name, a part of them, a size in pixels."""

    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.images, str):
            object.__setattr__(self, "images", ImageSet(self.images))
        check(isinstance(self.size, int) and self.size >= 16, "size", self.size, "must be 16 pixels or more")

    @property
    def label(self) -> str:
        """A few words, for tables and progress."""
        name = ", ".join((self.images.name, *self.notes))
        return f"{name} ({self.subset.label})" if self.subset != WHOLE else name


@dataclass(frozen=True)
class Target(_OnImages, Spec, kind="target"):
    """The task that knowledge is moved to.

    Images are decoded to `size` pixels: the short side resized with a box filter, then a centre crop. A set without a
    validation split gives up 20% of its training images for one, stratified, drawn by the seed (of a class with a
    single one it gives up none, so that class is not validated); a set without a test split is tested on its validation
    split.

    Parameters
    ----------
    images : ImageSet or str
    size : int
        Side of the square images, in pixels.
    subset : Subset
        Part of the training images; the same classes and labels are kept in the other splits.
    task : Task, optional
        `MultiLabel` or `Detection`, of a set with boxes of objects. By default an image has one label (in such a set
        each box is an image). What the centre crop leaves less than a quarter of is difficult; of images without
        objects there may be any number.
    """

    images: ImageSet
    size: int
    subset: Subset = WHOLE
    task: Task | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task == SINGLE_LABEL:
            object.__setattr__(self, "task", None)
        if self.task:
            object.__setattr__(self, "images", self.images.annotated)
            long = self.subset.tail is None
            check(long, "tail", self.subset.tail, f"is that of sets with one label an image, not of {self.task.kind}")

    @property
    def asks(self) -> Task:
        """Its task, that of a target without one too."""
        return self.task or SINGLE_LABEL

    @property
    def notes(self) -> tuple[str, ...]:
        """What else is special about it."""
        return (self.task.kind,) if self.task else ()


@dataclass(frozen=True)
class Source(_OnImages, Spec, kind="source"):
    """What a network learned before: the images, the part of them, the recipe. Its seed is the trial's.

    Parameters
    ----------
    images : ImageSet or str
    size : int
        Side of the square images, in pixels.
    recipe : Recipe
        One learning rate: sources are not searched.
    subset : Subset
    grey : bool, optional
        Colours are taken away: every pixel gets its luma (ITU-R 601).
    stop : float or OneOf, optional
        Share of the steps after which the network is taken; all of them by default.
    """

    images: ImageSet
    size: int
    recipe: Recipe
    subset: Subset = WHOLE
    grey: bool | None = None
    stop: float | OneOf | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(isinstance(self.recipe.lr, float), "source lr", self.recipe.lr, "must be a single rate")
        flags(self, "grey")
        if self.stop == 1:
            object.__setattr__(self, "stop", None)
        fits = self.stop is None or (isinstance(self.stop, int | float) and 0 < self.stop <= 1)
        check(fits, "stop", self.stop, "must be a share of the steps, above 0 and at most 1")

    @property
    def notes(self) -> tuple[str, ...]:
        """What else is special about it."""
        stop = (f"{self.stop:.0%} of its steps",) if isinstance(self.stop, float) else ()
        return ("grey",) * bool(self.grey) + stop


@dataclass(frozen=True)
class Weights(_Pinned, Spec, kind="weights"):
    """Weights trained by somebody else, instead of a source that is trained here.

    Parameters
    ----------
    name : str
        ``file:PATH`` (safetensors or a torch state dict) or ``torchvision:WEIGHTS`` (``IMAGENET1K_V1`` ...). The trials
        of a file are the same wherever it lies; without a name it is looked up by its fingerprint.
    fingerprint : str
        SHA-256 of the file's bytes, first 16 digits; by default the one pinned for `name`. Torchvision's weights are
        what their name says.
    """

    name: str = ""
    fingerprint: str = ""

    place = "file:"

    def __post_init__(self) -> None:
        kind, _, name = self.name.partition(":")
        if self.name and choose("weights", kind, ("file", "torchvision")) == "torchvision":
            object.__setattr__(self, "fingerprint", name)
        super().__post_init__()

    @property
    def label(self) -> str:
        """A few words, for tables and progress."""
        return self.name
