"""How far a task is from what a network was trained on, and how well it should transfer, without training anything."""

from dataclasses import dataclass
from typing import Any

from ..errors import check
from ..seeds import stream
from ..specs import WHOLE, Artefact, ImageSet, Method, Target, Trial
from ..specs.artefacts import FORWARD_SHARE, PACE
from ..specs.serial import flags, positive

SIGNIFICANT = 6  # digits of what is on record


@dataclass(frozen=True)
class TaskDistance(Method, kind="task-distance", version=1):
    """Distances between a target and the source, and transferability scores, from one pass over some images of each.

    The network that the trial starts from reads as many images of the source as of the target. The target's are its
    training and validation images, spread over classes as evenly as can be; the source's are held out of its training.

    Parameters
    ----------
    tap : str
        The layer that is read.
    reference : ImageSet or str
        Images of the source: the set that the network was trained on, or a sample of it.
    images : int
        Of each, at most: fewer where a set has fewer, and so many are on record as ``compared``.
    pixels : int, optional
        Every image is first reduced to so many pixels a side and enlarged again, so that no distance sees resolution
        or codec.
    task2vec : bool, optional
        Also the distance between the tasks' Fisher information, which takes a backward pass an image.
    """

    tap: str
    reference: ImageSet
    images: int = 400
    pixels: int | None = None
    task2vec: bool | None = None

    def __post_init__(self) -> None:
        if isinstance(self.reference, str):
            object.__setattr__(self, "reference", ImageSet(self.reference))
        for name in ("images", "pixels"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))
        check(self.images > 1, "images", self.images, "must be 2 or more")
        flags(self, "task2vec")

    def fits(self, trial: Trial) -> None:
        if not self.searched and self.pixels:
            check(
                self.pixels <= trial.target.size, "pixels", self.pixels, f"the images have {trial.target.size} a side"
            )

    def reads(self, trial: Trial) -> tuple[Target, ...]:
        """Return the source's images, under the labels that the network was taught where they are of its own set."""
        own = getattr(trial.root, "images", None) == self.reference
        return (Target(self.reference, trial.target.size, trial.root.subset.shape if own else WHOLE),)

    def needs(self, trial: Trial) -> tuple[Artefact, ...]:
        return (*super().needs(trial), *trial.features())

    def cost(self, trial: Trial) -> float:
        passes = FORWARD_SHARE + (1 if self.task2vec else 0)
        return 2 * self.images * passes * trial.backbone.multiply_adds(trial.target.size) / PACE

    def evaluate(self, trial: Trial, context: Any) -> dict[str, Any]:
        """Read both samples, and look up the target's test and validation images among its training images.

        Returns
        -------
        dict
            ``frechet``, ``mmd``, ``proxy_a_distance``; ``emd_similarity`` and ``task2vec_distance``, nothing where the
            source's images are fewer than two a class; ``leep``, ``nce``, ``logme``, ``h_score``,
            ``regularised_h_score`` and ``transrate`` of the target's images; ``compared``, the images of each; and
            ``accuracy`` and ``mean_class_accuracy`` of the nearest training image's class, by cosine, among all
            images as they are, with ``n`` images, the same of the validation images.

        Raises
        ------
        UserError
            If the network has no such tap, or no head of its own.
        """
        import torch
        from torch.nn import functional as F

        from ..data.images import target_sample
        from ..measure import distances, transferability
        from ..measure.metrics import scores
        from ..nets.build import with_head
        from ..train.read import BATCH

        (source,), net = self.reads(trial), with_head(context.network(trial))
        parts = [target_sample(trial.target, split, trial.seed) for split in ("train", "validation")]
        sets = [parts, [target_sample(source, "test", trial.seed)]]
        count = min(self.images, *(sum(len(part.rows) for part in one) for one in sets))
        sets = [some_of(one, count, self.pixels, trial.seed).to(context.device) for one in sets]
        (x, chances), (y, _) = (read_with_head(net, sample, self.tap) for sample in sets)
        labels, their = (sample.labels for sample in sets)
        found = {"frechet": distances.frechet(x, y), "mmd": distances.mmd(x, y)}
        found["proxy_a_distance"] = distances.proxy_a_distance(x, y, trial.seed)
        found |= {name: getattr(transferability, name)(chances, labels) for name in ("leep", "nce")}
        for name in ("logme", "h_score", "regularised_h_score", "transrate"):
            found[name] = getattr(transferability, name)(x, labels)
        several = len(their) >= 2 * len(their.unique())
        found["emd_similarity"] = distances.emd_similarity(y, their, x, labels) if several else None
        if self.task2vec:
            embedded = [distances.task2vec(net, sample, self.tap, trial.seed) for sample in sets if several]
            found["task2vec_distance"] = distances.task2vec_distance(*embedded) if several else None
        found = {name: value if value is None else float(f"{value:.{SIGNIFICANT}g}") for name, value in found.items()}
        part = {s: context.sample(trial.target, s, trial.seed) for s in ("train", "validation", "test")}
        read = {s: F.normalize(context.features(trial, sample, self.tap)) for s, sample in part.items()}
        for split, before in (("test", ""), ("validation", "validation_")):
            near = torch.cat([(rows @ read["train"].T).argmax(1) for rows in read[split].split(BATCH)])
            told = F.one_hot(part["train"].labels[near], part["train"].classes)
            measured = scores(told, part[split].labels)
            found |= {f"{before}{name}": measured[name] for name in ("accuracy", "mean_class_accuracy", "n")}
        return found | {"compared": count}


def some_of(parts: list[Any], count: int, pixels: int | None, seed: int) -> Any:
    """Return some images of a task as a sample: spread over classes, from all parts, at a reduced resolution."""
    import torch
    from torch.nn import functional as F

    from ..data.images import Sample

    labels, each = torch.cat([part.labels for part in parts]), [len(part.rows) for part in parts]
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(stream(seed, "compared images")))
    turn = F.one_hot(labels[order]).cumsum(0).gather(1, labels[order, None])[:, 0]  # 1: the first of its class
    chosen = order[turn.argsort(stable=True)[:count]].sort().values
    of, place = torch.arange(len(parts)).repeat_interleave(torch.tensor(each)), torch.cat([*map(torch.arange, each)])
    rows = [part.rows[place[chosen[of[chosen] == i]]] for i, part in enumerate(parts)]
    images = torch.cat([part.pixels[mine] for part, mine in zip(parts, rows, strict=True)])
    if pixels:
        maps, side = images.permute(0, 3, 1, 2).float(), images.shape[1]
        maps = F.interpolate(F.interpolate(maps, pixels, mode="area"), side, mode="bilinear")
        images = maps.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    return Sample(images, torch.arange(len(images)), labels[chosen], parts[0].classes)


def read_with_head(net: Any, sample: Any, tap: str) -> tuple[Any, Any]:
    """Return activations at a layer, and what the network's own head says, from one pass."""
    import torch

    from ..nets.taps import reading
    from ..train.read import batches, pooled

    features, chances = [], []
    with torch.inference_mode(), reading(net, [tap]) as found:
        for images in batches(net, sample):
            chances.append(net(images).double().softmax(1))
            features.append(pooled(found[tap].float()))
    return torch.cat(features), torch.cat(chances)
