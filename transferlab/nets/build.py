"""Networks from their specs: fresh, with a new head, or with weights from a file or from torchvision."""

import torch
from torch import nn

from ..errors import check, choose, torchvision
from ..paths import file_fingerprint, weights_file
from ..specs import AlexNet, Backbone, ResNet, Weights
from .alexnet import AlexNetModule
from .blocks import drawn, like
from .weights import fit_state, found_in, read_state

HEAD_STD = 0.01
WITH_AUXILIARY = ("googlenet", "inception_v3")  # second and third heads, which are left out


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
        models = torchvision("models")
        name = choose("backbone", backbone.name, models.list_models(models))
        without = {"aux_logits": False, "init_weights": True} if name in WITH_AUXILIARY else {}
        net = models.get_model(name, weights=None, num_classes=classes, **without)
        if isinstance(backbone, ResNet) and backbone.stem == "small":
            net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
            nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    return name_head(net)


def name_head(net: nn.Module) -> nn.Module:
    """Write down which layer of a network from elsewhere makes the logits, and return the network.

    That is the last linear layer, or SqueezeNet's last convolution; for another one, set ``net.head_name`` yourself.

    Raises
    ------
    UserError
        If the network has neither.
    """
    layers = [name for name, m in net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    check(bool(layers), "network", type(net).__name__, "has no linear or convolutional layer that could be its head")
    net.head_name = layers[-1]
    return net


def head_name(net: nn.Module) -> str:
    """Return the name of the layer that makes the logits, which the network itself knows.

    Raises
    ------
    UserError
        If it was neither built here nor given a name by `name_head`.
    """
    check(hasattr(net, "head_name"), "network", type(net).__name__, "does not name its head; see nets.build.name_head")
    return net.head_name


def head_of(net: nn.Module) -> tuple[nn.Module, str, nn.Module]:
    """Return the head's holder, its name there, and the head."""
    parent, _, leaf = head_name(net).rpartition(".")
    holder = net.get_submodule(parent)
    return holder, leaf, holder.get_submodule(leaf)


def with_head(net: nn.Module) -> nn.Module:
    """Return a network whose own answers are asked for.

    Raises
    ------
    UserError
        If its weights came without a head.
    """
    rule = "its weights came without a head, so it has no answers; a new head is trained by fine-tuning and probes"
    check(not getattr(net, "headless", False), "network", type(net).__name__, rule)
    return net


def new_head(net: nn.Module, classes: int, seed: "int | torch.Generator", before: int | None = None) -> nn.Module:
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
    net.headless = False
    return head


def pretrained(weights: Weights, backbone: Backbone, size: int) -> nn.Module:
    """Return a network with somebody else's weights, with their head; where they have none, ``net.headless`` is true.

    Raises
    ------
    UserError
        If the file is missing or is not the pinned one, or the weights belong to another architecture.
    """
    if weights.name.startswith("torchvision:"):
        check(not isinstance(backbone, AlexNet), "weights", weights.name, "belong to torchvision's own networks")
        known = [w.name for w in torchvision("models").get_model_weights(backbone.name)]
        name = choose("weights", weights.name.removeprefix("torchvision:"), known)
        without = {"aux_logits": False} if backbone.name in WITH_AUXILIARY else {}
        return name_head(torchvision("models").get_model(backbone.name, weights=name, **without))
    path = weights_file(weights.name)
    found = file_fingerprint(path)
    check(found == weights.fingerprint, f"{weights.name} fingerprint", found, f"the trials name {weights.fingerprint}")
    net = build(backbone, size, 2, seed=0)
    head = head_name(net)
    state = found_in(read_state(path), net, head, weights.name)
    if f"{head}.weight" in state:
        new_head(net, len(state[f"{head}.weight"]), seed=0)
    else:
        net.headless = True
        state |= {k: v for k, v in net.state_dict().items() if k.startswith(f"{head}.")}
    fit_state(net, state, weights.name)
    return net
