"""What training makes small. An objective is bound to the network that is really trained: in a pack that is a copy."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..data.images import Sample
from ..errors import check
from ..nets.build import head_name, head_of
from ..nets.detector import losses
from ..nets.heads import SOURCE_HEAD, logits
from ..nets.taps import kept_inputs, kept_outputs, last_convolutions, layers
from ..specs.recipe import Recipe
from .feed import Batch
from .read import batches, pooled
from .solvers import logistic

IMAGES = 100  # by which the channels of DELTA are weighed
PENALTY = 0.1  # of the head that they are weighed under

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
    """The mean cross-entropy of a batch, labels smoothed as the recipe says: that of `cross_entropy`."""

    def bind(self, net: nn.Module, recipe: Recipe) -> Loss:
        return lambda batch: cross_entropy(net(batch.images), batch.labels, recipe.label_smoothing)


def cross_entropy(found: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    """Return the mean cross-entropy of logits (B, classes).

    With several labels an image, of float and shape (B, classes), it is the mean over images of the sum over classes of
    the binary one, so that gradients are as large as with one label; nothing is asked where a label is NaN.
    """
    if not labels.is_floating_point():
        return F.cross_entropy(found, labels, label_smoothing=smoothing)
    asked = ~labels.isnan()
    right = torch.where(asked, labels, 0.0) * (1 - smoothing) + smoothing / 2
    losses = F.binary_cross_entropy_with_logits(found.float(), right, reduction="none")
    return (losses * asked).sum(1).mean()


class DetectionLosses(Objective):
    """The sum of a detector's losses: see `nets.detector`. Labels are not smoothed."""

    capturable = False  # how many anchors match is asked on the way
    reads_images = True

    def bind(self, net: nn.Module, recipe: Recipe) -> Loss:
        return lambda batch: sum(losses(net, batch.images, batch.labels).values())


def linear_head(net: nn.Module, kind: str) -> nn.Linear:
    """Return the head, for an objective of this kind, which asks what it reads.

    Raises
    ------
    UserError
        If it is no linear layer.
    """
    head = head_of(net)[2]
    linear = isinstance(head, nn.Linear)
    check(linear, kind, type(net).__name__, "wants a network whose head is a linear layer")
    return head


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
        head, old_head = linear_head(net, "distillation"), head_of(self.before)[2]

        def loss(batch: Batch) -> torch.Tensor:
            read: list[torch.Tensor] = []
            with kept_inputs(head, read.append):
                value = cross_entropy(batch)
            with torch.no_grad():
                then = F.log_softmax(self.before(batch.images) / t, 1)
            now = F.log_softmax(old_head(read[0]) / t, 1)
            return value + self.strength * t**2 * F.kl_div(now, then, reduction="batchmean", log_target=True)

        return loss


class DELTA(CrossEntropy):
    """Cross-entropy, and what some convolutions make of the target's images is to stay as it was, by channel.

    DELTA (Li et al. 2019), scaled as in the transfer-learning library of Jiang et al.: `strength` times the
    mean over a batch of the sum, over layers and their C channels, of C / (H * W) * W_c / 2 * the squared distance of
    the channel's map, of H x W positions and before any normalisation, from the source's. (That library sums over the
    batch: its 0.01 for 48 images is a strength of 0.48 here.) The source is in evaluation, so that where BatchNorm goes
    by the batch the two differ from the first step on. Layers are those of `nets.taps.last_convolutions`, weights W_c
    those of `channel_weights`.

    Parameters
    ----------
    before : Module
        As in `Distillation`.
    sample : Sample
        The training images, on the device, for the weights: they are found once, before the first step.
    strength : float
    """

    reads_images = True

    def __init__(self, before: nn.Module, sample: Sample, strength: float) -> None:
        self.before = before.eval().requires_grad_(False)
        self.sample, self.strength = sample, strength

    @cached_property
    def weights(self) -> dict[str, torch.Tensor]:
        """The weights of channels, by the names of layers."""
        return channel_weights(self.before, self.sample)

    def bind(self, net: nn.Module, recipe: Recipe) -> Loss:
        cross_entropy, weights = super().bind(net, recipe), self.weights

        def loss(batch: Batch) -> torch.Tensor:
            with kept_outputs(net, weights) as now:
                value = cross_entropy(batch)
            with torch.no_grad(), kept_outputs(self.before, weights) as then:
                self.before(batch.images)
            apart = [w * (now[n].float() - then[n].float()).square().mean((0, 2, 3)) for n, w in weights.items()]
            return value + self.strength / 2 * sum(len(each) * each.sum() for each in apart)

        return loss


