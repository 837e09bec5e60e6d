"""Taps: the layers that papers name, and how to read or freeze up to them."""

from functools import partial

import torch
from torch import nn

from ..errors import choose
from .alexnet import AlexNetModule
from .build import head_name
from .sites import sites

SOFTMAX = "softmax"


def taps(net: nn.Module) -> dict[str, str]:
    """Return the layers that can be read, in order: tap name to module name.

    AlexNet: ``conv1`` ... (after ReLU), ``conv1_pre`` ... (before it), ``pool1`` ..., ``fc6``, ``fc7``, ``fc8`` (the
    logits). Torchvision networks: ResNet's ``layer1`` to ``layer4`` and ``avgpool``, ``features.0`` ... where the
    network has ``features``, ``fc6`` and ``fc7`` (after ReLU) of its AlexNet and VGG, and ``head`` (the logits). After
    a linear head also ``softmax``.
    """
    if isinstance(net, AlexNetModule):
        found = {}
        for name, _ in net.named_children():
            if name.startswith("conv"):
                found[f"{name}_pre"] = f"{name}.norm"
            if name not in ("flatten", "head"):
                found[name] = name
        return found | {"fc8": "head", SOFTMAX: "head"}
    stages = [n for n, _ in net.named_children() if n not in ("features", "classifier", "fc", "heads", "head")]
    inner = [f"features.{n}" for n, _ in net.features.named_children()] if isinstance(getattr(net, "features", None), nn.Module) else []
    head = head_name(net)
    hidden = {name: f"classifier.{site.relu}" for name, site in sites(net).items()}
    last = ("head", SOFTMAX) if isinstance(net.get_submodule(head), nn.Linear) else ("head",)
    return {n: n for n in (*inner, *stages)} | hidden | dict.fromkeys(last, head)


def tap_module(net: nn.Module, tap: str) -> nn.Module:
    """Return the module behind a tap.

    Raises
    ------
    UserError
        If the network has no such tap.
    """
    known = taps(net)
    return net.get_submodule(known[choose("layer", tap, known)])


class Reader:
    """Reads activations at taps while a network runs.

    Use as a context manager; after each forward pass `read` maps tap to activations, (N, units) for vectors and
    (N, channels, height, width) for maps.
    """

    def __init__(self, net: nn.Module, wanted: tuple[str, ...]) -> None:
        self.read: dict[str, torch.Tensor] = {}
        self.modules = {tap: tap_module(net, tap) for tap in wanted}

    def __enter__(self) -> "Reader":
        def keep(tap: str):
            # a copy: the ReLU that follows may work in place
            change = partial(torch.softmax, dim=1) if tap == SOFTMAX else torch.clone
            return lambda module, inputs, output: self.read.__setitem__(tap, change(output))

        self.handles = [module.register_forward_hook(keep(tap)) for tap, module in self.modules.items()]
        return self

    def __exit__(self, *exc: object) -> None:
        for handle in self.handles:
            handle.remove()


def freeze(net: nn.Module, last: str) -> None:
    """Keep every layer up to and including the tap `last` as it is: no gradients, BatchNorm on its kept statistics.

    Layers count in the order in which the network defines them, which is the order of execution in all networks here.

    Raises
    ------
    UserError
        If the network has no such tap.
    """
    end = tap_module(net, last)
    inside = set(end.modules())
    passed = False
    for module in net.modules():
        if passed and module not in inside:
            break
        passed = passed or module is end
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
        module.frozen = module is end or not list(module.children())


def train_mode(net: nn.Module) -> None:
    """Put the network into training mode, but for frozen layers."""
    net.train()
    for module in net.modules():
        if getattr(module, "frozen", False):
            module.eval()
