"""The AlexNet family, for images of 16 to 227 px, with BatchNorm in the convolutions or without any normalisation."""

from collections import OrderedDict
from collections.abc import Iterable

import torch
from torch import nn

from ..specs.networks import AlexNet, alexnet_geometry

SECOND_HEADS = "second_heads"  # a child that holds them: `forward` leaves it out


class Chain(nn.Sequential):
    """A network whose children run one after another, second heads left out.

    Parameters
    ----------
    children : iterable of (str, Module)
    head_name : str
        Of the layer that makes the logits.
    """

    def __init__(self, children: Iterable[tuple[str, nn.Module]] = (), head_name: str = "head") -> None:
        super().__init__(OrderedDict(children))
        self.head_name = head_name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name, layer in self.named_children():
            if name != SECOND_HEADS:
                x = layer(x)
        return x


def block(**layers: nn.Module) -> nn.Sequential:
    """Return a layer, BatchNorm if there is one, and ReLU, named ``linear`` or ``conv``, ``norm`` and ``relu``."""
    first, *norms = layers.values()
    # without BatchNorm, nothing but the weights keeps activations as large as what comes in
    nn.init.kaiming_normal_(first.weight, mode="fan_out" if norms else "fan_in", nonlinearity="relu")
    if first.bias is not None:
        nn.init.zeros_(first.bias)
    return nn.Sequential(OrderedDict(**layers, relu=nn.ReLU(inplace=True)))


class AlexNetModule(Chain):
    """The network that an `AlexNet` spec describes.

    Parameters
    ----------
    spec : AlexNet
    size : int
        Side of the images in pixels: it fixes the entrance and the number of FC6's inputs.
    classes : int
        Outputs of the head.

    Notes
    -----
    ``forward`` maps float images (N, 3, size, size) to logits (N, classes). Children, in order: ``conv1``, ``pool1``
    ..., ``fc6``, ``fc7``, ``head``. BatchNorm stands where AlexNet had local response normalisation; FC6 and FC7 have
    none, as in the papers.
    """

    def __init__(self, spec: AlexNet, size: int, classes: int) -> None:
        super().__init__()
        before, side = 3, size
        geometry = alexnet_geometry(size, len(spec.channels))
        for layer, (out, (kernel, stride, pad, pool)) in enumerate(zip(spec.channels, geometry, strict=True), start=1):
            conv = nn.Conv2d(before, out, kernel, stride, pad, bias=spec.norm == "none")
            norm = {} if spec.norm == "none" else {"norm": nn.BatchNorm2d(out)}
            self.add_module(f"conv{layer}", block(conv=conv, **norm))
            side = (side + 2 * pad - kernel) // stride + 1
            if pool:
                self.add_module(f"pool{layer}", nn.MaxPool2d(pool, 2))
                side = (side - pool) // 2 + 1
            before = out
        self.flatten = nn.Flatten()
        self.fc6 = block(linear=nn.Linear(before * side * side, spec.hidden[0]))
        self.fc7 = block(linear=nn.Linear(*spec.hidden))
        self.head = nn.Linear(spec.hidden[1], classes)
