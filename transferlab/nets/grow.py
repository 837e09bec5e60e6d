"""Growth surgery: widen and deepen a trained network (Wang, Ramanan and Hebert 2017), and controls that keep its function.

Every function returns a new module and leaves the one it was given as it was. The parameters of old units keep their names, so
that a state dict of the old network fits into the grown one; what is new lies below a name with ``new`` in it, or is the head.

Two places can grow. In AlexNet and VGG these are the hidden layers ``fc6`` and ``fc7``, as in the paper. In every other
network it is the ``representation``: what the head reads. There, new units are a linear layer and a ReLU beside it, or on top of it
(of 1x1 convolutions where the head is one).
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import check, choose
from ..serial import positive
from .alexnet import AlexNetModule
from .build import HEAD_STD, head_name

SCALE = 20.0  # of activations brought to one scale; the paper names 10 and 20
EPSILON = 1e-6  # added to squared norms: an all-zero block stays zero and has a finite gradient
NOISE = 0.1  # of copied units, as a share of the standard deviation of their weights
REPRESENTATION = "representation"
NORMS = ("l2", "batch", "layer", "none")
INITS = ("random", "copy")
SCOPES = ("new", "fc7-new", "fc6-new", "all")


class WideLinear(nn.Linear):
    """A linear layer with new units beside the old ones; outputs are the old block's and then each new one's.

    Parameters
    ----------
    old : Linear
        Its parameters become those of this layer, under the same names. It goes on reading its own inputs only.
    """

    def __init__(self, old: nn.Linear) -> None:
        super().__init__(old.in_features, old.out_features, old.bias is not None, device="meta")
        self.weight, self.bias = old.weight, old.bias
        self.new = nn.ModuleList()

    @property
    def blocks(self) -> list[int]:
        """Units of the old block and of each new one."""
        return [self.out_features, *(layer.out_features for layer in self.new)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        old = F.linear(x[:, : self.in_features], self.weight, self.bias)
        return torch.cat([old, *(layer(x[:, : layer.in_features]) for layer in self.new)], 1)


class BlockScale(nn.Module):
    """Bring blocks of activations to one scale: each is divided by its norm, sample by sample, and every unit multiplied by its own gain.

    Equations 1 and 2 of Wang et al. The norm is that over the units of a block; of maps, at every position.

    Parameters
    ----------
    blocks : sequence of int
        Units of each block.
    scale : float
        What all gains start from.
    """

    def __init__(self, blocks: Sequence[int], scale: float = SCALE) -> None:
        super().__init__()
        check(scale > 0, "scale", scale, "must be above 0")
        self.gain = nn.ParameterList(nn.Parameter(torch.full((units,), float(scale))) for units in blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = (1, -1, *[1] * (x.ndim - 2))
        found = []
        for part, gain in zip(x.float().split([len(gain) for gain in self.gain], 1), self.gain, strict=True):
            found.append(part * (part.square().sum(1, keepdim=True) + EPSILON).rsqrt() * gain.view(shape))
        return torch.cat(found, 1).to(x.dtype)


class Branch(nn.Module):
    """New units beside a representation: what comes in, and linear layers of it, each with a ReLU.

    Parameters
    ----------
    before : int
        Units of the representation.
    """

    def __init__(self, before: int) -> None:
        super().__init__()
        self.before, self.new = before, nn.ModuleList()

    @property
    def blocks(self) -> list[int]:
        """Units of the representation and of each new block."""
        return [self.before, *(len(layer.weight) for layer in self.new)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, *(F.relu(layer(x)) for layer in self.new)], 1)


@dataclass(frozen=True)
class Site:
    """Where units can be added: a linear layer and the ReLU behind it, by their names in the module that holds them."""

    holder: nn.Module
    linear: str
    relu: str

    @property
    def layer(self) -> nn.Linear:
        """The linear layer as it is now."""
        return self.holder.get_submodule(self.linear)

    @property
    def behind(self) -> nn.Module:
        """What follows it: the ReLU, or the ReLU and a normalisation."""
        return self.holder.get_submodule(self.relu)


def sites(net: nn.Module) -> dict[str, Site]:
    """Return the hidden layers that the paper grows, ``fc6`` and ``fc7``; none in networks that have no such layers."""
    if isinstance(net, AlexNetModule):
        return {name: Site(net.get_submodule(name), "linear", "relu") for name in ("fc6", "fc7")}
    holder = getattr(net, "classifier", None)
    linear = [n for n, m in holder.named_children() if isinstance(m, nn.Linear)] if isinstance(holder, nn.Sequential) else []
    if len(linear) != 3:
        return {}
    return {name: Site(holder, n, str(int(n) + 1)) for name, n in zip(("fc6", "fc7"), linear, strict=False)}


def widen(
    net: nn.Module,
    units: int,
    layer: str | None = None,
    *,
    norm: str = "l2",
    scale: float = SCALE,
    init: str = "random",
    classes: int | None = None,
    seed: int = 0,
) -> nn.Module:
    """Add units beside a layer, and a new head that reads old and new ones (WA-CNN, sec. 3).

    Parameters
    ----------
    net : Module
    units : int
        How many new ones.
    layer : str, optional
        ``fc7``, or ``representation``; by default ``fc7`` where there is one. (``fc6`` grows with it: `widen_twice`.)
    norm : {"l2", "batch", "layer", "none"}
        How old and new activations are brought to one scale: `BlockScale`, as in the paper; BatchNorm or LayerNorm over all of
        them; or not at all.
    scale : float
        What the gains of ``l2`` start from.
    init : {"random", "copy"}
        New units are drawn at random, or are copies of old ones with noise ("copy+rand" of table 3).
    classes : int, optional
        Outputs of the new head; by default as many as the old one's.
    seed : int
        Of everything that is drawn.

    Returns
    -------
    Module

    Raises
    ------
    UserError
        If there is no such layer, nothing to add, or no head.
    """
    grown, draw = copy.deepcopy(net), torch.Generator().manual_seed(seed)
    layer = _layer(grown, layer, ("fc7", REPRESENTATION))
    check(not _deepened(grown), "layer", layer, "lies below a layer that was put on top; widen first, then deepen")
    if layer == REPRESENTATION:
        blocks = _widen_representation(grown, units, norm, scale, init, draw)
    else:
        blocks = _widen_hidden(grown, layer, units, norm, scale, init, draw)
    _fresh_head(grown, sum(blocks), classes, draw)
    return grown


def widen_twice(
    net: nn.Module,
    units: tuple[int, int],
    *,
    norm: str = "l2",
    scale: float = SCALE,
    init: str = "random",
    classes: int | None = None,
    seed: int = 0,
) -> nn.Module:
    """Add units beside FC6 and beside FC7 (WWA-CNN): new units of FC7 read all of FC6, old ones its old units only.

    Parameters
    ----------
    units : tuple of int
        New units of FC6 and of FC7.
    net, norm, scale, init, classes, seed
        As in `widen`.

    Raises
    ------
    UserError
        If the network has no FC6 and FC7, or nothing is to be added.
    """
    grown, draw = copy.deepcopy(net), torch.Generator().manual_seed(seed)
    check(not _deepened(grown), "layer", "fc7", "lies below a layer that was put on top; widen first, then deepen")
    for layer, count in zip(("fc6", "fc7"), units, strict=True):
        blocks = _widen_hidden(grown, _layer(grown, layer, ("fc6", "fc7")), count, norm, scale, init, draw)
    _fresh_head(grown, sum(blocks), classes, draw)
    return grown


def deepen(net: nn.Module, units: int, *, norm: str = "l2", scale: float = SCALE, classes: int | None = None, seed: int = 0) -> nn.Module:
    """Put a new layer on top of the representation, and a new head on top of that (DA-CNN, sec. 3).

    Parameters
    ----------
    net, norm, scale, classes, seed
        As in `widen`.
    units : int
        Of the new layer.

    Raises
    ------
    UserError
        If nothing is to be added, or the network has no head.
    """
    grown, draw = copy.deepcopy(net), torch.Generator().manual_seed(seed)
    positive("units", units)
    _, _, head = _head(grown)
    layer = _draw(_like(head, head.weight.shape[1], units), draw)
    parts = {"new": nn.Sequential(OrderedDict(linear=layer, relu=nn.ReLU()))}
    _before_head(grown, parts | _norm(head, [units], norm, scale))
    _fresh_head(grown, units, classes, draw)
    return grown


def widen_and_deepen(
    net: nn.Module,
    units: tuple[int, int],
    layer: str | None = None,
    *,
    norm: str = "l2",
    scale: float = SCALE,
    init: str = "random",
    classes: int | None = None,
    seed: int = 0,
) -> nn.Module:
    """Widen a layer, and put a new one on top that reads old and new units (DWA-CNN).

    Parameters
    ----------
    units : tuple of int
        Beside the layer, and on top.
    net, layer, norm, scale, init, classes, seed
        As in `widen`.

    Raises
    ------
    UserError
        As `widen`.
    """
    grown = widen(net, units[0], layer, norm=norm, scale=scale, init=init, seed=seed)
    return deepen(grown, units[1], norm=norm, scale=scale, classes=classes, seed=seed + 1)


def normalised(net: nn.Module, layer: str | None = None, *, scale: float = SCALE, classes: int | None = None, seed: int = 0) -> nn.Module:
    """Bring a layer's activations to a scale without adding units: the control for what scaling does by itself.

    Parameters
    ----------
    net, layer, scale, classes, seed
        As in `widen`.
    """
    grown, draw = copy.deepcopy(net), torch.Generator().manual_seed(seed)
    layer = _layer(grown, layer, ("fc7", REPRESENTATION))
    _, _, head = _head(grown)
    width = head.weight.shape[1]
    if layer == REPRESENTATION:
        _before_head(grown, _norm(head, [width], "l2", scale))
    else:
        _set_norm(sites(grown)[layer], [width], "l2", scale)
    _fresh_head(grown, width, classes, draw)
    return grown


# ---------------------------------------------------------------------------------------- controls that keep the function


@torch.no_grad()
def net2wider(net: nn.Module, units: int, *, seed: int = 0) -> nn.Module:
    """Widen FC7 by copies of its units, whose outgoing weights are shared out: the outputs stay as they are.

    Parameters
    ----------
    net, units, seed
        As in `widen`, for networks with FC6 and FC7 that have not grown yet.

    References
    ----------
    Chen, Goodfellow and Shlens 2016, Net2Net, sec. 2.
    """
    grown, draw = copy.deepcopy(net), torch.Generator().manual_seed(seed)
    positive("units", units)
    site = sites(grown)[_layer(grown, "fc7", ("fc7",))]
    old = site.layer
    plain = not isinstance(old, WideLinear) and not _deepened(grown) and not isinstance(site.behind, nn.Sequential)
    check(plain, "layer", "fc7", "has grown already; net2wider takes a plain one")
    chosen = torch.randint(old.out_features, (units,), generator=draw).to(old.weight.device)
    new = _like(old, old.in_features, units)
    new.weight.copy_(old.weight[chosen])
    new.bias.copy_(old.bias[chosen])
    _wide(site).new.append(new)
    holder, name, head = _head(grown)
    shared = head.weight / (1 + torch.bincount(chosen, minlength=old.out_features))
    bigger = _like(head, old.out_features + units, head.out_features)
    bigger.weight.copy_(torch.cat([shared, shared[:, chosen]], 1))
    bigger.bias.copy_(head.bias)
    setattr(holder, name, bigger)
    return grown


@torch.no_grad()
def net2deeper(net: nn.Module) -> nn.Module:
    """Put an identity layer with a ReLU on top of FC7: the outputs stay as they are.

    References
    ----------
    Chen, Goodfellow and Shlens 2016, Net2Net, sec. 2.

    Raises
    ------
    UserError
        If the network has no FC7: a ReLU keeps only what one has passed already.
    """
    grown = copy.deepcopy(net)
    _layer(grown, "fc7", ("fc7",))
    _, _, head = _head(grown)
    width = head.weight.shape[1]
    layer = _like(head, width, width)
    layer.weight.copy_(torch.eye(width))
    layer.bias.zero_()
    _before_head(grown, {"new": nn.Sequential(OrderedDict(linear=layer, relu=nn.ReLU()))})
    return grown


# ------------------------------------------------------------------------------------------------- what is new, and trained


def new_modules(net: nn.Module) -> list[nn.Module]:
    """Return the parts of a grown network that are new, the head included: what learns ten times as fast (sec. 3.3)."""
    return [*(m for name, m in net.named_modules() if name.rpartition(".")[2] in ("new", "new_norm")), _head(net)[2]]


def train_only(net: nn.Module, scope: str) -> None:
    """Let only a part of a network be trained, in place (table 1's four columns).

    Parameters
    ----------
    scope : {"new", "fc7-new", "fc6-new", "all"}
        What is new; that and the old units of FC7; those of FC6 too; everything.

    Raises
    ------
    UserError
        If there is no such scope, or the network has no FC6 and FC7.
    """
    choose("scope", scope, SCOPES if sites(net) else ("new", "all"))
    kept = new_modules(net)
    if scope.startswith("fc"):
        kept += [site.layer for name, site in sites(net).items() if name >= scope[:3]]
    trained = {id(p) for module in kept for p in module.parameters()}
    for module in net.modules():
        own = list(module.parameters(recurse=False))
        for p in own:
            p.requires_grad_(scope == "all" or id(p) in trained)
        module.frozen = bool(own) and not any(p.requires_grad for p in own)


@torch.no_grad()
def only_block(net: nn.Module, block: int) -> nn.Module:
    """Return a network whose head sees one block of a widened layer only: 0 is the old one, 1 the first new one (figure 6).

    Raises
    ------
    UserError
        If what the head reads was not widened, or has no such block.
    """
    left = copy.deepcopy(net)
    blocks = _read_by_head(left)
    check(len(blocks) > 1, "network", type(net).__name__, "its head does not read a widened layer")
    check(0 <= block < len(blocks), "block", block, f"must be 0 to {len(blocks) - 1}")
    _, _, head = _head(left)
    for number, columns in enumerate(torch.arange(sum(blocks)).split(blocks)):
        if number != block:
            head.weight[:, columns] = 0
    return left


# ------------------------------------------------------------------------------------------------------------ the scalpel


def _layer(net: nn.Module, layer: str | None, allowed: Sequence[str]) -> str:
    """Return the layer that is meant: one of `allowed` that the network has."""
    here = [*sites(net)] or [REPRESENTATION]
    known = [name for name in allowed if name in here]
    check(bool(known), "layer", layer or allowed[-1], f"this network has none of {', '.join(allowed)}; it can grow at {', '.join(here)}")
    return choose("layer", layer or known[0], known)


def _head(net: nn.Module) -> tuple[nn.Module, str, nn.Module]:
    """Return the head's holder, its name there, and the head."""
    parent, _, leaf = head_name(net).rpartition(".")
    holder = net.get_submodule(parent)
    return holder, leaf, holder.get_submodule(leaf)


def _in_front(net: nn.Module) -> nn.Module | None:
    """Return the modules that growth put in front of the head, with it, if there are any."""
    holder, leaf, _ = _head(net)
    ours = leaf == "head" and any(hasattr(holder, name) for name in ("units", "new", "new_norm"))
    return holder if ours else None


def _deepened(net: nn.Module) -> bool:
    return hasattr(_in_front(net), "new")


def _read_by_head(net: nn.Module) -> list[int]:
    """Return the units of each block that the head reads."""
    front = _in_front(net)
    if hasattr(front, "units"):
        return front.units.blocks
    if front is None and sites(net):
        return _blocks(sites(net)["fc7"].layer)
    return [_head(net)[2].weight.shape[1]]


def _blocks(layer: nn.Linear) -> list[int]:
    return layer.blocks if isinstance(layer, WideLinear) else [layer.out_features]


def _like(model: nn.Module, before: int, units: int) -> nn.Module:
    """Return a layer of the kind, type and place of another: linear, or a 1x1 convolution."""
    where = {"device": model.weight.device, "dtype": model.weight.dtype}
    return nn.Conv2d(before, units, 1, **where) if isinstance(model, nn.Conv2d) else nn.Linear(before, units, **where)


@torch.no_grad()
def _draw(layer: nn.Module, draw: torch.Generator, std: float | None = None) -> nn.Module:
    """Fill a layer: weights from N(0, std^2), by default He's for a ReLU; biases zero."""
    std = (2 / layer.weight[0].numel()) ** 0.5 if std is None else std
    layer.weight.copy_(torch.randn(layer.weight.shape, generator=draw) * std)
    layer.bias.zero_()
    return layer


@torch.no_grad()
def _copy(layer: nn.Linear, old: nn.Linear, draw: torch.Generator) -> nn.Linear:
    """Fill a layer with old units, drawn at random, plus noise; weights of inputs that these did not have are noise alone."""
    chosen = torch.randint(len(old.weight), (len(layer.weight),), generator=draw).to(old.weight.device)
    layer.weight.copy_(torch.randn(layer.weight.shape, generator=draw) * NOISE * old.weight.std().item())
    layer.weight[:, : old.weight.shape[1]] += old.weight[chosen]
    layer.bias.copy_(old.bias[chosen])
    return layer


def _wide(site: Site) -> WideLinear:
    """Return the site's layer, made one that can have new units if it was not."""
    if not isinstance(site.layer, WideLinear):
        setattr(site.holder, site.linear, WideLinear(site.layer))
    return site.layer


def _widen_hidden(net: nn.Module, layer: str, units: int, norm: str, scale: float, init: str, draw: torch.Generator) -> list[int]:
    """Add units to FC6 or FC7, which read all units of the layer before, and return the layer's blocks."""
    positive("units", units)
    choose("init", init, INITS)
    places = sites(net)
    wide = _wide(places[layer])
    before = sum(_blocks(places["fc6"].layer)) if layer == "fc7" else wide.in_features
    new = _like(wide, before, units)
    wide.new.append(_copy(new, wide, draw) if init == "copy" else _draw(new, draw))
    _set_norm(places[layer], wide.blocks, norm, scale)
    return wide.blocks


def _widen_representation(net: nn.Module, units: int, norm: str, scale: float, init: str, draw: torch.Generator) -> list[int]:
    """Add units beside what the head reads, and return the blocks."""
    positive("units", units)
    check(choose("init", init, INITS) == "random", "init", init, "a representation has no units of its own to copy; take random")
    _, _, head = _head(net)
    front = _in_front(net)
    if front is None:
        _before_head(net, {"units": Branch(head.weight.shape[1])})
        front = _in_front(net)
    front.units.new.append(_draw(_like(head, front.units.before, units), draw))
    parts = {"units": front.units} | _norm(head, front.units.blocks, norm, scale, getattr(front, "new_norm", None)) | {"head": front.head}
    front._modules = dict(parts)
    return front.units.blocks


def _set_norm(site: Site, blocks: list[int], norm: str, scale: float) -> None:
    """Put a normalisation behind a site's ReLU, keeping gains that were learned."""
    behind = site.behind
    before = getattr(behind, "new_norm", None)
    relu = behind.relu if isinstance(behind, nn.Sequential) else behind
    found = _norm(site.layer, blocks, norm, scale, before)
    setattr(site.holder, site.relu, nn.Sequential(OrderedDict(relu=relu) | OrderedDict(found)) if found else relu)


def _norm(beside: nn.Module, blocks: Sequence[int], norm: str, scale: float, learned: nn.Module | None = None) -> dict[str, nn.Module]:
    """Return a normalisation by the name ``new_norm``, on the device of a layer; nothing for ``none``."""
    if choose("norm", norm, NORMS) == "none":
        return {}
    check(norm == "l2" or not isinstance(beside, nn.Conv2d), "norm", norm, "maps are scaled by l2 or not at all")
    found = BlockScale(blocks, scale) if norm == "l2" else {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}[norm](sum(blocks))
    if isinstance(found, BlockScale) and isinstance(learned, BlockScale):
        for fresh, old in zip(found.gain, learned.gain, strict=False):
            fresh.data.copy_(old.data)
    return {"new_norm": found.to(beside.weight.device)}


def _before_head(net: nn.Module, parts: dict[str, nn.Module]) -> None:
    """Put modules in front of the head, which moves beside them."""
    holder, leaf, head = _head(net)
    setattr(holder, leaf, nn.Sequential(OrderedDict(parts) | OrderedDict(head=head)))


def _fresh_head(net: nn.Module, before: int, classes: int | None, draw: torch.Generator) -> None:
    """Put a new head in place that reads `before` units: weights from N(0, 0.01^2), bias zero."""
    holder, leaf, head = _head(net)
    check(classes is None or classes > 1, "classes", classes, "must be at least 2")
    setattr(holder, leaf, _draw(_like(head, before, classes or len(head.weight)), draw, HEAD_STD))
