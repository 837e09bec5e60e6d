"""Tables of neighbours, as values, as they are made and kept, and as they are cut for a seed's samples."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_world import context, give, small_world  # noqa: F401  (a fixture for the whole module)

from transferlab.data.images import load, source_sample, target_sample
from transferlab.errors import UserError
from transferlab.nets.build import build
from transferlab.select.descriptors import descriptors
from transferlab.select.search import pairs
from transferlab.select.selection import neighbour_table, whole
from transferlab.specs import (
    AlexNet,
    DeepFeatures,
    Duplicates,
    FirstConvolutions,
    Gabor,
    ImageSet,
    Neighbours,
    Pretrained,
    Recipe,
    Source,
    Spec,
    Subset,
    Target,
)
from transferlab.store import Store
from transferlab.train.run import Run, Stream

SIZE = 24
SOURCE = Source("synthetic:source", SIZE, Recipe(steps=4, batch=8, lr=0.01), Subset(classes=6))
NETWORK = Pretrained(SOURCE, AlexNet((6, 8, 8, 8, 8), (16, 16)), 0)
GABOR = Gabor(2, 3, lowest=0.2, bins=10)
CONVOLUTIONS = FirstConvolutions(NETWORK, bins=10)
DEEP = DeepFeatures(NETWORK)


def table(selection=GABOR, k: int = 7, **given) -> Neighbours:
    return Neighbours(selection, "synthetic:source", "synthetic:0.5", SIZE, k, **given)


@pytest.fixture(scope="module")
def root(small_world, tmp_path_factory) -> Path:  # noqa: F811
    folder = tmp_path_factory.mktemp("store")
    give(folder, NETWORK, build(NETWORK.backbone, SIZE, 6, 0))
    return folder


def by_hand(made: Neighbours, root: Path) -> np.ndarray:
    """All distances, pair by pair in float64."""
    ours, theirs = (whole(images, SIZE) for images in (made.target, made.pool))
    how = descriptors(made.selection, SIZE, context(root), ours)
    own, pool = (torch.cat(list(how.of(sample))) for sample in (ours, theirs))
    if isinstance(made.selection, DeepFeatures):
        return 1 - own.double().numpy() @ pool.double().numpy().T
    return torch.stack([pairs(t[None], pool, how.shares, how.weights) for t in own]).numpy()


# ------------------------------------------------------------------------------------------------------------- a value


@pytest.mark.parametrize(
    "selection", [GABOR, CONVOLUTIONS, Gabor(lowest=0.1), FirstConvolutions(NETWORK, True, "walk")]
)
def test_it_is_a_value(selection):
    made = table(selection, subset=Subset(exclude=("class",)))
    assert Spec.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    assert pickle.loads(pickle.dumps(made)).key == made.key
    others = (replace(made, k=8), replace(made, bits=3), replace(made, subset=Subset()))
    more = (
        replace(selection, binning="quantiles" if selection.binning == "walk" else "walk"),
        replace(selection, bins=20),
    )
    assert len({made.key, *(o.key for o in others), *(replace(made, selection=s).key for s in more)}) == 6


def test_what_it_needs_and_costs():
    assert table().needs() == (Duplicates("synthetic:source", "synthetic:0.5", SIZE),)
    assert table(CONVOLUTIONS).needs()[1:] == (NETWORK,)
    assert not table().trains
    assert table().kept == "arrays"
    assert table().label == "neighbours of synthetic:0.5 in synthetic:source, gabor"
    alexnet = Pretrained(replace(SOURCE, size=32), AlexNet((32, 48, 64, 64, 48), (256, 256)), 0)
    large = Neighbours(FirstConvolutions(alexnet), "tiny-imagenet", "flowers102", 32, 300)
    assert 60 < large.cost() < 600, "two to five core minutes or so"
    assert Duplicates("tiny-imagenet", "flowers102", 32).cost() > 10


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: table(k=0), r"^k \(=0\): must be a whole number above 0$"),
        (
            lambda: Neighbours(GABOR, "pacs/photo", "flowers102", 32, 421),
            r"^k \(=421\): pacs/photo has only 420 images$",
        ),
        (lambda: table(Gabor()), r"^size \(=24\): smaller than the largest filter, 45 px; raise its lowest$"),
        (
            lambda: Neighbours(GABOR, "synthetic:0.5", "synthetic:0.5", SIZE, 3),
            r"^pool \(=synthetic:0.5\): is the target itself$",
        ),
        (
            lambda: table(subset=Subset(per_class=5)),
            r"^subset \(=5 a class\): must leave out or name classes, and no more$",
        ),
        (
            lambda: table(subset=Subset(classes=5)),
            r"^subset \(=5 classes\): must leave out or name classes, and no more$",
        ),
        (lambda: Gabor(binning="walks"), r"^binning \(=walks\): must be one of quantiles, walk; did you mean walk\?$"),
        (lambda: Gabor(bins=1), r"^bins \(=1\): must be a whole number above 1$"),
        (lambda: Gabor(orientations=0), r"^orientations \(=0\): must be a whole number above 0$"),
        (lambda: Gabor(lowest=0.5), r"^lowest \(=0.5\): must be above 0, below highest, and that at most 0.5$"),
        (lambda: Gabor(width=0.0), r"^width \(=0.0\): must be above 0$"),
        (lambda: FirstConvolutions(NETWORK, False), r"^relu \(=False\): must be True or left out$"),
    ],
)
def test_bad_input(make, error):
    with pytest.raises(UserError, match=error):
        make()


def test_more_than_the_pool_has_is_refused(root):
    """Also where no manifest says how many there are, and where leaks were taken out."""
    count = len(load(ImageSet("synthetic:source"), SIZE).splits["train"].labels)
    with pytest.raises(
        UserError, match=rf"^k \(={count + 1}\): synthetic:source has only \d+ images without those that"
    ):
        context(root).arrays(table(k=count + 1))


# ---------------------------------------------------------------------------------------------------------------- made


@pytest.mark.parametrize(
    "selection", [GABOR, CONVOLUTIONS, replace(CONVOLUTIONS, relu=True), replace(GABOR, binning="walk"), DEEP]
)
def test_it_names_the_nearest_of_the_pool(root, selection):
    made = table(selection)
    found = context(root).arrays(made)
    assert Store(root).file(made).is_file()
    expected = by_hand(made, root)
    expected[:, context(root).arrays(made.duplicates)["pool"]] = np.inf
    assert found["indices"].shape == (expected.shape[0], 7)
    np.testing.assert_allclose(found["distances"], np.sort(expected, 1)[:, :7], atol=1e-5, rtol=1e-5)
    at = np.take_along_axis(expected, found["indices"].numpy().astype(int), 1)
    np.testing.assert_allclose(found["distances"], at, atol=1e-5, rtol=1e-5)


def test_leaks_are_no_neighbours(root, monkeypatch):
    before = context(root).arrays(table(k=2))
    leaks = before["indices"][:, 0].unique().long()
    monkeypatch.setattr("transferlab.select.duplicates.duplicates", lambda made: {"pool": leaks})
    after = context(root).arrays(table(k=2, bits=5))
    assert not set(after["indices"].flatten().tolist()) & set(leaks.tolist())
    free = [i for i, row in enumerate(before["indices"].tolist()) if row[1] not in leaks]
    assert torch.equal(after["indices"][free, 0], before["indices"][free, 1])


def test_classes_of_the_pool_can_be_left_out(root):
    data = load(ImageSet("synthetic:source"), SIZE)
    some = data.classes[:3]
    for subset, allowed in (
        (Subset(classes=some), {0, 1, 2}),
        (Subset(exclude=some), set(range(3, len(data.classes)))),
    ):
        found = context(root).arrays(table(k=3, subset=subset))["indices"].flatten()
        assert set(data.splits["train"].labels[found]) <= allowed


def test_in_tiles_it_is_the_same(root, monkeypatch):
    whole_table = context(root).arrays(table(k=5))
    for name, rows in (("TILE", 16), ("OWN", 50)):
        monkeypatch.setattr(f"transferlab.select.search.{name}", 8 * 120 * rows)
    monkeypatch.setattr("transferlab.select.descriptors.AT_A_TIME", 1 << 14)
    tiles = table(k=5).evaluate(context(root))
    torch.testing.assert_close(tiles["distances"], whole_table["distances"], rtol=1e-5, atol=1e-6)
    assert (tiles["indices"] == whole_table["indices"]).float().mean() > 0.95


# ------------------------------------------------------------------------------------------------------------- cut out


ARRAYS = {"indices": torch.tensor([[4, 2, 9, 0], [9, 8, 4, 2], [1, 3, 5, 7], [2, 4, 6, 8]], dtype=torch.int32)}


def test_rows_are_positions_in_the_samples():
    """The target's images 3 and 0, of the pool 0, 2, 4, 6 and 8; two neighbours each, nearest first."""
    made, used = neighbour_table(ARRAYS, torch.tensor([3, 0]), torch.tensor([0, 2, 4, 6, 8]), 2)
    assert made.tolist() == [[1, 2], [2, 1]]
    assert made.dtype == torch.int64
    assert used.tolist() == [0, 2, 2, 0, 0]


