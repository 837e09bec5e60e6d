"""The AlexNet family, for images of 16 to 227 px, with BatchNorm in the convolutions."""

from collections import OrderedDict

import torch
from torch import nn

from ..backbones import AlexNet, alexnet_geometry


def conv_block(before: int, out: int, kernel: int, stride: int, pad: int) -> nn.Sequential:
    """Return convolution, BatchNorm and ReLU, by the names ``conv``, ``norm`` and ``relu``."""
    conv = nn.Conv2d(before, out, kernel, stride, pad, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(out), relu=nn.ReLU(inplace=True)))


def linear_block(before: int, out: int) -> nn.Sequential:
    """Return a linear layer and ReLU, by the names ``linear`` and ``relu``."""
    linear = nn.Linear(before, out)
    nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
    nn.init.zeros_(linear.bias)
    return nn.Sequential(OrderedDict(linear=linear, relu=nn.ReLU(inplace=True)))


class AlexNetModule(nn.Module):
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
            self.add_module(f"conv{layer}", conv_block(before, out, kernel, stride, pad))
            side = (side + 2 * pad - kernel) // stride + 1
            if pool:
                self.add_module(f"pool{layer}", nn.MaxPool2d(pool, 2))
                side = (side - pool) // 2 + 1
            before = out
        self.flatten = nn.Flatten()
        self.fc6 = linear_block(before * side * side, spec.hidden[0])
        self.fc7 = linear_block(*spec.hidden)
        self.head = nn.Linear(spec.hidden[1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.children():
            x = layer(x)
        return x
