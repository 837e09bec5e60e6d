"""What training makes small. An objective is bound to the network that is really trained: in a pack that is a copy."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import check
from ..nets.build import head_name
from ..nets.taps import kept_inputs
from ..specs.recipe import Recipe
from .feed import Batch

Loss = Callable[[Batch], torch.Tensor]


class Objective:
    """What a step of training makes smaller.

    It holds no part of the network that is trained: `bind` gets it.

    Attributes
    ----------
    capturable : bool
        Whether every step has the device do the same, and waits for nothing: it may be captured as a CUDA graph.
    reads_images : bool
        Whether it wants images even where layers in front are frozen, and the rest is trained on their activations.
    """

    capturable = True
    reads_images = False

    def bind(self, net: nn.Module, recipe: Recipe) -> Loss:
        """Return the function from batches to scalars that trains a network.

        Parameters
        ----------
        net : Module
            Its parts are known by their names.
        recipe : Recipe
        """
        raise NotImplementedError


class CrossEntropy(Objective):
    """The mean cross-entropy of a batch, labels smoothed as the recipe says."""

    def bind(self, net: nn.Module, recipe: Recipe) -> Loss:
        return lambda batch: F.cross_entropy(net(batch.images), batch.labels, label_smoothing=recipe.label_smoothing)


class L2SP(CrossEntropy):
    """Cross-entropy, and a pull towards the weights that training started from.

    Half of `strength` times the squared distance of all trainable weights but the head's (L2-SP, Li, Grandvalet and
    Davoine 2018, eq. 1); the recipe's decay goes on beside it.

    Parameters
    ----------
    start_state : mapping of str to Tensor
        State of the network at the start; copied.
    strength : float
    """

    def __init__(self, start_state: Mapping[str, torch.Tensor], strength: float) -> None:
        self.start = {name: value.detach().clone() for name, value in start_state.items()}
        self.strength = strength

    def bind(self, net: nn.Module, recipe: Recipe) -> Loss:
        loss, head = super().bind(net, recipe), head_name(net) + "."
        named = [(n, p) for n, p in net.named_parameters() if p.requires_grad and not n.startswith(head)]
        pairs = [(p, self.start[n].to(p.device)) for n, p in named]
        return lambda batch: loss(batch) + self.strength / 2 * sum(((p - p0) ** 2).sum() for p, p0 in pairs)


class Distillation(CrossEntropy):
    """Cross-entropy, and what the source's head says about the target's images is to stay as it was.

    The distillation loss of learning without forgetting (Li and Hoiem 2016, eq. 2-3) with weight `strength`; the old
    head is kept as it is.

    Parameters
    ----------
    before : Module
        The source network, on the device: all layers of the trained one but the head are its. It is frozen.
    strength : float
    temperature : float
        Of the logits (op. cit., sec. 3).
    """

    reads_images = True

    def __init__(self, before: nn.Module, strength: float, temperature: float = 2.0) -> None:
        self.before = before.eval().requires_grad_(False)
        self.strength, self.temperature = strength, temperature

    def bind(self, net: nn.Module, recipe: Recipe) -> Loss:
        cross_entropy, t = super().bind(net, recipe), self.temperature
        head, old_head = (each.get_submodule(head_name(each)) for each in (net, self.before))
        linear = isinstance(head, nn.Linear)
        check(linear, "distillation", type(net).__name__, "wants a network whose head is a linear layer")

        def loss(batch: Batch) -> torch.Tensor:
            read: list[torch.Tensor] = []
            with kept_inputs(head, read.append):
                value = cross_entropy(batch)
            with torch.no_grad():
                then = F.log_softmax(self.before(batch.images) / t, 1)
            now = F.log_softmax(old_head(read[0]) / t, 1)
            return value + self.strength * t**2 * F.kl_div(now, then, reduction="batchmean", log_target=True)

        return loss
