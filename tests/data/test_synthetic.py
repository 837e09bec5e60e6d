"""The synthetic world: the same images everywhere, classes alike at every size, a dial that moves a set away."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from transferlab.data.images import load, target_sample
from transferlab.data.synthetic import DRAWS, FAMILY_NAMES, FIRST_INDEX, PER_CLASS, World, uniform
from transferlab.errors import UserError
from transferlab.specs import Detection, ImageSet, MultiLabel, Subset, Target, catalog

ALL = torch.arange(100)


def alike(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Correlation of the pixels of each image with those of its counterpart."""
    first, second = (x.float().flatten(1) - x.float().flatten(1).mean(1, keepdim=True) for x in (first, second))
    return torch.nn.functional.cosine_similarity(first, second)


def test_a_class_tree_of_four_families():
    world = World(None)
    assert len(world.classes) == 100
    world.tree.covers(world.classes)
    assert world.tree.depth == 3
    assert [len({world.tree.at_depth(c, depth) for c in world.classes}) for depth in range(4)] == [1, 4, 20, 100]
    assert [len(world.tree.under(family)) for family in FAMILY_NAMES] == [25] * 4
    assert World(0.5).classes == world.classes


@pytest.mark.parametrize("name", ["source", "0"])
def test_splits(name):
    decoded = load(ImageSet(f"synthetic:{name}"), 16)
    for split, count in PER_CLASS["source" if name == "source" else "target"].items():
        part = decoded.splits[split]
        assert (part.pixels.shape, part.pixels.dtype) == ((100 * count, 16, 16, 3), torch.uint8)
        assert np.bincount(part.labels).tolist() == [count] * 100
        assert len(set(part.names)) == len(part.names) == 100 * count


def test_splits_share_no_image():
    starts = sorted(
        (FIRST_INDEX[split], 100 * max(counts[split] for counts in PER_CLASS.values())) for split in FIRST_INDEX
    )
    assert all(start + count <= following for (start, count), (following, _) in itertools.pairwise(starts))


@pytest.mark.parametrize("distance", [None, 0.6])
def test_an_image_does_not_depend_on_the_others(distance):
    world, index = World(distance), torch.arange(200)
    whole = world.render(index, index % 100, 24)
    for size in (1, 7, 150):
        parts = [world.render(i, i % 100, 24) for i in index.split(size)]
        assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(world.render(index.flip(0), index.flip(0) % 100, 24), whole.flip(0))


def test_images_do_not_depend_on_anything_that_was_drawn_before():
    before = World(0.3).render(ALL, ALL, 16)
    torch.manual_seed(5)
    torch.rand(3)
    assert torch.equal(World(0.3).render(ALL, ALL, 16), before)
    assert not torch.equal(World(0.3, seed=1).render(ALL, ALL, 16), before)


def test_sample_shows_one_image_of_each_class():
    world = World(None)
    shown = world.sample([3, 50], 20)
    assert (shown.shape, shown.dtype) == ((2, 20, 20, 3), np.uint8)
    assert np.array_equal(shown, world.render(torch.tensor([3, 50]), torch.tensor([3, 50]), 20).numpy())


def test_images_look_the_same_at_every_size():
    world = World(None)
    small, large = world.render(ALL, ALL, 32), world.render(ALL, ALL, 64).float()
    shrunk = large.reshape(100, 32, 2, 32, 2, 3).mean((2, 4))
    assert alike(small, shrunk).min() > 0.8
    assert alike(small, shrunk).mean() > 0.95
    assert alike(small, shrunk.roll(1, 0)).mean() < 0.1


def test_every_class_has_a_look_of_its_own():
    world = World(None)
    index = torch.full((100,), 17)  # the same pose, colours, clutter and light for all
    drawn = world.render(index, ALL, 24)
    assert len(drawn.flatten(1).unique(dim=0)) == 100
    distance = torch.cdist(drawn.flatten(1).float(), drawn.flatten(1).float()) / drawn[0].numel() ** 0.5
    assert distance[~torch.eye(100, dtype=bool)].min() > 3  # grey levels, root mean square


def test_images_of_a_class_vary():
    drawn = World(None).render(torch.arange(50), torch.full((50,), 4), 24)
    assert len(drawn.flatten(1).unique(dim=0)) == 50
    assert alike(drawn, drawn.roll(1, 0)).mean() < 0.5


def test_colours_fade_with_distance():
    drawn = [World(d).render(ALL, ALL, 16).float() for d in (0.0, 0.25, 0.5, 0.75, 1.0)]
    saturation = [(x.amax(-1) - x.amin(-1)).mean().item() for x in drawn]
    assert saturation == sorted(saturation, reverse=True)
    assert saturation[-1] < 0.8 * saturation[0]


def test_images_move_away_with_distance():
    drawn = [World(d).render(ALL, ALL, 16).float() for d in (0.0, 0.1, 0.3, 0.6, 1.0)]
    moved = [(x - drawn[0]).abs().mean().item() for x in drawn]
    assert moved == sorted(moved)
    assert moved[1] > 0


