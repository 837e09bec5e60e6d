"""Joint fine-tuning: what is borrowed, by which heads it is told apart, rounds, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_world import CPU, context, give, killed_at, run, small_world, trainings  # noqa: F401  (a fixture for the whole module)

from transferlab.data.images import load, source_sample, target_sample
from transferlab.errors import UserError
from transferlab.lab import Lab
from transferlab.measure import TrainAccuracy
from transferlab.methods import FineTune, JointFineTune, Scratch
from transferlab.methods.joint import Selected
from transferlab.nets.build import build
from transferlab.select.pool import names_of
from transferlab.specs import (
    AlexNet,
    Duplicates,
    FirstConvolutions,
    Gabor,
    ImageSet,
    Neighbours,
    OneOf,
    Pretrained,
    Recipe,
    Source,
    Subset,
    Target,
    Trained,
    Trial,
)
from transferlab.store import Store
from transferlab.train.fit import fit
from transferlab.train.read import predict

RECIPE = Recipe(steps=6, batch=8, lr=0.005)
BACKBONE = AlexNet((8, 8, 8, 8, 8), (24, 16))
PART = Subset(classes=6)
SOURCE = Source("synthetic:source", 24, Recipe(steps=4, batch=8, lr=0.01), PART)
TARGET = Target("synthetic:0.5", 24, Subset(classes=5, per_class=4))
LOOKS = Gabor(2, 2, lowest=0.2, bins=8)
NEAREST = Selected(LOOKS, 3, 300)
JOINT = JointFineTune(RECIPE, "synthetic:source", NEAREST, pool_subset=PART)


def trial(method: JointFineTune = JOINT, seed: int = 1, source=SOURCE, target: Target = TARGET) -> Trial:
    return Trial(target, method, BACKBONE, seed, source)


def network(seed: int = 3, classes: int = 6) -> torch.nn.Module:
    return build(BACKBONE, 24, classes, seed)


def choose(**given) -> JointFineTune:
    return replace(JOINT, selected=replace(NEAREST, **given))


@pytest.fixture
def store(tmp_path) -> Path:
    """A store with the source's network for seeds 1 to 3."""
    for seed in (1, 2, 3):
        give(tmp_path, trial(seed=seed).start, network(seed))
    return tmp_path


def prepared(store: Path, one: Trial):
    return one.prepare(context(store))


def lab(root: Path, **given) -> Lab:
    return Lab(root, workers=1, device="cpu", quiet=True, **given)


# ---------------------------------------------------------------------------------------------------- what is borrowed


def borrowed(store: Path, method: JointFineTune, seed: int = 1) -> tuple[list[set[int]], torch.Tensor]:
    """Rows of the pool's split that each target image may be joined by, and the labels of all that are used."""
    first, second = prepared(store, trial(method, seed)).streams
    rows = [{second.sample.rows[i].item() for i in row if i >= 0} for row in second.table]
    assert len(rows) == len(first.sample.rows)
    return rows, second.sample.labels


def test_each_image_borrows_its_own_nearest_of_the_sample(store):
    """By hand, from the table of all: the pool's sample is part of what the table knows."""
    rows, _ = borrowed(store, JOINT)
    one = trial()
    (made,) = one.method.tables(one)
    assert (made.k, made.subset, made.size) == (300, Subset(), 24), "one table serves all seeds"
    nearest = context(store).arrays(made)["indices"]
    known = set(source_sample(SOURCE, 1).rows.tolist())
    for row, own in zip(rows, target_sample(TARGET, "train", 1).rows, strict=True):
        assert row == set([i for i in nearest[own].tolist() if i in known][:3])


def test_labels_are_those_of_the_pool(store):
    second = prepared(store, trial()).streams[1].sample
    known = dict(
        zip(*(v.tolist() for v in (source_sample(SOURCE, 1).rows, source_sample(SOURCE, 1).labels)), strict=True)
    )
    assert second.labels.tolist() == [known[row] for row in second.rows.tolist()]
    assert second.classes == 6


