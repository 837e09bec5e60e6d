"""Selective joint fine-tuning: the target beside images that it borrows from a pool, under two heads.

Ge and Yu (2017), "Borrowing treasures from the wealthy".
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ..errors import check, choose
from ..seeds import stream
from ..specs import WHOLE, Artefact, ImageSet, Method, Recipe, Source, Spec, Subset, Target, Trained, Trial
from ..specs.selection import Duplicates, Neighbours, Selection
from ..specs.serial import above_zero, flags, positive

WRONG, UNCERTAIN = 4, 2  # times K0 that a round adds for an image (op. cit., sec. 3.4)
HIGHEST = 10  # times K0, at most (``highest_sample_level`` of the released code)


@dataclass(frozen=True)
class Selected(Spec, kind="selected"):
    """Which images of a pool are borrowed: for each target image those that look most like it (op. cit., sec. 3.2-3.3).

    Parameters
    ----------
    selection : Gabor, FirstConvolutions or DeepFeatures
        What they look like.
    k : int
        K0: nearest images of each target image. With each target image that is drawn, one of its own is.
    nearest : int, optional
        Images in its row of the table, so that K can grow and others replace what is dropped; by default `k`.
    least : int, optional
        Classes of the pool with fewer selected images are dropped (``least_sample_per_class`` of the released code).
    random : bool, optional
        For comparison: as many distinct images, each in as many rows, drawn by the seed from what is not dropped.
    """

    selection: Selection
    k: int
    nearest: int | None = None
    least: int | None = None
    random: bool | None = None

    def __post_init__(self) -> None:
        for name in ("k", "nearest", "least"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))
        check((self.nearest or self.k) >= self.k, "nearest", self.nearest, f"must not be below k, {self.k}")
        flags(self, "random")


@dataclass(frozen=True)
class Hardness(Artefact, kind="hardness", version=1):
    """How hard the training images of a trial are to the network that it leaves (op. cit., sec. 3.4).

    Parameters
    ----------
    trial : Trial
    entropy : float, optional
        In nats: from there on an image that is right is hard, too. By default the mean over the training images.
    """

    trial: Trial
    entropy: float | None = None

    shape: ClassVar[str] = "hardness"  # handed out together, so that what needs them can train together

    def needs(self) -> tuple[Artefact, ...]:
        return (Trained(self.trial),)

    def cost(self) -> float:
        return self.trial.cost() / 10  # of a training that reads its images some times over

    def evaluate(self, context: Any) -> dict[str, Any]:
        """Return int64 ``added``: for each training image what is added to its K, as a multiple of K0."""
        from torch import special

        from ..train.read import predict

        sample = context.sample(self.trial.target, "train", self.trial.seed)
        answers = predict(context.load(Trained(self.trial), self.trial.target.size), sample).double().softmax(1)
        entropy, wrong = special.entr(answers).sum(1), answers.argmax(1) != sample.labels
        uncertain = entropy >= (entropy.mean() if self.entropy is None else self.entropy)
        return {"added": WRONG * wrong.long() + UNCERTAIN * (~wrong & uncertain).long()}


@dataclass(frozen=True)
class JointFineTune(Method, kind="joint-fine-tune", version=1):
    """Train on the target and on images of a pool at once: one backbone, two heads, each batch half of either.

    From the source network, or from scratch; with as many steps and target images a step as `FineTune`. What looks like
    a test image of the target is not borrowed. The pool's head starts as the source's where the source network was
    trained on these classes of this set, else anew. A round starts from a trial on the same target: both heads go on.

    Parameters
    ----------
    recipe : Recipe
        A batch has ``batch`` images of the target, and as many of the pool.
    pool : tuple of ImageSet, or one, or names
        Their training images, at the target's size.
    selected : Selected, optional
        Which of them; by default all, drawn in epochs of their own.
    source_weight : float
        Of the pool's loss; that of the target has 1.
    pool_subset : Subset
        Part of the pool, drawn by the trial's seed.
    head_lr : float
        Learning rate of both heads as a multiple of the backbone's; from scratch all learns alike.
    freeze : str, optional
        The last layer that is kept as it is; everything before it is kept too.
    batch_norm : {"apart", "statistics", "frozen"}, optional
        By default both halves share the batch's statistics, as in the released code. ``apart``: each has its own, and
        the running ones are the target's. The others are those of `FineTune`.
    more_neighbours : bool, optional
        In this round K has grown for images that were hard before it, or before an earlier one.
    oversample : bool, optional
        In this round these are drawn so much more often (``sampling_level`` of the released code).
    entropy : float, optional
        As in `Hardness`.
    """

    recipe: Recipe
    pool: tuple[ImageSet, ...]
    selected: Selected | None = None
    source_weight: float = 1.0
    pool_subset: Subset = WHOLE
    head_lr: float = 3.0
    freeze: str | None = None
    batch_norm: str | None = None
    more_neighbours: bool | None = None
    oversample: bool | None = None
    entropy: float | None = None

    starts: ClassVar[None] = None

    def __post_init__(self) -> None:
        sets = self.pool if isinstance(self.pool, tuple) else (self.pool,)
        check(bool(sets), "pool", sets, "must name an image set")
        object.__setattr__(self, "pool", tuple(ImageSet(one) if isinstance(one, str) else one for one in sets))
        above_zero(self, "source_weight", "head_lr", "entropy")
        flags(self, "more_neighbours", "oversample")
        if self.batch_norm is not None:
            choose("batch_norm", self.batch_norm, ("apart", "statistics", "frozen"))

    def fits(self, trial: Trial) -> None:
        if self.searched:
            return
        for images in self.pool:
            check(images.key != trial.target.images.key, "pool", images.name, "is the target itself")
        self.tables(trial)
        grows = not self.more_neighbours or (self.selected and (self.selected.nearest or 0) > self.selected.k)
        check(grows, "more_neighbours", True, "wants selected images, with nearest above k")
        fits = _again(trial) or not (self.more_neighbours or self.oversample or self.entropy)
        rule = "hard images are those of the round before; start from a trial on the same target"
        check(fits, "source", trial.source and trial.source.label, rule)

    def reads(self, trial: Trial) -> tuple[Target, ...]:
        return tuple(Target(images, trial.target.size, self.pool_subset) for images in self.pool)

    def tables(self, trial: Trial) -> tuple[Duplicates | Neighbours, ...]:
        """Return of each set what is left out, or, where some are selected, the table of the target's neighbours."""
        about, chosen = [(one, trial.target.images, trial.target.size) for one in self.pool], self.selected
        if not chosen:
            return tuple(Duplicates(*one) for one in about)
        named = replace(self.pool_subset.shape, depth=None, lift=None)
        part = replace(named, classes=None) if isinstance(named.classes, int) else named
        return tuple(Neighbours(chosen.selection, *one, chosen.nearest or chosen.k, part) for one in about)

    def rounds(self, trial: Trial) -> tuple[Hardness, ...]:
        """Return what was hard before this round, and before those before it."""
        if not (_again(trial) and (self.more_neighbours or self.oversample)):
            return ()
        earlier = getattr(trial.before.method, "rounds", lambda before: ())
        return (Hardness(trial.before, self.entropy), *earlier(trial.before))

    def needs(self, trial: Trial) -> tuple[Artefact, ...]:
        if trial.options:
            return trial.choices[0][0].at_seed(trial.seed).needs()
        return (*super().needs(trial), *self.tables(trial), *self.rounds(trial))

    def cost(self, trial: Trial) -> float:
        return 2 * super().cost(trial)

    def prepare(self, trial: Trial, context: Any) -> Any:
        """Put both heads on the network, and choose what is borrowed."""
        import torch

        from ..data.images import source_sample, target_sample
        from ..select.pool import Pool, names_of
        from ..train.objectives import TwoHeads
        from ..train.run import Run, Stream

        sample, order = target_sample(trial.target, "train", trial.seed), stream(trial.seed, "target order")
        parts, chosen = [source_sample(s, trial.seed) for s in self.reads(trial)], self.selected
        tables = self.tables(trial)
        net, rates = self._network(trial, context, sample.classes, names_of(parts))
        if context.blank:
            return Run(net, (Stream(sample, order),), self.recipe, order, rates)
        pool = Pool.of(parts, [context.arrays(getattr(made, "duplicates", made))["pool"] for made in tables])
        added = [context.arrays(made)["added"] for made in self.rounds(trial)]
        levels = sum(added, torch.ones(len(sample.rows), dtype=torch.int64)).clamp(max=HIGHEST)
        which, kept, table = torch.arange(len(pool.rows)), torch.arange(pool.sample.classes), None
        if chosen:
            check(chosen.k <= len(which), "k", chosen.k, f"the pool has only {len(which)} images")
            counts = (chosen.k * levels).clamp(max=chosen.nearest or chosen.k if self.more_neighbours else chosen.k)
            seed = stream(trial.seed, "random images") if chosen.random else None
            arrays = [context.arrays(made) for made in tables]
            which, kept, table = pool.select(arrays, sample.rows, counts, chosen.least or 0, seed)
        every = torch.arange(len(levels)).repeat_interleave(levels if self.oversample else levels.clamp(max=1))
        sample = replace(sample, rows=sample.rows[every], labels=sample.labels[every])
        known = {"pool_images": len(which), "pool_classes": len(kept), "near_duplicates": pool.left_out}
        known |= {"pool_share": round(len(which) / len(pool.rows), 5)}
        known |= {"pool_passes": round(self.recipe.images / len(which), 3)}
        known |= {"hard_fraction": round((added[0] > 0).double().mean().item(), 5)} if added else {}
        labels, rows = torch.searchsorted(kept, pool.sample.labels[which]), pool.sample.rows[which]
        second = replace(pool.sample, rows=rows, labels=labels, classes=len(kept)).to(context.device)
        second = Stream(second, stream(trial.seed, "pool order"), table[every] if chosen else None)
        objective = TwoHeads(self.source_weight, kept.to(context.device), self.batch_norm == "apart")
        streams = Stream(sample.to(context.device), order), second
        return Run(net, streams, self.recipe, order, rates, objective, known=known)

    def _network(self, trial: Trial, context: Any, classes: int, names: tuple) -> tuple[Any, dict]:
        """Return the network with both heads, and the multiples of their learning rate."""
        from ..data.images import source_sample
        from ..nets import build, heads, taps

        source, size, fresh = trial.source, trial.target.size, stream(trial.seed, "target weights")
        net = context.network(trial) if source else context.fresh(trial.backbone, size, classes, fresh)
        if self.freeze:
            taps.freeze(net, self.freeze)
        taps.batch_norm(net, None if self.batch_norm == "apart" else self.batch_norm)
        before, known = trial.before and trial.before.method, ()
        if isinstance(source, Source) and self.pool == (source.images,) and not context.blank:
            known = source_sample(source, trial.seed).names
        if isinstance(before, JointFineTune) and (before.pool, before.pool_subset) == (self.pool, self.pool_subset):
            second = net.second_heads[heads.SOURCE_HEAD]
        elif {*names} <= {*known}:
            second = heads.keep_head(net, heads.SOURCE_HEAD, build.head_of(net)[2], [*map(known.index, names)])
        else:
            second = heads.add_head(net, heads.SOURCE_HEAD, len(names), stream(trial.seed, "source head"))
        if source and not _again(trial):
            build.new_head(net, classes, stream(trial.seed, "head"))
        return net, dict.fromkeys((build.head_of(net)[2], second), self.head_lr) if source else {}


def _again(trial: Trial) -> bool:
    """Whether a trial goes on with what the one before it was trained on."""
    return bool(trial.before) and trial.before.target == trial.target
