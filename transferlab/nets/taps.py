"""Taps: the layers that papers name, and how to read or freeze up to them."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from ..errors import check, choose
from .alexnet import SECOND_HEADS, AlexNetModule
from .build import head_name, head_of
from .sites import REPRESENTATION, sites

SOFTMAX = "softmax"
BEHIND = ("features", "classifier", "fc", "heads", "head", SECOND_HEADS)  # children that are no taps of their own


def taps(net: nn.Module) -> dict[str, str]:
    """Return the layers that can be read, in order: tap name to module name.

    AlexNet: ``conv1`` ... (after ReLU), ``conv1_pre`` ... (before it), ``pool1`` ..., ``fc6``, ``fc7``, ``fc8`` (the
    logits). Torchvision networks: ResNet's ``layer1`` to ``layer4`` and ``avgpool``, ``features.0`` ... where the
    network has ``features``, ``fc6`` and ``fc7`` (after ReLU) of its AlexNet and VGG, and ``head`` (the logits). All:
    ``representation`` (what the head reads: its module is the head), second heads by their names (``source_head``: what
    they make of it), and after a linear head ``softmax``. A head that did not come with the weights is none.
    """
    head = head_name(net)
    second = {name: f"{SECOND_HEADS}.{name}" for name in getattr(net, SECOND_HEADS, ())}
    behind = {REPRESENTATION: head} | second
    if isinstance(net, AlexNetModule):
        found = {}
        for name, child in net.named_children():
            if name.startswith("conv"):
                found[f"{name}_pre"] = f"{name}.{'norm' if hasattr(child, 'norm') else 'conv'}"
            if name not in ("flatten", "head", SECOND_HEADS):
                found[name] = name
        return found | behind | ({} if getattr(net, "headless", False) else {"fc8": head, SOFTMAX: head})
    stages = [n for n, _ in net.named_children() if n not in BEHIND]
    features = getattr(net, "features", None)
    inner = [f"features.{n}" for n, _ in features.named_children()] if isinstance(features, nn.Module) else []
    hidden = {name: f"classifier.{site.relu}" for name, site in sites(net).items()}
    last = ("head", SOFTMAX) if isinstance(net.get_submodule(head), nn.Linear) else ("head",)
    last = () if getattr(net, "headless", False) else last
    return {n: n for n in (*inner, *stages)} | hidden | behind | dict.fromkeys(last, head)


def layers(net: nn.Module) -> list[tuple[nn.Module, ...]]:
    """Return what has parameters below the head, in order: layers, or the blocks or stages that the network has.

    Each is one module, or some: what has vectors of parameters alone, as BatchNorm, belongs to the layer before it.

    Raises
    ------
    UserError
        If the network has parameters outside of its layers.
    """
    head = head_name(net)

    def inside(module: nn.Module, name: str = "") -> Iterator[nn.Module]:
        if f"{head}.".startswith(name) or name == "features.":
            loose = [n for n, _ in module.named_parameters(recurse=False)]
            check(not loose or name == f"{head}.", "network", type(net).__name__, "has parameters outside of layers")
            for child, its in module.named_children():
                if child != SECOND_HEADS:
                    yield from inside(its, f"{name}{child}.")
        elif any(True for _ in module.parameters()):
            yield module

    found: list[tuple[nn.Module, ...]] = []
    for module in inside(net):
        vectors = all(p.ndim < 2 for p in module.parameters())
        found[-1:] = [(*found[-1], module)] if vectors and found else [*found[-1:], (module,)]
    return found


def last_convolutions(net: nn.Module, count: int = 4) -> list[str]:
    """Return the names of the last convolutions of the last `count` layers that have one; see `layers`."""
    names = {module: name for name, module in net.named_modules()}
    each = [[m for part in parts for m in part.modules() if isinstance(m, nn.Conv2d)] for parts in layers(net)]
    return [names[convolutions[-1]] for convolutions in each if convolutions][-count:]


def tap_module(net: nn.Module, tap: str) -> nn.Module:
    """Return the module behind a tap.

    Raises
    ------
    UserError
        If the network has no such tap.
    """
    known = taps(net)
    return net.get_submodule(known[choose("layer", tap, known)])


def kept_inputs(module: nn.Module, keep: Callable[[torch.Tensor], None]) -> RemovableHandle:
    """Hand on what a module is given, each time that its network runs while the context lasts."""
    return module.register_forward_pre_hook(lambda _, inputs: keep(inputs[0]))


@contextmanager
def kept_outputs(net: nn.Module, names: Iterable[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Yield what the modules of these names make of what they are given, each time that their network runs."""
    found: dict[str, torch.Tensor] = {}
    with ExitStack() as hooks:
        for name in names:
            keep = lambda _, inputs, output, name=name: found.__setitem__(name, output.clone())  # noqa: E731
            hooks.enter_context(net.get_submodule(name).register_forward_hook(keep))
        yield found