@torch.no_grad()
def channel_weights(net: nn.Module, sample: Sample) -> dict[str, torch.Tensor]:
    """Return how much the channels of some convolutions matter, by the names of `nets.taps.last_convolutions`.

    That is by how much the cross-entropy of training images grows when the channel's filter is zero, of at most
    `IMAGES` of them, under a head that was fitted to them (softmax regression on what the head reads). The weights of a
    layer are the softmax of these numbers, brought to mean 0 and standard deviation 1/5, and sum to 1.

    Parameters
    ----------
    net : Module
        The source network; it is left as it is.
    sample : Sample
    """
    some = torch.linspace(0, len(sample.labels) - 1, min(len(sample.labels), IMAGES)).long().to(sample.labels.device)
    few = replace(sample, rows=sample.rows[some], labels=sample.labels[some])
    images, head, features = torch.cat(list(batches(net, few))), head_of(net)[2], []
    names, blocks = {module: name for name, module in net.named_modules()}, layers(net)
    with kept_inputs(head, features.append), kept_outputs(net, [names[m] for its in blocks for m in its]) as outputs:
        net(images)
    weight, bias = logistic(pooled(features.pop()), few.labels, few.classes, (PENALTY,))

    def loss() -> torch.Tensor:
        with kept_inputs(head, features.append):
            net(images)
        return F.cross_entropy(pooled(features.pop()) @ weight[0] + bias[0], few.labels)

    wanted, found = last_convolutions(net), {}
    with ExitStack() as stack:
        for its in blocks:
            for module in (m for part in its for m in part.modules() if names[m] in wanted):
                grown = module.weight.new_empty(len(module.weight))
                for channel, kernel in enumerate(module.weight.clone()):
                    module.weight[channel] = 0
                    grown[channel] = loss()
                    module.weight[channel] = kernel
                grown = (grown - grown.mean()) / grown.std(correction=0).clamp_min(1e-30)
                found[names[module]] = (grown / 5).softmax(0)
            for part in its:  # what lies before the next filters makes what it made
                part.forward = lambda *_, made=outputs[names[part]]: made.clone()
                stack.callback(delattr, part, "forward")
    return found


class BSS(CrossEntropy):
    """Cross-entropy, and the smallest singular values of a batch of features are to be small.

    Batch spectral shrinkage (Chen et al. 2019): `strength` times the sum of squares of the `k` smallest singular
    values of what the head reads, a matrix of images by units. Where units are fewer than images and one of them is
    dead, that is 0.

    Parameters
    ----------
    strength : float
    k : int
    """

    capturable = False  # the decomposition waits for the host

    def __init__(self, strength: float, k: int = 1) -> None:
        self.strength, self.k = strength, k

    def bind(self, net: nn.Module, recipe: Recipe) -> Loss:
        cross_entropy, head = super().bind(net, recipe), linear_head(net, "bss")
        most = min(recipe.batch, head.in_features)
        check(self.k <= most, "k", self.k, f"a batch of features has {most} singular values")

        def loss(batch: Batch) -> torch.Tensor:
            read: list[torch.Tensor] = []
            with kept_inputs(head, read.append):
                value = cross_entropy(batch)
            # where these are no numbers, cross-entropy is none
            features = read[0].float().nan_to_num(0, 0, 0)
            return value + self.strength * torch.linalg.svdvals(features)[-self.k :].square().sum()

        return loss


class CoTuning(CrossEntropy):
    """Cross-entropy, and that of a kept source head with what the target's classes mean to the source.

    The loss of Co-Tuning (You et al. 2020, eq. 5) with weight `strength`. The kept head, the network's
    `nets.heads.SOURCE_HEAD`, is trained too.

    Parameters
    ----------
    relation : Tensor of float32, shape (target classes, source classes)
        p(y_s | y_t), on the device.
    strength : float
    """

    def __init__(self, relation: torch.Tensor, strength: float) -> None:
        self.relation, self.strength = relation, strength

    def bind(self, net: nn.Module, recipe: Recipe) -> Loss:
        def loss(batch: Batch) -> torch.Tensor:
            own, source = logits(net, batch.images, ("head", SOURCE_HEAD))
            value = F.cross_entropy(own, batch.labels, label_smoothing=recipe.label_smoothing)
            return value + self.strength * F.cross_entropy(source, self.relation[batch.labels])

        return loss


class TwoHeads(CrossEntropy):
    """Cross-entropy of both streams, the second's under the source head, `nets.heads.SOURCE_HEAD`.

    The loss of selective joint fine-tuning (Ge and Yu 2017, sec. 3.1), with `weight` for the second stream.

    Parameters
    ----------
    weight : float
    classes : Tensor of int64
        Outputs of the source head that take part, in the order of the second stream's labels; on the device.
    apart : bool
        Each stream is normalised by batch statistics of its own, and BatchNorm's running ones are the first's. By
        default both streams make one batch.
    """

    def __init__(self, weight: float, classes: torch.Tensor, apart: bool = False) -> None:
        self.weight, self.classes, self.apart = weight, classes, apart

    def bind(self, net: nn.Module, recipe: Recipe) -> Loss:
        cross_entropy = partial(F.cross_entropy, label_smoothing=recipe.label_smoothing)
        norms = [m for m in net.modules() if isinstance(m, _BatchNorm)]

        def loss(batch: Batch) -> torch.Tensor:
            if self.apart:
                for norm in norms:
                    norm.track_running_stats = False
                (source,) = logits(net, batch.second.images, (SOURCE_HEAD,))
                for norm in norms:
                    norm.track_running_stats = True
                own = net(batch.images)
            else:
                both = torch.cat([batch.images, batch.second.images])
                own, source = logits(net, both, ("head", SOURCE_HEAD))
                own, source = own[: len(batch.labels)], source[len(batch.labels) :]
            value = cross_entropy(own, batch.labels)
            return value + self.weight * cross_entropy(source.index_select(1, self.classes), batch.second.labels)

        return loss