def test_images_that_nobody_borrows_stay_behind(store):
    _, second = prepared(store, trial(choose(k=1))).streams
    assert sorted(second.table.unique().tolist()) == list(range(len(second.sample.rows)))


def test_random_images_are_as_many_each_as_often(store):
    (_, own), (_, others) = (prepared(store, trial(m)).streams for m in (choose(k=2), choose(k=2, random=True)))
    assert not torch.equal(own.sample.rows.sort()[0], others.sample.rows.sort()[0])
    counts = [s.table[s.table >= 0].bincount().sort()[0] for s in (own, others)]
    assert torch.equal(*counts)
    again = prepared(store, trial(choose(k=2, random=True))).streams[1]
    assert torch.equal(again.sample.rows[again.table], others.sample.rows[others.table])
    seed = prepared(store, trial(choose(k=2, random=True), 2)).streams[1]
    assert not torch.equal(seed.sample.rows.sort()[0], others.sample.rows.sort()[0])


def test_all_is_drawn_in_epochs_of_its_own(store):
    first, second = prepared(store, trial(replace(JOINT, selected=None))).streams
    assert second.table is None
    assert torch.equal(second.sample.rows, source_sample(SOURCE, 1).rows)
    assert torch.equal(first.sample.rows, target_sample(TARGET, "train", 1).rows)


def test_classes_with_few_selected_images_are_dropped(store):
    """Others take their place; labels and outputs count what is left."""
    _, labels = borrowed(store, choose(k=1))
    sizes = labels.bincount(minlength=6)
    least = int(sizes.sort()[0][-3])
    assert (sizes >= least).sum() < 6
    method = choose(k=1, least=least)
    ready = prepared(store, trial(method))
    kept, second = ready.objective.classes, ready.streams[1].sample
    assert kept.tolist() == (sizes >= least).nonzero().flatten().tolist()
    whole = dict(
        zip(*(v.tolist() for v in (source_sample(SOURCE, 1).rows, source_sample(SOURCE, 1).labels)), strict=True)
    )
    assert [kept[i].item() for i in second.labels] == [whole[row] for row in second.rows.tolist()]
    assert second.classes == len(kept) == ready.known["pool_classes"]
    assert (ready.streams[1].table >= 0).sum(1).tolist() == [1] * 20
    assert len(ready.net.second_heads["source_head"].weight) == 6, "the head has them all, as that of the next round"


def test_what_looks_like_a_test_image_is_not_borrowed(store, monkeypatch):
    rows, _ = borrowed(store, JOINT)
    gone = torch.tensor(sorted(set.union(*rows)))
    monkeypatch.setattr(Duplicates, "evaluate", lambda self, context: {"pool": gone})
    for name, method in (("selected", JOINT), ("random", choose(random=True)), ("all", replace(JOINT, selected=None))):
        root = store / name
        give(root, trial().start, network())
        ready = prepared(root, trial(method))
        assert not set(ready.streams[1].sample.rows.tolist()) & set(gone.tolist())
        assert ready.known["near_duplicates"] == len(gone)