@contextmanager
def reading(net: nn.Module, wanted: Iterable[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Read activations at taps while a network runs.

    What is yielded maps, after each forward pass, tap to activations: (N, units) for vectors and (N, channels, height,
    width) for maps.
    """
    found: dict[str, torch.Tensor] = {}
    with ExitStack() as hooks:
        for tap in wanted:
            hooks.enter_context(_hook(net, tap, partial(found.__setitem__, tap)))
        yield found


def _hook(net: nn.Module, tap: str, keep: Callable[[torch.Tensor], None]) -> RemovableHandle:
    module, head = tap_module(net, tap), head_of(net)[2]
    if tap == REPRESENTATION:
        return kept_inputs(head, lambda inputs: keep(inputs.clone()))
    if tap in getattr(net, SECOND_HEADS, ()):  # `forward` leaves it out
        return kept_inputs(head, lambda inputs: keep(module(inputs)))
    # a copy: the ReLU that follows may work in place
    change = partial(torch.softmax, dim=1) if tap == SOFTMAX else torch.clone
    return module.register_forward_hook(lambda _, inputs, output: keep(change(output)))


def freeze(net: nn.Module, last: str) -> None:
    """Keep every layer up to and including the tap `last` as it is: no gradients, BatchNorm on its kept statistics.

    Layers count in the order in which the network defines them, which is the order of execution in all networks here.
    ``representation`` means all but the head.

    Raises
    ------
    UserError
        If the network has no such tap.
    """
    order, end = list(net.modules()), tap_module(net, last)
    first = order.index(end)
    inside = set(end.modules()) - set(order[:first]) if last != REPRESENTATION else ()
    for module in order[: first + len(inside)]:
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
        module.frozen = module is end or not list(module.children())


def batch_norm(net: nn.Module, mode: str | None = None) -> None:
    """Say what BatchNorm does in training, in place, after layers were frozen.

    Parameters
    ----------
    net : Module
    mode : {"train", "statistics", "frozen", "stochastic"}, optional
        ``train``, the default: as ever, by each batch, which moves the running statistics. ``statistics``: the running
        ones are used and kept, while gain and bias are trained. ``frozen``: these stay as they are too. ``stochastic``:
        by the batch or by the running statistics, which move, as a coin says for each channel and step: StochNorm (Kou
        et al. 2020), drawn by `train.fit`.

    Raises
    ------
    UserError
        If BatchNorm is in no layer that is trained.
    """
    if choose("batch_norm", mode or "train", ("train", "statistics", "frozen", "stochastic")) == "train":
        return
    # what growth put in has no statistics yet
    norms = [m for name, m in net.named_modules() if isinstance(m, _BatchNorm) and ".new" not in name]
    learns = not all(getattr(module, "frozen", False) for module in norms)
    check(learns, "batch_norm", mode, f"BatchNorm is in no layer of the {type(net).__name__} that is trained")
    for module in norms:
        if mode == "stochastic":
            module.stochastic = not getattr(module, "frozen", False)
        else:
            module.frozen = True
        if mode == "frozen":
            module.requires_grad_(False)


def train_mode(net: nn.Module) -> None:
    """Put the network into training mode, but for frozen layers."""
    net.train()
    for module in net.modules():
        if getattr(module, "frozen", False):
            module.eval()
