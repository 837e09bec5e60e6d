"""Backbones as values: what network, not yet its weights. Nothing here imports torch."""

from dataclasses import dataclass
from functools import cache

from ..errors import check, choose
from .serial import Spec, positive

GROWTH_NORMS = ("l2", "batch", "layer", "none")
GROWTH_SCOPES = ("new", "fc7-new", "fc6-new", "all")


@dataclass(frozen=True)
class AlexNet(Spec, kind="alexnet", version=1):
    """conv1 to conv5, FC6, FC7 and a head, for images of 32 to 227 px (Krizhevsky et al. 2012).

    Parameters
    ----------
    channels : tuple of int, length 5 or more
        Output channels of the convolutions (Azizpour et al., table 1); a sixth, seventh ... stands before the last
        pooling.
    hidden : tuple of int, length 2
        Units of FC6 and FC7.
    norm : {"none"}, optional
        ``none``: no normalisation, and convolutions with a bias, as in the papers' networks but for local response
        normalisation; by default BatchNorm behind every convolution.
    """

    channels: tuple[int, ...]
    hidden: tuple[int, ...]
    norm: str | None = None

    def __post_init__(self) -> None:
        check(len(self.channels) >= 5, "channels", self.channels, "must be five numbers or more, conv1 to conv5")
        check(len(self.hidden) == 2, "hidden", self.hidden, "must be two numbers, FC6 and FC7")
        check(self.norm in (None, "none"), "norm", self.norm, "must be none, or left out for BatchNorm")
        for units in (*self.channels, *self.hidden):
            positive("units", units)

    @cache  # noqa: B019 (of few values, which are kept anyway)
    def multiply_adds(self, size: int) -> int:
        """Multiply-adds of one forward pass without the head, per image of `size` px."""
        total, before, side = 0, 3, size
        geometry = alexnet_geometry(size, len(self.channels))
        for out, (kernel, stride, pad, pool) in zip(self.channels, geometry, strict=True):
            side = (side + 2 * pad - kernel) // stride + 1
            total += kernel * kernel * before * out * side * side
            side, before = ((side - pool) // 2 + 1 if pool else side), out
        return total + before * side * side * self.hidden[0] + self.hidden[0] * self.hidden[1]


def alexnet_geometry(size: int, layers: int = 5) -> list[tuple[int, int, int, int]]:
    """Return (kernel, stride, padding, pooling window or 0) of each convolution for images of `size` px.

    From 192 px on this is AlexNet's own geometry (11x11 stride 4, overlapping pooling); below, the entrance shrinks so
    that about 4 x 4 positions are left at the end. All pooling has stride 2.
    """
    if size >= 192:
        first, second, window = (11, 4, 2, 3), (5, 1, 2, 3), 3
    elif size >= 96:
        first, second, window = (7, 4, 3, 2), (3, 1, 1, 2), 2
    else:
        first, second, window = (5, 2, 2, 2 if size >= 48 else 0), (3, 1, 1, 2), 2
    return [first, second, *[(3, 1, 1, 0)] * (layers - 3), (3, 1, 1, window)]


@dataclass(frozen=True)
class ResNet(Spec, kind="resnet", version=1):
    """A torchvision ResNet, with its own entrance or one for small images (He et al. 2016, sec. 4.2).

    Parameters
    ----------
    depth : {18, 34, 50, 101, 152}
    stem : {"small", "full"}
        ``small``: 3x3 stride 1 and no pooling, for 32 to 64 px; ``full``: 7x7 stride 2 and max pooling.
    """

    depth: int = 18
    stem: str = "small"

    def __post_init__(self) -> None:
        choose("depth", self.depth, (18, 34, 50, 101, 152))
        choose("stem", self.stem, ("small", "full"))

    @property
    def name(self) -> str:
        """What torchvision calls it."""
        return f"resnet{self.depth}"

    def multiply_adds(self, size: int) -> int:
        """Multiply-adds of one forward pass, per image of `size` px, to about 5%."""
        at_224 = {18: 1.82e9, 34: 3.67e9, 50: 4.1e9, 101: 7.8e9, 152: 11.5e9}[self.depth]
        return int(at_224 * (size / 224) ** 2 * (16 if self.stem == "small" else 1))


@dataclass(frozen=True)
class Torchvision(Spec, kind="torchvision", version=1):
    """Any classification network of torchvision, by its name there (``squeezenet1_0``, ``mobilenet_v2`` ...)."""

    name: str

    def multiply_adds(self, size: int) -> int:
        """A rough figure (1 GMAC at 224 px): used for estimates of time only."""
        return int(1e9 * (size / 224) ** 2)


Backbone = AlexNet | ResNet | Torchvision