def test_several_sets_are_one_pool(store):
    """As many neighbours as of one, the nearest of all; classes of one name are one."""
    both = replace(JOINT, pool=("synthetic:0.2", "synthetic:source"), pool_subset=Subset(), selected=Selected(LOOKS, 4))
    one = trial(both)
    tasks, tables = both.reads(one), [context(store).arrays(made) for made in both.tables(one)]
    names, sizes = (
        names_of([source_sample(t, 1) for t in tasks]),
        [len(load(t.images, 24).splits["train"].labels) for t in tasks],
    )
    assert len(names) == len(set(load(tasks[0].images, 24).classes) | set(load(tasks[1].images, 24).classes))
    first, second = prepared(store, one).streams
    found = {tuple(p.flatten().tolist()) for p in second.sample.pixels[second.sample.rows[second.table[7]]]}
    own = first.sample.rows[7]
    far = torch.cat([t["distances"][own] for t in tables]).argsort(stable=True)[:4]
    where = torch.cat([tables[0]["indices"][own], tables[1]["indices"][own] + sizes[0]])[far].tolist()
    pixels = torch.cat([load(t.images, 24).splits["train"].pixels for t in tasks])
    assert found == {tuple(pixels[i].flatten().tolist()) for i in where}
    assert second.sample.classes == len(names)
    labels = np.concatenate(
        [[load(t.images, 24).classes[i] for i in load(t.images, 24).splits["train"].labels] for t in tasks]
    )
    place = second.table[7][0]
    (at,) = [i for i in where if torch.equal(pixels[i], second.sample.pixels[second.sample.rows[place]])][:1]
    assert names[second.sample.labels[place]] == labels[at]


# ------------------------------------------------------------------------------------------------------------ the heads


def test_the_source_network_keeps_its_own_head_for_the_pool(store):
    """Where it has these classes, and in the pool's order."""
    old = network(1).head
    same = prepared(store, trial()).net.second_heads["source_head"]
    assert torch.equal(same.weight, old.weight)
    classes = load(ImageSet("synthetic:source"), 24).classes
    names = [
        classes[c]
        for c in sorted({int(load(SOURCE.images, 24).splits["train"].labels[r]) for r in source_sample(SOURCE, 1).rows})
    ]
    some = replace(JOINT, selected=None, pool_subset=Subset(classes=(names[4], names[1], names[2])))
    kept = prepared(store, trial(some)).net.second_heads["source_head"]
    place = [names.index(name) for name in names_of([source_sample(s, 1) for s in some.reads(trial(some))])]
    assert torch.equal(kept.weight, old.weight[place])
    assert torch.equal(kept.bias, old.bias[place])


@pytest.mark.parametrize("change", [{"pool": ("synthetic:0.2",)}, {"pool_subset": Subset(classes=9)}])
def test_other_classes_get_a_new_head(change, store):
    method = replace(JOINT, **change, selected=None)
    found = [prepared(store, trial(method, seed)).net.second_heads["source_head"].weight for seed in (1, 1, 2)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert found[0].std().item() == pytest.approx(0.01, rel=0.2)


def test_the_target_s_head_and_order_are_those_of_fine_tuning(store):
    joint, plain = (prepared(store, trial(m)) for m in (JOINT, FineTune(RECIPE)))
    assert torch.equal(joint.net.head.weight, plain.net.head.weight)
    assert joint.streams[0].seed == plain.streams[0].seed
    assert joint.lr_multipliers == {joint.net.head: 3.0, joint.net.second_heads["source_head"]: 3.0}
    assert joint.recipe == plain.recipe


def test_from_scratch_it_starts_as_scratch_does(tmp_path):
    joint, plain = (prepared(tmp_path, trial(m, source=None)) for m in (JOINT, Scratch(RECIPE)))
    state = joint.net.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in plain.net.state_dict().items())
    assert joint.lr_multipliers == {}
    run(tmp_path, trial(source=None))


# ------------------------------------------------------------------------------------------------------------ training


def test_without_weight_it_is_fine_tuning(store):
    """The second stream's draws don't move the first's; its own normalisation doesn't either."""
    plain, bare = prepared(store, trial(FineTune(RECIPE))), replace(JOINT, batch_norm="apart", source_weight=1e-30)
    joint = prepared(store, trial(bare))
    losses = [fit(ready).losses for ready in (plain, joint)]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-6)
    state = joint.net.state_dict()
    assert all(torch.allclose(v, state[n], rtol=1e-4, atol=1e-5) for n, v in plain.net.state_dict().items())