def test_a_near_target_is_not_the_source():
    assert not torch.equal(World(0.0).render(ALL, ALL, 16), World(None).render(ALL, ALL, 16))


def test_uniform_numbers():
    drawn = uniform(0, torch.arange(20000), DRAWS)
    assert (drawn.shape, drawn.dtype) == ((20000, DRAWS), torch.float32)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert (drawn.mean(0) - 0.5).abs().max() < 0.01
    assert (drawn.std(0) - 12**-0.5).abs().max() < 0.01
    between_columns = torch.corrcoef(drawn.T) - torch.eye(DRAWS)
    assert between_columns.abs().max() < 0.04
    between_rows = torch.corrcoef(torch.stack([drawn[:-1, 0], drawn[1:, 0]]))[0, 1]
    assert abs(between_rows) < 0.03
    between_seeds = torch.corrcoef(torch.stack([drawn[:, 0], uniform(1, torch.arange(20000), 1)[:, 0]]))[0, 1]
    assert abs(between_seeds) < 0.03


def test_uniform_numbers_depend_on_seed_index_and_column_alone():
    drawn = uniform(3, torch.arange(10), 5)
    assert torch.equal(uniform(3, torch.tensor([7, 2]), 5), drawn[[7, 2]])
    assert torch.equal(uniform(3, torch.arange(10), 2), drawn[:, :2])
    assert not torch.equal(uniform(4, torch.arange(10), 5), drawn)
    assert uniform(3, torch.arange(0), 5).shape == (0, 5)


def test_known_uniform_numbers():
    """Published records rest on this world: it must never change."""
    wanted = [[0.0035, 0.7670, 0.3522], [0.2531, 0.0589, 0.3250], [0.2320, 0.2015, 0.8036]]
    assert uniform(0, torch.tensor([0, 1, 1 << 21]), 3).tolist() == [pytest.approx(row, abs=1e-4) for row in wanted]


@pytest.mark.parametrize("distance", ["", "far", "-0.1", "1.1", "nan", "source "])
def test_no_such_distance(distance):
    message = rf"data set \(=synthetic:{distance}\): must be synthetic:source or synthetic:D with D from 0"
    with pytest.raises(UserError, match=message):
        ImageSet(f"synthetic:{distance}")


@pytest.mark.parametrize(("name", "distance"), [("source", None), ("0", 0.0), ("1", 1.0), ("0.25", 0.25)])
def test_distances(name, distance):
    assert catalog.synthetic_distance(f"synthetic:{name}") == distance


# ------------------------------------------------------------------------------------------- images of several objects


def test_scenes_have_boxes_around_what_is_painted():
    """Where an object is alone, nothing outside of its box differs from the image without it."""
    world, index = World(0.3), torch.arange(60)
    pictures, boxes = world.scenes(index, 48)
    assert (pictures.shape, pictures.dtype) == ((60, 48, 48, 3), torch.uint8)
    count = (boxes[..., 0] >= 0).sum(1)
    assert set(count.tolist()) == {1, 2, 3}
    there = boxes[boxes[..., 0] >= 0]
    assert ((there[:, 1:5] >= 0) & (there[:, 1:5] <= 48)).all()
    assert (there[:, 3:5] - there[:, 1:3] >= 4).all()
    hard = (world.scenes(torch.arange(600), 24)[1][..., 5] == 1).double().mean()
    assert 0 < hard < 0.05  # covered by others
    assert torch.equal(boxes[:, 0, 0], (index % 100).float())
    bare = World(0.3)
    bare.outline = lambda trait, x, y: torch.full_like(x, -1)  # no object covers anything
    differs = (bare.scenes(index, 48)[0] != pictures).any(3)
    for i in (count == 1).nonzero().flatten().tolist():
        rows, columns = differs[i].any(1).nonzero().flatten(), differs[i].any(0).nonzero().flatten()
        _, left, top, right, bottom, _ = boxes[i, 0].tolist()
        found = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()
        assert (found - torch.tensor([left, top, right, bottom])).abs().max() <= 2  # edges are antialiased


def test_a_scene_does_not_depend_on_the_others():
    world, index = World(None), torch.arange(30)
    whole = world.scenes(index, 24)
    parts = [world.scenes(some, 24) for some in index.split(7)]
    assert all(torch.equal(torch.cat(each), value) for each, value in zip(zip(*parts, strict=True), whole, strict=True))


def test_scenes_are_a_target_of_several_labels_and_of_boxes():
    target = Target("synthetic:0.3", 24, Subset(depth=1, images=50), Detection())
    sample = target_sample(target, "train", 0)
    assert (sample.labels.shape, sample.classes, sample.names) == ((50, 3, 6), 4, FAMILY_NAMES)
    assert target.images.fingerprint != ImageSet("synthetic:0.3").fingerprint
    several = target_sample(replace(target, task=MultiLabel()), "train", 0)
    present = [set(its[its[:, 5] == 0, 0].int().tolist()) - {-1} for its in sample.labels]
    assert [set((row == 1).nonzero().flatten().tolist()) for row in several.labels] == present
