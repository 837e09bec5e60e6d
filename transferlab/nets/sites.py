"""Where a network can grow: FC6 and FC7 of AlexNet and VGG, what the head reads of every other one."""

from typing import NamedTuple

from torch import nn

from .alexnet import AlexNetModule
from .blocks import blocks_of
from .build import head_of

REPRESENTATION = "representation"


class Site(NamedTuple):
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
    layers = holder.named_children() if isinstance(holder, nn.Sequential) else ()
    linear = [n for n, m in layers if isinstance(m, nn.Linear) or hasattr(m, "head")]  # also a head that was deepened
    if len(linear) != 3:
        return {}
    return {name: Site(holder, n, str(int(n) + 1)) for name, n in zip(("fc6", "fc7"), linear, strict=False)}


def in_front(net: nn.Module) -> "nn.Module | None":
    """Return the modules that growth put in front of the head, with it, if there are any."""
    holder, leaf, _ = head_of(net)
    ours = leaf == "head" and any(hasattr(holder, name) for name in ("units", "new", "new_norm"))
    return holder if ours else None


def read_by_head(net: nn.Module) -> list[int]:
    """Return the units of each block that the head reads."""
    front = in_front(net)
    if hasattr(front, "units"):
        return front.units.blocks
    if front is None and sites(net):
        return blocks_of(sites(net)["fc7"].layer)
    return [head_of(net)[2].weight.shape[1]]