def test_shared_statistics_are_those_of_both_halves(store):
    apart, shared = (prepared(store, trial(replace(JOINT, batch_norm=b, source_weight=1e-30))) for b in ("apart", None))
    assert (fit(apart).losses - fit(shared).losses).abs().max() > 1e-3
    running = [ready.net.conv1.norm.running_mean for ready in (apart, shared)]
    assert not torch.allclose(*running, atol=1e-3)
    assert apart.net.conv1.norm.track_running_stats


@pytest.mark.parametrize("batch_norm", [None, "apart"])
def test_in_a_pack_it_trains_as_alone(batch_norm, tmp_path):
    slow = [trial(replace(JOINT, recipe=replace(RECIPE, lr=1e-3), batch_norm=batch_norm), seed) for seed in (1, 2, 3)]
    found = {}
    for pack in (3, 1):
        for one in slow:
            give(tmp_path / str(pack), one.start, network(one.seed))
        with trainings() as seen:
            lab(tmp_path / str(pack), pack=pack).run(slow)
        assert Store(tmp_path / str(pack)).get(slow[0].key)["provenance"].get("together", 1) == pack
        found[pack] = {s.job.key: s.fitted.losses for s in seen}
    for key, losses in found[3].items():
        torch.testing.assert_close(losses, found[1][key], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("at", [0, 3])
def test_killed_and_gone_on_it_is_the_same(at, tmp_path, monkeypatch):
    one = trial(replace(JOINT, batch_norm="apart"))
    whole = run(tmp_path / "whole", one, network())
    begun = killed_at(at, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", one, network())
    assert run(tmp_path / "killed", one) == whole
    assert begun == [*range(at + 1), *range(at, RECIPE.steps)]


def test_what_is_on_record(store):
    found = run(store, replace(trial(choose(k=2)), measures=(TrainAccuracy(),)))
    second = prepared(store, trial(choose(k=2))).streams[1].sample
    assert found["pool_images"] == len(second.rows)
    assert found["pool_passes"] == pytest.approx(6 * 8 / len(second.rows), abs=1e-3)
    assert (found["pool_classes"], found["near_duplicates"]) == (6, 0)
    assert 0 <= found["train_accuracy"] <= 1
    assert "hard_fraction" not in found
    row = lab(store).run([trial(choose(k=2))]).iloc[0]
    assert (row["pool"], row["selected"], row["selected_k"], row["selected_selection"]) == (
        "synthetic:source",
        "selected",
        2,
        "gabor",
    )


def test_rate_and_weight_are_searched(store):
    method = replace(
        JOINT, recipe=replace(RECIPE, lr=OneOf(0.001, 0.01, seeds=(1,))), source_weight=OneOf(0.5, 2.0, seeds=(1,))
    )
    with trainings() as seen:
        row = lab(store).run([trial(method)]).iloc[0]
    assert len(seen) == 4
    assert row["source_weight"] in (0.5, 2.0)
    inside = replace(JOINT, selected=OneOf(NEAREST, replace(NEAREST, k=2), seeds=(1,)))
    assert lab(store).run([trial(inside)])["selected_k"][0] in (2, 3)


# -------------------------------------------------------------------------------------------------------------- rounds


def round_after(before: Trial, **given) -> Trial:
    return Trial(TARGET, replace(JOINT, **given), BACKBONE, before.seed, before)


def levels_by_hand(store: Path, before: Trial, threshold: float | None = None) -> list[int]:
    net, sample = context(store).load(Trained(before), 24), target_sample(TARGET, "train", before.seed)
    p = predict(net, sample).softmax(1)
    entropy = -(p * p.log()).sum(1)
    threshold = entropy.mean() if threshold is None else threshold
    pairs = zip(p.argmax(1) == sample.labels, entropy >= threshold, strict=True)
    return [0 if right and not unsure else 2 if right else 4 for right, unsure in pairs]


@pytest.fixture
def rounds(store) -> tuple[Path, Trial]:
    """A first round that gets some of its training images right."""
    learns = replace(JOINT, recipe=replace(RECIPE, steps=40, lr=0.03))
    first = trial(learns)
    lab(store).run([round_after(first, more_neighbours=True)])
    return store, first


def test_k_grows_for_what_is_hard(rounds):
    store, first = rounds
    added = levels_by_hand(store, first)
    assert len(set(added)) == 3, "wrong, uncertain and sure ones"
    ready = prepared(store, round_after(first, more_neighbours=True))
    assert (ready.streams[1].table >= 0).sum(1).tolist() == [3 * (1 + a) for a in added]
    assert len(ready.streams[0].sample.rows) == 20
    assert ready.known["hard_fraction"] == pytest.approx(np.mean([a > 0 for a in added]))
    sure = prepared(store, round_after(first, more_neighbours=True, entropy=100.0))
    assert (sure.streams[1].table >= 0).sum(1).tolist() == [3 * (1 + a * (a == 4)) for a in added]


def test_hard_images_are_drawn_more_often_and_that_alone(rounds):
    store, first = rounds
    added = levels_by_hand(store, first)
    for also in (None, True):
        own, second = prepared(store, round_after(first, oversample=True, more_neighbours=also)).streams
        rows = target_sample(TARGET, "train", 1).rows
        assert own.sample.rows.tolist() == [r for r, a in zip(rows.tolist(), added, strict=True) for _ in range(1 + a)]
        wide = [3 * (1 + a) if also else 3 for a in added for _ in range(1 + a)]
        assert (second.table >= 0).sum(1).tolist() == wide
    plain = prepared(store, round_after(first))
    assert "hard_fraction" not in plain.known
    assert (plain.streams[1].table >= 0).sum(1).tolist() == [3] * 20, "a round without either is a longer training"


def test_both_heads_go_on(rounds):
    store, first = rounds
    left, ready = context(store).load(Trained(first), 24), prepared(store, round_after(first))
    assert torch.equal(ready.net.head.weight, left.head.weight)
    assert torch.equal(ready.net.second_heads["source_head"].weight, left.second_heads["source_head"].weight)
    other = Trial(replace(TARGET, subset=Subset(classes=4)), JOINT, BACKBONE, 1, first)
    assert len(prepared(store, other).net.head.weight) == 4


def test_what_was_hard_adds_up(rounds):
    store, first = rounds
    second = round_after(first, more_neighbours=True)
    third = round_after(second, more_neighbours=True)
    found = run(store, third)
    both = [
        min(10, 1 + a + b) for a, b in zip(levels_by_hand(store, first), levels_by_hand(store, second), strict=True)
    ]
    ready = prepared(store, third)
    sizes = (ready.streams[1].table >= 0).sum(1).tolist()
    nearest = context(store).arrays(third.method.tables(third)[0])["indices"][ready.streams[0].sample.rows]
    there = torch.isin(nearest, source_sample(SOURCE, 1).rows).sum(1).tolist()
    assert sizes == [min(most, 3 * level) for most, level in zip(there, both, strict=True)]
    assert found["hard_fraction"] == pytest.approx(np.mean([a > 0 for a in levels_by_hand(store, second)]))
    assert [need.kind for need in third.needs()] == ["trained", "neighbours", "hardness", "hardness"]
    assert run(store, Trial(TARGET, FineTune(RECIPE), BACKBONE, 1, third))["n"] > 0, "its network is handed on"


# ---------------------------------------------------------------------------------------------------------- what is not


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Selected(LOOKS, 0), r"k \(=0\): must be a whole number above 0"),
        (lambda: Selected(LOOKS, 5, 4), r"nearest \(=4\): must not be below k, 5"),
        (lambda: Selected(LOOKS, 5, least=0), r"least \(=0\): must be a whole number above 0"),
        (lambda: replace(JOINT, source_weight=0.0), r"source_weight \(=0.0\): must be above 0"),
        (
            lambda: replace(JOINT, batch_norm="joint"),
            r"batch_norm \(=joint\): must be one of apart, statistics, frozen",
        ),
        (lambda: replace(JOINT, pool=()), r"pool \(=\(\)\): must name an image set"),
        (
            lambda: trial(replace(JOINT, entropy=1.0)),
            r"source \(=synthetic:source .*\): hard images are those of the round",
        ),
        (
            lambda: trial(target=replace(TARGET, images=SOURCE.images)),
            r"pool \(=synthetic:source\): is the target itself",
        ),
        (
            lambda: trial(replace(JOINT, selected=None, pool=("synthetic:0.2", "synthetic:0.5"))),
            r"pool \(=synthetic:0.5\): is the target itself",
        ),
        (
            lambda: trial(replace(JOINT, oversample=True)),
            r"source \(=synthetic:source .*\): hard images are those of the",
        ),
        (
            lambda: trial(replace(choose(nearest=None), more_neighbours=True), source=trial()),
            r"more_neighbours \(=True\): wants selected images, with nearest above k",
        ),
        (lambda: trial(choose(selection=Gabor(), k=2)), r"size \(=24\): smaller than the largest filter, 45 px"),
    ],
)
def test_what_is_refused_where_it_is_made(make, message):
    with pytest.raises(UserError, match=message):
        make()


