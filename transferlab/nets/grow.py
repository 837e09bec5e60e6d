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

import torch
from torch import nn

from ..errors import check, choose
from ..method_specs import SCOPES
from ..serial import digest, positive
from .blocks import SCALE, Branch, WideLinear, blocks_of, copied, drawn, like, normalisation
from .build import head_of, new_head
from .sites import REPRESENTATION, Site, deepened, in_front, place, read_by_head, sites

INITS = ("random", "copy")
Norm = tuple[str, float]  # its name, and what gains start from


def widen(
    net: nn.Module,
    units: int,
    layer: str | None = None,
    *,
    norm: str = "l2",
    scale: float = SCALE,
    init: str = "random",
    spread: float = 1.0,
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
    spread : float
        Standard deviation of random new weights, as a multiple of He's (2015), which keeps activations as large as what comes in.
    classes : int, optional
        Outputs of the new head; by default as many as the old one's.
    seed : int
        Of everything that is drawn; a network that has grown before draws otherwise than it did then.

    Returns
    -------
    Module

    Raises
    ------
    UserError
        If there is no such layer, nothing to add, or no head.
    """
    grown, draw = _begun(net, seed)
    layer = place(grown, layer, ("fc7", REPRESENTATION))
    check(not deepened(grown), "layer", layer, "lies below a layer that was put on top; widen first, then deepen")
    check(spread > 0, "spread", spread, "must be above 0")
    if layer == REPRESENTATION:
        blocks = _widen_representation(grown, units, init, draw, (norm, scale), spread)
    else:
        blocks = _widen_hidden(grown, layer, units, init, draw, (norm, scale), spread)
    return _finish(grown, sum(blocks), classes, draw)


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
    grown, draw = _begun(net, seed)
    _two(units)
    check(not deepened(grown), "layer", "fc7", "lies below a layer that was put on top; widen first, then deepen")
    for layer, count in zip(("fc6", "fc7"), units, strict=True):
        blocks = _widen_hidden(grown, place(grown, layer, ("fc6", "fc7")), count, init, draw, (norm, scale))
    return _finish(grown, sum(blocks), classes, draw)


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
    return _deepen(*_begun(net, seed), units, (norm, scale), classes)


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
    _two(units)
    grown = widen(net, units[0], layer, norm=norm, scale=scale, init=init, seed=seed)
    return _deepen(grown, _draw(net, seed + 1), units[1], (norm, scale), classes)


def normalised(net: nn.Module, layer: str | None = None, *, scale: float = SCALE, classes: int | None = None, seed: int = 0) -> nn.Module:
    """Bring a layer's activations to a scale without adding units: the control for what scaling does by itself.

    Parameters
    ----------
    net, layer, scale, classes, seed
        As in `widen`.
    """
    grown, draw = _begun(net, seed)
    layer = place(grown, layer, ("fc7", REPRESENTATION))
    if layer == REPRESENTATION:
        _set_front(in_front(grown) or _before_head(grown, {}), read_by_head(grown), ("l2", scale))
    else:
        _set_norm(sites(grown)[layer], blocks_of(sites(grown)[layer].layer), ("l2", scale))
    return _finish(grown, sum(read_by_head(grown)), classes, draw)


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
    grown, draw = _begun(net, seed)
    positive("units", units)
    site = sites(grown)[place(grown, "fc7", ("fc7",))]
    old = site.layer
    plain = not isinstance(old, WideLinear) and not deepened(grown) and not isinstance(site.behind, nn.Sequential)
    check(plain, "layer", "fc7", "has grown already; net2wider takes a plain one")
    chosen = torch.randint(old.out_features, (units,), generator=draw).to(old.weight.device)
    new = like(old, old.in_features, units)
    new.weight.copy_(old.weight[chosen])
    new.bias.copy_(old.bias[chosen])
    _wide(site).new.append(new)
    holder, name, head = head_of(grown)
    shared = head.weight / (1 + torch.bincount(chosen, minlength=old.out_features))
    bigger = like(head, old.out_features + units, head.out_features)
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
        If the network has no FC7, or a normalisation behind it: a ReLU keeps only what one has passed already.
    """
    grown, _ = _begun(net, 0)
    site = sites(grown)[place(grown, "fc7", ("fc7",))]
    check(not hasattr(in_front(grown) or site.behind, "new_norm"), "layer", "fc7", "is normalised; net2deeper takes what a ReLU gives")
    _, _, head = head_of(grown)
    width = head.weight.shape[1]
    layer = like(head, width, width)
    layer.weight.copy_(torch.eye(width))
    layer.bias.zero_()
    _before_head(grown, {"new": nn.Sequential(OrderedDict(linear=layer, relu=nn.ReLU()))})
    return grown


# ------------------------------------------------------------------------------------------------- what is new, and trained


def new_modules(net: nn.Module) -> list[nn.Module]:
    """Return what the last growth added, new units with their gains, and the head: what learns ten times as fast (sec. 3.3)."""
    had = getattr(net, "had", {})
    added = nn.ParameterList(p for name, p in net.named_parameters() if ".new" in name and had.get(name) != p.shape)
    return [added, head_of(net)[2]]


def train_only(net: nn.Module, scope: str) -> None:
    """Let only a part of a network be trained, in place (table 1's four columns).

    Parameters
    ----------
    scope : {"new", "fc7-new", "fc6-new", "all"}
        What the last growth added; that and the old units of FC7, earlier new ones among them; those of FC6 too; everything.

    Raises
    ------
    UserError
        If there is no such scope, or the network has no FC6 and FC7.
    """
    choose("scope", scope, SCOPES if sites(net) else ("new", "all"))
    kept = new_modules(net)
    if scope.startswith("fc"):
        kept += [part for name, site in sites(net).items() if name >= scope[:3] for part in (site.layer, site.behind)]
    trained = {id(p) for module in kept for p in module.parameters()}
    behind = False  # whether a frozen layer comes behind: then dropout and the like rest, as `taps.freeze` has it
    for module in reversed(list(net.modules())):
        own = list(module.parameters(recurse=False))
        for p in own:
            p.requires_grad_(scope == "all" or id(p) in trained)
        frozen = bool(own) and not any(p.requires_grad for p in own)
        behind |= frozen
        module.frozen = frozen or (behind and not own and not list(module.children()))


# ------------------------------------------------------------------------------------------------------------ the scalpel


def _begun(net: nn.Module, seed: int) -> tuple[nn.Module, torch.Generator]:
    """Return a copy of a network that knows which parameters it `had` before, and what the surgery draws from."""
    grown = copy.deepcopy(net)
    grown.had = {name: p.shape for name, p in net.named_parameters()}
    return grown, _draw(net, seed)


def _draw(net: nn.Module, seed: int) -> torch.Generator:
    """Return what to draw from: by the seed, and by what grew before, so that no growth repeats another."""
    before = [name for name, _ in net.named_parameters() if ".new" in name]
    return torch.Generator().manual_seed(int(digest(f"{seed}|{before}"), 16) if before else seed)


def _two(units: tuple[int, int]) -> None:
    check(isinstance(units, tuple) and len(units) == 2, "units", units, "must be two numbers, such as (64, 128)")


def _wide(site: Site) -> WideLinear:
    """Return the site's layer, made one that can have new units if it was not."""
    if not isinstance(site.layer, WideLinear):
        setattr(site.holder, site.linear, WideLinear(site.layer))
    return site.layer


def _widen_hidden(net: nn.Module, layer: str, units: int, init: str, draw: torch.Generator, norm: Norm, spread: float = 1.0) -> list[int]:
    """Add units to FC6 or FC7, which read all units of the layer before, and return the layer's blocks."""
    positive("units", units)
    choose("init", init, INITS)
    places = sites(net)
    wide = _wide(places[layer])
    before = sum(blocks_of(places["fc6"].layer)) if layer == "fc7" else wide.in_features
    new = like(wide, before, units)
    wide.new.append(copied(new, wide, draw) if init == "copy" else drawn(new, draw, spread=spread))
    _set_norm(places[layer], wide.blocks, norm)
    return wide.blocks


def _widen_representation(net: nn.Module, units: int, init: str, draw: torch.Generator, norm: Norm, spread: float) -> list[int]:
    """Add units beside what the head reads, and return the blocks."""
    positive("units", units)
    check(choose("init", init, INITS) == "random", "init", init, "a representation has no units of its own to copy; take random")
    _, _, head = head_of(net)
    front = in_front(net) or _before_head(net, {})
    if not hasattr(front, "units"):
        front.units = Branch(head.weight.shape[1])
    front.units.new.append(drawn(like(head, front.units.before, units), draw, spread=spread))
    _set_front(front, front.units.blocks, norm)
    return front.units.blocks


def _deepen(net: nn.Module, draw: torch.Generator, units: int, norm: Norm, classes: int | None) -> nn.Module:
    """Put a new layer on top, in place, and a new head, and return the network."""
    positive("units", units)
    _, _, head = head_of(net)
    layer = drawn(like(head, head.weight.shape[1], units), draw)
    parts = {"new": nn.Sequential(OrderedDict(linear=layer, relu=nn.ReLU()))}
    _before_head(net, parts | normalisation(head, [units], *norm))
    return _finish(net, units, classes, draw)


def _set_front(front: nn.Module, blocks: list[int], norm: Norm) -> None:
    """Put a normalisation right in front of the head, keeping gains that were learned."""
    between = normalisation(front.head, blocks, *norm, getattr(front, "new_norm", None))
    front._modules = {**{n: m for n, m in front.named_children() if n in ("units", "new")}, **between, "head": front.head}


def _set_norm(site: Site, blocks: list[int], norm: Norm) -> None:
    """Put a normalisation behind a site's ReLU, keeping gains that were learned."""
    behind = site.behind
    before = getattr(behind, "new_norm", None)
    relu = behind.relu if isinstance(behind, nn.Sequential) else behind
    found = normalisation(site.layer, blocks, *norm, before)
    setattr(site.holder, site.relu, nn.Sequential(OrderedDict(relu=relu) | OrderedDict(found)) if found else relu)


def _before_head(net: nn.Module, parts: dict[str, nn.Module]) -> nn.Module:
    """Put modules in front of the head, which moves beside them, and return where they are."""
    holder, leaf, head = head_of(net)
    setattr(holder, leaf, nn.Sequential(OrderedDict(parts) | OrderedDict(head=head)))
    return holder.get_submodule(leaf)


def _finish(net: nn.Module, before: int, classes: int | None, draw: torch.Generator) -> nn.Module:
    """Put a new head in place that reads `before` units, and return the network."""
    check(classes is None or (isinstance(classes, int) and classes > 1), "classes", classes, "must be a whole number, at least 2")
    new_head(net, classes or len(head_of(net)[2].weight), draw, before)
    return net
