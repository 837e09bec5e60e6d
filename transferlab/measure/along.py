"""What measures of what fine-tuning changes share: the layers that they read, and looks at a network in training."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import check


def weights_of(net: Any) -> dict[str, Any]:
    """Return the weights of the convolutions and linear layers of a network but its heads, by their modules' names."""
    from torch import nn

    from ..nets.alexnet import SECOND_HEADS
    from ..nets.build import head_of

    kinds, (_, _, head) = (nn.Linear, nn.modules.conv._ConvNd), head_of(net)
    own = [(name, m) for name, m in net.named_modules() if isinstance(m, kinds) and m is not head]
    return {name: module.weight for name, module in own if not name.startswith(SECOND_HEADS)}


def layer_taps(net: Any) -> list[str]:
    """Return the taps behind the layers of `weights_of`, in order: ``conv1`` ... ``fc7`` of AlexNet, in other networks
    the stages that hold such layers.
    """
    from ..nets.alexnet import SECOND_HEADS
    from ..nets.build import head_name
    from ..nets.sites import sites
    from ..nets.taps import taps

    layers, head, hidden = [f"{name}." for name in weights_of(net)], head_name(net), sites(net)
    own = {tap: f"{n}." for tap, n in taps(net).items() if n != head and not n.startswith(SECOND_HEADS)}
    holds = {tap for tap, n in own.items() if tap in hidden or any(layer.startswith(n) for layer in layers)}
    return [tap for tap in own if tap in holds and not tap.endswith("_pre")]


def same_layers(kind: str, before: Any, after: Any) -> None:
    """Check that a network keeps its layers.

    Raises
    ------
    UserError
        If it grows.
    """
    shapes = [{name: weight.shape for name, weight in weights_of(net).items()} for net in (before, after)]
    check(shapes[0] == shapes[1], "measure", kind, "wants a network that keeps its layers; this one grows")


def shares_of(kind: str, shares: tuple[float, ...]) -> None:
    """Check at which shares of the training a measure looks.

    Raises
    ------
    UserError
        If there is none, or one is not in [0, 1); at the end a measure looks anyway.
    """
    fits = bool(shares) and all(0 <= share < 1 for share in shares)
    check(fits, f"{kind} shares", shares, "must be shares of the training, at least 0 and below 1")


class Watcher:
    """Looks at a network in training, and leaves it as it was.

    Parameters
    ----------
    steps : int
        Of the training.
    shares : tuple of float
        Of the steps, after which it looks.
    at : str
        The column of the steps.
    see : callable
        From the network to a value for each column.
    """

    def __init__(self, steps: int, shares: tuple[float, ...], at: str, see: Callable[[Any], dict[str, Any]]) -> None:
        self.steps, self.see = sorted({int(share * steps) for share in shares}), see
        self.found: dict[str, list] = {at: list(self.steps)}

    def bind(self, net: Any) -> None:
        """Look at this network."""
        self.net = net

    @contextmanager
    def look(self, step: int) -> Iterator[None]:
        """Look before the loss of a step is computed."""
        modes = [(module, module.training) for module in self.net.modules()]
        for name, value in self.see(self.net).items():
            self.found.setdefault(name, []).append(value)
        for module, training in modes:
            module.training = training
        yield

    def state(self) -> dict[str, Any]:
        """Return what was seen so far."""
        return {"found": self.found}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where `state` was taken."""
        self.found = state["found"]