def refused(store: Path, one: Trial) -> str:
    with pytest.raises(UserError) as caught:
        lab(store).run([one])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_more_neighbours_than_the_pool_has(store):
    assert "k (=500): synthetic:source has only" in refused(store, trial(choose(k=500, nearest=None)))
    few = replace(choose(k=10), pool_subset=Subset(classes=6, per_class=1))
    assert "k (=10): the pool has only 6 images" in refused(store, trial(few))


def test_no_class_is_left(store):
    found = refused(store, trial(choose(k=1, least=100)))
    assert "least (=100): two classes must be left; the second largest has " in found
    assert found.endswith(" selected images")


def test_a_target_image_without_a_neighbour(store, monkeypatch):
    """All of its nearest look like test images."""
    everywhere = {"indices": torch.arange(3).repeat(500, 1).int(), "distances": torch.zeros(500, 3)}
    monkeypatch.setattr(Neighbours, "evaluate", lambda self, context: everywhere)
    monkeypatch.setattr(Duplicates, "evaluate", lambda self, context: {"pool": torch.arange(3)})
    assert "leave 20 target images without a neighbour" in refused(store, trial())


def test_a_pool_without_labels(store, monkeypatch):
    """A folder of images that are in no classes."""
    folder = store / "images"
    folder.mkdir()
    from PIL import Image

    Image.new("RGB", (30, 30)).save(folder / "a.png")
    from transferlab.data.pinning import pin

    with pytest.raises(UserError, match=r"data set \(=folder:.*\): "):
        pin(f"folder:{folder}")
    with pytest.raises(UserError, match=r"not pinned yet"):
        replace(JOINT, pool=f"folder:{folder}")
    one = replace(JOINT, pool_subset=Subset(classes=("lobed-0-0",)), selected=None)
    assert "classes (=1): at least two must be left" in refused(store, trial(one))


def test_a_descriptor_of_a_network_is_made_first(store):
    """Of one seed's source, for all seeds."""
    looks = FirstConvolutions(Pretrained(SOURCE, BACKBONE, 0), bins=8)
    asked = [trial(choose(selection=looks), seed) for seed in (1, 2)]
    assert len({made.key for one in asked for made in one.method.tables(one)}) == 1
    table = lab(store).run(asked)
    assert list(table["status"]) == ["ok", "ok"]
    assert Store(store).file(Pretrained(SOURCE, BACKBONE, 0)).is_file()
    assert table["selected_selection"][0] == "first-convolutions"