def test_each_image_has_its_own_number():
    pool = torch.tensor([9, 4, 2, 0, 8])
    made, used = neighbour_table(ARRAYS, torch.tensor([0, 1, 3]), pool, torch.tensor([4, 1, 2]))
    assert made.tolist() == [[1, 2, 0, 3], [0, -1, -1, -1], [2, 1, -1, -1]]
    assert used.tolist() == [2, 2, 2, 1, 0]


def test_who_has_fewer_left_gets_these():
    made, used = neighbour_table(ARRAYS, torch.tensor([0, 1]), torch.tensor([8, 9, 0]), 3)
    assert made.tolist() == [[1, 2, -1], [1, 0, -1]]
    assert used.tolist() == [1, 2, 1]


@pytest.mark.parametrize(
    ("pool", "counts", "error"),
    [
        ([4, 2], 2, r"^pool rows \(=2\): leave 1 target images without a neighbour \(row 2\)$"),
        ([4, 2, 1], 5, r"^counts \(=5\): only 4 neighbours of an image are kept; raise k$"),
        ([4, 2, 1], torch.tensor([1, 0]), r"^counts \(=0\): each target image must get at least one neighbour$"),
    ],
)
def test_a_table_that_cannot_be(pool, counts, error):
    with pytest.raises(UserError, match=error):
        neighbour_table(ARRAYS, torch.tensor([0, 2]), torch.tensor(pool), counts)


def test_it_is_what_a_second_stream_takes(root):
    target = target_sample(Target("synthetic:0.5", SIZE, Subset(classes=5, per_class=2)), "train", 1)
    pool = source_sample(replace(SOURCE, subset=Subset()), 0)
    made, used = neighbour_table(context(root).arrays(table()), target.rows, pool.rows, 3)
    assert made.shape == (10, 3)
    assert used.sum() == 30
    net = build(AlexNet((6, 8, 8, 8, 8), (16, 16)), SIZE, 5, 0)
    run = Run(net, (Stream(target, 0), Stream(pool, 1, made)), Recipe(steps=2, batch=4, lr=0.1), 0)
    assert run.streams[1].table is made
