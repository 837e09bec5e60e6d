"""Networks from their specs: fresh, with a new head, or with weights from a file or from torchvision."""

from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from ..errors import UserError, check, choose, torchvision
from ..paths import file_fingerprint, weights_file
from ..specs import AlexNet, Backbone, ResNet, Weights
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
        models = torchvision("models")
        name = choose("backbone", backbone.name, models.list_models(models))
        net = models.get_model(name, weights=None, num_classes=classes)
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
    return head


def pretrained(weights: Weights, backbone: Backbone, size: int) -> nn.Module:
    """Return a network with somebody else's weights, with their head.

    Raises
    ------
    UserError
        If the file is missing or is not the pinned one, or the weights belong to another architecture.
    """
    if weights.name.startswith("torchvision:"):
        check(not isinstance(backbone, AlexNet), "weights", weights.name, "belong to torchvision's own networks")
        known = [w.name for w in torchvision("models").get_model_weights(backbone.name)]
        name = choose("weights", weights.name.removeprefix("torchvision:"), known)
        return name_head(torchvision("models").get_model(backbone.name, weights=name))
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
        safe = path.suffix == ".safetensors"
        state = safetensors.torch.load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
        return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    except Exception as e:
        why = (str(e) or type(e).__name__).splitlines()[0]
        raise UserError(f"weights (={path}): cannot be read as a state dict ({why})") from e


def fit_state(net: nn.Module, state: dict[str, torch.Tensor], name: str) -> None:
    """Load a state dict whose names and shapes must all match.

    Raises
    ------
    UserError
        Naming the first difference, if the weights are of another architecture, or the first that are no numbers.
    """
    own = net.state_dict()
    odd = sorted(own.keys() ^ state.keys()) or sorted(k for k in own if own[k].shape != state[k].shape)
    if odd:
        shapes = [str(tuple(each[odd[0]].shape)) for each in (state, own) if odd[0] in each]
        where = f" is only in the {'network' if odd[0] in own else 'file'}"
        differs = f", {' for '.join(shapes)}" if len(shapes) > 1 else where
        raise UserError(f"weights (={name}): of another architecture ({len(odd)} tensors differ; {odd[0]}{differs})")
    bad = next((n for n, value in state.items() if not value.isfinite().all()), None)
    check(bad is None, "weights", name, f"hold what is no finite number ({bad})")
    net.load_state_dict(state)
