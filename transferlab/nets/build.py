"""Networks from their specs: fresh, with a new head, or with weights from a file or from torchvision."""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision
from torch import nn

from ..backbones import AlexNet, Backbone, ResNet, Torchvision
from ..errors import UserError, check, choose
from ..paths import file_fingerprint, weights_file
from ..specs import Weights
from .alexnet import AlexNetModule
from .blocks import drawn, like

HEAD_STD = 0.01


def build(backbone: Backbone, size: int, classes: int, seed: int) -> nn.Module:
    """Return a freshly initialised network.

    Parameters
    ----------
    backbone : AlexNet, ResNet or Torchvision
    size : int
        Side of the images in pixels.
    classes : int
        Outputs of the head.
    seed : int
        Of the initialisation; the global random state is left as it was.

    Raises
    ------
    UserError
        If torchvision has no such classification network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(backbone, AlexNet):
            return AlexNetModule(backbone, size, classes)
        if isinstance(backbone, ResNet):
            net = getattr(torchvision.models, f"resnet{backbone.depth}")(num_classes=classes)
            if backbone.stem == "small":
                net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
                nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
            return net
        name = choose("backbone", backbone.name, torchvision.models.list_models(torchvision.models))
        return torchvision.models.get_model(name, weights=None, num_classes=classes)


def head_name(net: nn.Module) -> str:
    """Return the name of the layer that makes the logits: the last linear one, or SqueezeNet's last convolution.

    Raises
    ------
    UserError
        If the network has neither.
    """
    layers = [(name, m) for name, m in net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    check(bool(layers), "network", type(net).__name__, "has no linear or convolutional layer that could be its head")
    return layers[-1][0]


def head_of(net: nn.Module) -> tuple[nn.Module, str, nn.Module]:
    """Return the head's holder, its name there, and the head."""
    parent, _, leaf = head_name(net).rpartition(".")
    holder = net.get_submodule(parent)
    return holder, leaf, holder.get_submodule(leaf)


def new_head(net: nn.Module, classes: int, seed: int | torch.Generator, before: int | None = None) -> nn.Module:
    """Put a fresh head in place, weights drawn from N(0, 0.01^2), bias zero, and return the head.

    Parameters
    ----------
    net : Module
    classes : int
    seed : int or Generator
        Of the weights, or what they are drawn from.
    before : int, optional
        Units that it reads; by default those that the old one did.
    """
    holder, leaf, old = head_of(net)
    draw = torch.Generator().manual_seed(seed) if isinstance(seed, int) else seed
    head = drawn(like(old, before or old.weight.shape[1], classes), draw, HEAD_STD)
    setattr(holder, leaf, head)
    return head


def pretrained(weights: Weights, backbone: Backbone, size: int) -> nn.Module:
    """Return a network with somebody else's weights, with their head.

    Raises
    ------
    UserError
        If the file is missing or is not the pinned one, or the weights belong to another architecture.
    """
    kind, _, name = weights.name.partition(":")
    choose("weights", kind, ("file", "torchvision"))
    if kind == "torchvision":
        check(isinstance(backbone, Torchvision | ResNet), "weights", weights.name, "belong to torchvision's own networks")
        arch = backbone.name if isinstance(backbone, Torchvision) else f"resnet{backbone.depth}"
        known = [w.name for w in torchvision.models.get_model_weights(arch)]
        return torchvision.models.get_model(arch, weights=choose("weights", name, known))
    path = weights_file(weights.name)
    found = file_fingerprint(path)
    check(found == weights.fingerprint, f"{weights.name} fingerprint", found, f"the trials name {weights.fingerprint}")
    state = read_state(path)
    net = build(backbone, size, 2, seed=0)
    head = f"{head_name(net)}.weight"
    if head in state:
        new_head(net, len(state[head]), seed=0)
    fit_state(net, state, weights.name)
    return net


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict from safetensors or a torch file, floating point as float32.

    Raises
    ------
    UserError
        If the file is truncated or no state dict.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    except Exception as e:
        raise UserError(f"weights (={path}): cannot be read as a state dict ({(str(e) or type(e).__name__).splitlines()[0]})") from e


def fit_state(net: nn.Module, state: dict[str, torch.Tensor], name: str) -> None:
    """Load a state dict whose names and shapes must all match.

    Raises
    ------
    UserError
        Naming the first difference, if the weights are of another architecture.
    """
    own = net.state_dict()
    odd = sorted(own.keys() ^ state.keys()) or sorted(k for k in own if own[k].shape != state[k].shape)
    if odd:
        where = "both" if odd[0] in own and odd[0] in state else "the network" if odd[0] in own else "the file"
        shapes = f", {tuple(state[odd[0]].shape)} for {tuple(own[odd[0]].shape)}" if where == "both" else f" is only in {where}"
        raise UserError(f"weights (={name}): of another architecture ({len(odd)} tensors differ; {odd[0]}{shapes})")
    net.load_state_dict(state)
