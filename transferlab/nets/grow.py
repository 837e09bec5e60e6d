"""Growth surgery: widen and deepen a trained network (Wang, Ramanan and Hebert 2017).

Every way to `grow` returns a new module and leaves the one it was given as it was. The parameters of old units keep
their names, so that a state dict of the old network fits into the grown one; what is new lies below a name with ``new``
in it, or is the head.

Two places can grow. In AlexNet and VGG these are the hidden layers ``fc6`` and ``fc7``, as in the paper. In every other
network it is the ``representation``: what the head reads. There, new units are a linear layer and a ReLU beside it, or
on top of it (of 1x1 convolutions where the head is one).
"""

import copy
from collections import OrderedDict
from functools import partial

import torch
from torch import nn

from ..errors import check, choose
from ..specs.networks import GROWTH_SCOPES
from ..specs.serial import digest, positive
from .alexnet import SECOND_HEADS
from .blocks import SCALE, Branch, WideLinear, blocks_of, copied, drawn, like, normalisation
from .build import head_of, new_head
from .sites import REPRESENTATION, in_front, read_by_head, sites

SURGERIES = ("widen", "widen-twice", "deepen", "widen-and-deepen", "normalise")
Norm = tuple[str, float]  # its name, and what gains start from


def grow(
    net: nn.Module,
    units: int | tuple[int, int] = 0,
    *,
    how: str,
    norm: str = "l2",
    scale: float = SCALE,
    init: str = "random",
    spread: float = 1.0,
    classes: int | None = None,
    seed: int = 0,
) -> nn.Module:
    """Add units to a network, and a new head that reads old and new ones (sec. 3).

    Parameters
    ----------
    net : Module
    units : int or tuple of int
        How many new ones: two numbers for ``widen-twice`` and ``widen-and-deepen``, none for ``normalise``.
    how : {"widen", "widen-twice", "deepen", "widen-and-deepen", "normalise"}
        Units beside ``fc7`` where there is one, else beside the ``representation`` (WA-CNN); beside FC6 and beside FC7,
        where new units of FC7 read all of FC6, old ones its old units only (WWA-CNN); a new layer on top of the
        representation (DA-CNN); units beside, and a layer on top that reads old and new ones (DWA-CNN); no units, but
        activations are brought to a scale where ``widen`` does so: the control for what scaling does by itself.
    norm : {"l2", "batch", "layer", "none"}
        How old and new activations are brought to one scale: `BlockScale`, as in the paper; BatchNorm or LayerNorm over
        all of them; or not at all.
    scale : float
        What the gains of ``l2`` start from.
    init : {"random", "copy"}
        Units beside old ones are drawn at random, or are copies of them with noise ("copy+rand" of table 3).
    spread : float
        Standard deviation of the random weights of units beside old ones, as a multiple of He's (2015), which keeps
        activations as large as what comes in.
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
    rule = "grow the network first, then add second heads, which read what the head reads"
    check(not hasattr(net, SECOND_HEADS), "network", type(net).__name__, rule)
    both = choose("how", how, SURGERIES) in ("widen-twice", "widen-and-deepen")
    two = isinstance(units, tuple) and len(units) == 2
    check(two or not both, "units", units, "must be two numbers, such as (64, 128)")
    first, second = units if both else (units, units)
    rule = f"this network has none of fc6, fc7; it can grow at {REPRESENTATION}"
    check(how != "widen-twice" or bool(sites(net)), "layer", "fc6", rule)
    grown, draw, place = copy.deepcopy(net), _draw(net, seed), _place(net)
    grown.had = {name: p.shape for name, p in net.named_parameters()}
    if how == "normalise":
        _set_norm(grown, place, (norm, scale))
    layers = {"widen-twice": ("fc6", "fc7"), "widen": (place,), "widen-and-deepen": (place,)}.get(how, ())
    for layer, count in zip(layers, (first, second), strict=False):
        _widen(grown, layer, count, init, draw, (norm, scale), spread)
    head, before = head_of(grown)[2], sum(read_by_head(grown))
    if how.endswith("deepen"):
        positive("units", second)
        draw = _draw(net, seed + 1) if both else draw
        new = nn.Sequential(OrderedDict(linear=drawn(like(head, before, second), draw), relu=nn.ReLU()))
        _before_head(grown, {"new": new} | normalisation(head, [second], norm, scale, None))
        before = second
    given = classes is None or (isinstance(classes, int) and classes > 1)
    check(given, "classes", classes, "must be a whole number, at least 2")
    new_head(grown, classes or len(head.weight), draw, before)
    return grown


GROWTH_OPERATIONS = {how: partial(grow, how=how) for how in SURGERIES}
widen, widen_twice, deepen, widen_and_deepen, normalised = GROWTH_OPERATIONS.values()


# --------------------------------------------------------------------------------------------- what is new, and trained


def new_modules(net: nn.Module) -> list[nn.Module]:
    """Return what the last growth added, units and gains, and the head: they learn ten times as fast (sec. 3.3)."""
    had = getattr(net, "had", {})
    added = nn.ParameterList(p for name, p in net.named_parameters() if ".new" in name and had.get(name) != p.shape)
    return [added, head_of(net)[2]]


def train_only(net: nn.Module, scope: str) -> None:
    """Let only a part of a network be trained, in place (table 1's four columns).

    Parameters
    ----------
    scope : {"new", "fc7-new", "fc6-new", "all"}
        What the last growth added; that and the old units of FC7, earlier new ones among them; those of FC6 too;
        everything.

    Raises
    ------
    UserError
        If there is no such scope, or the network has no FC6 and FC7.
    """
    choose("scope", scope, GROWTH_SCOPES if sites(net) else ("new", "all"))
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


# ---------------------------------------------------------------------------------------------------------- the scalpel


def _draw(net: nn.Module, seed: int) -> torch.Generator:
    """Return what to draw from: by the seed, and by what grew before, so that no growth repeats another."""
    before = [name for name, _ in net.named_parameters() if ".new" in name]
    return torch.Generator().manual_seed(int(digest(f"{seed}|{before}"), 16) if before else seed)


def _place(net: nn.Module) -> str:
    return "fc7" if sites(net) else REPRESENTATION


def _widen(net: nn.Module, layer: str, units: int, init: str, draw: torch.Generator, norm: Norm, spread: float) -> None:
    """Add units beside FC6 or FC7, which read all units of the layer before, or beside what the head reads."""
    positive("units", units)
    rule = "lies below a layer that was put on top; widen first, then deepen"
    check(not hasattr(in_front(net), "new"), "layer", _place(net), rule)
    check(spread > 0, "spread", spread, "must be above 0")
    choose("init", init, ("random", "copy"))
    if layer == REPRESENTATION:
        check(init == "random", "init", init, "a representation has no units of its own to copy; take random")
        old, front = head_of(net)[2], in_front(net) or _before_head(net, {})
        if not hasattr(front, "units"):
            front.units = Branch(old.weight.shape[1])
        wide, before = front.units, front.units.before
    else:
        site = sites(net)[layer]
        if not isinstance(site.layer, WideLinear):
            setattr(site.holder, site.linear, WideLinear(site.layer))
        wide = old = site.layer
        before = sum(blocks_of(sites(net)["fc6"].layer)) if layer == "fc7" else wide.in_features
    new = like(old, before, units)
    wide.new.append(copied(new, wide, draw) if init == "copy" else drawn(new, draw, spread=spread))
    _set_norm(net, layer, norm)


def _set_norm(net: nn.Module, layer: str, norm: Norm) -> None:
    """Put a normalisation behind a site's ReLU, or right in front of the head, keeping gains that were learned."""
    if layer == REPRESENTATION:
        front = in_front(net) or _before_head(net, {})
        found = normalisation(front.head, read_by_head(net), *norm, getattr(front, "new_norm", None))
        kept = {n: m for n, m in front.named_children() if n in ("units", "new")}
        front._modules = {**kept, **found, "head": front.head}
    else:
        site = sites(net)[layer]
        relu = getattr(site.behind, "relu", site.behind)
        found = normalisation(site.layer, blocks_of(site.layer), *norm, getattr(site.behind, "new_norm", None))
        setattr(site.holder, site.relu, nn.Sequential(OrderedDict(relu=relu, **found)) if found else relu)


def _before_head(net: nn.Module, parts: dict[str, nn.Module]) -> nn.Module:
    """Put modules in front of the head, which moves beside them, and return where they are."""
    holder, leaf, head = head_of(net)
    setattr(holder, leaf, nn.Sequential(OrderedDict(**parts, head=head)))
    net.head_name += ".head"
    return holder.get_submodule(leaf)
