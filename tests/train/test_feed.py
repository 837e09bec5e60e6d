"""Batches: draws of one stream do not move those of another, and images come from wherever they stay."""

from dataclasses import replace

import pytest
import torch
from test_fit import RECIPE, SIZE, SMALL, flat_colours, run_of
from test_objectives import STEPS
from test_trainers import alone, capture, killed, pictures, together

from transferlab.data.augment import luma, normalise
from transferlab.data.images import Sample
from transferlab.errors import UserError
from transferlab.nets.build import build
from transferlab.nets.taps import freeze
from transferlab.train import feed as module
from transferlab.train.checkpoint import Checkpoint
from transferlab.train.feed import Feed
from transferlab.train.fit import fit
from transferlab.train.frozen import shortened
from transferlab.train.objectives import CrossEntropy
from transferlab.train.run import Run, Stream

BLOCK = 10  # steps that are drawn at once, here
TABLE = torch.tensor([[k % 30, (k + 7) % 30, -1] if k % 3 else [5, -1, -1] for k in range(40)])


class Joint(CrossEntropy):
    """Cross-entropy on both streams."""

    def bind(self, net, recipe):
        loss = super().bind(net, recipe)
        return lambda batch: loss(batch) + 0.5 * loss(batch.second)


def joint(
    k: int = 0, table: torch.Tensor | None = TABLE, seed: int = 7, recipe=STEPS, frozen: str | None = None
) -> Run:
    net = build(SMALL, SIZE, 4, k)
    if frozen:
        freeze(net, frozen)
    streams = (Stream(pictures(), k), Stream(flat_colours(30), seed + k, table))
    return Run(net, streams, replace(recipe, lr=0.002 * (k + 1)), k, objective=Joint())


def drawn(feed: Feed, blocks: int = 2) -> list:
    return [feed.block(BLOCK) for _ in range(blocks)]


@pytest.mark.parametrize("table", [TABLE, None])
def test_a_second_stream_leaves_the_first_as_it_is(table):
    alone, both = (drawn(Feed([run])) for run in (run_of(joint().net, pictures()), joint(table=table)))
    for (one,), (first, second) in zip(alone, both, strict=True):
        assert all(map(torch.equal, one.parts, first.parts))
        assert second.index.shape == first.index.shape
        assert not torch.equal(second.shift, first.shift)


def test_only_rows_of_the_table_are_drawn_and_all_alike():
    first, second = (torch.cat([block[s].index.flatten() for block in drawn(Feed([joint()]), 60)]) for s in (0, 1))
    assert ((TABLE[first] == second[:, None]) & (TABLE[first] >= 0)).any(1).all()
    two = first % 3 > 0
    assert (second[~two] == 5).all()
    assert (second[two] == TABLE[first[two], 0]).double().mean() == pytest.approx(0.5, abs=0.03)


def test_the_second_streams_draws_are_its_own_seeds():
    one, same, other = (drawn(Feed([joint(seed=seed)]), 1)[0][1] for seed in (1, 1, 2))
    assert torch.equal(one.index, same.index)
    assert not torch.equal(one.index, other.index)


def test_a_batch_holds_images_of_both():
    recipe = replace(RECIPE, augment="none")
    feed = Feed([joint(recipe=recipe)])
    (first, second), sample = feed.block(3), flat_colours(30)
    batch = feed.batch([first, second], 2)
    assert torch.equal(batch.second.labels, sample.labels[second.index[2]])
    assert torch.equal(batch.second.images, normalise(sample.pixels[sample.rows[second.index[2]]]))


@pytest.mark.parametrize("table", [TABLE, None])
def test_packed_is_alone_and_captured_is_eager(table, monkeypatch):
    losses = together([joint(k, table) for k in range(3)])
    for k, row in enumerate(losses):
        torch.testing.assert_close(row, alone(joint(k, table)), rtol=1e-6, atol=1e-6)
    capture(monkeypatch)
    torch.testing.assert_close(together([joint(k, table) for k in range(3)]), losses, rtol=1e-6, atol=1e-6)


def test_a_frozen_front_is_computed_once_for_both_streams():
    plain = replace(STEPS, augment="none")
    short = shortened(joint(recipe=plain, frozen="pool5"))
    assert [s.sample.pixels.ndim for s in short.streams] == [2, 2]
    torch.testing.assert_close(alone(short), alone(joint(recipe=plain, frozen="pool5")), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("table", [TABLE, None])
@pytest.mark.parametrize("count", [1, 2])
def test_killed_and_resumed_is_uninterrupted(table, count, tmp_path, monkeypatch):
    monkeypatch.setattr("transferlab.train.fit.BLOCK", BLOCK)
    recipe, path = replace(STEPS, steps=BLOCK + 6), tmp_path / "c.pt"
    make = lambda: [joint(k, table, recipe=recipe) for k in range(count)]  # noqa: E731
    killed(monkeypatch, BLOCK + 3, path, lambda kept: together(make(), kept))
    assert torch.equal(together(make(), Checkpoint(path, 10**6)), together(make()))


@pytest.mark.parametrize(
    ("table", "rule"),
    [
        (TABLE[:39], r"table \(=39\): must have a row for each of the 40 images"),
        (TABLE.where(TABLE != 5, -1), r"table \(=\(40, 3\)\): every row must name images, from 0 to 29"),
        (TABLE + 10, "every row must name images, from 0 to 29"),
    ],
)
def test_tables_that_cannot_be_drawn_from(table, rule):
    with pytest.raises(UserError, match=rule):
        joint(table=table)


# --------------------------------------------------------------------------------------------- where images come from


def test_grey_is_taken_of_the_batch():
    sample, recipe = replace(pictures(), grey=True), replace(RECIPE, augment="none")
    feed = Feed([run_of(joint().net, sample, recipe)])
    block = feed.block(1)
    pixels = sample.pixels[sample.rows[block[0].index[0]]]
    assert torch.equal(feed.batch(block, 0).images, normalise(luma(pixels)))
    assert not torch.equal(luma(pixels), pixels)


def test_a_pack_may_mix_sets_and_grey():
    samples = [pictures(), replace(pictures(), grey=True), replace(pictures(), pixels=pictures().pixels.flip(2))]
    make = lambda: [run_of(build(SMALL, SIZE, 4, k), s, STEPS, k) for k, s in enumerate(samples)]  # noqa: E731
    for row, run in zip(together(make()), make(), strict=True):
        torch.testing.assert_close(row, alone(run), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("augment", ["crop-flip", "none"])
def test_images_that_stay_on_the_host_are_gathered_there(augment):
    """Here the host is the CPU and the device one without numbers; images, labels and rows lie where they lie."""
    run = run_of(build(SMALL, SIZE, 4, 0).to("meta"), pictures(), replace(RECIPE, augment=augment))
    feed = Feed([run])
    batch = feed.batch(feed.block(2), 1)
    assert not feed.on_device
    assert feed.pools[0].rows.device.type == "cpu"
    assert {batch.images.device.type, batch.labels.device.type} == {"meta"}
    assert batch.images.shape == (16, 3, SIZE, SIZE)
    near = Feed([run_of(build(SMALL, SIZE, 4, 0), pictures())])
    assert near.on_device


def test_only_the_rows_of_a_batch_are_read(monkeypatch):
    """Of a set that is larger than memory, too."""
    seen, really = [], module.crop_flip
    monkeypatch.setattr(
        module, "crop_flip", lambda pixels, rows, *a: (seen.append(len(rows)), really(pixels, rows, *a))[1]
    )
    fit(run_of(build(SMALL, SIZE, 4, 0), pictures(), replace(RECIPE, steps=3)))
    assert seen == [16] * 3


@pytest.mark.parametrize("augment", ["crop-flip", "none"])
def test_boxes_move_with_their_images(augment):
    """A bright square in a dark image: where it is seen is where its box lies; nothing moves without augmentation."""
    pixels, labels = torch.zeros(6, 24, 24, 3, dtype=torch.uint8), torch.full((6, 2, 6), -1.0)
    for i in range(6):
        pixels[i, 8 : 12 + i, 6:10] = 255
        labels[i, 0] = torch.tensor([i % 3, 6, 8, 10, 12 + i, 0])
    sample = Sample(pixels, torch.arange(6), labels, 3)
    run = Run(build(SMALL, SIZE, 4, 0), (Stream(sample, 1),), replace(STEPS, augment=augment, batch=6), 1)
    feed, moved = Feed([run]), 0
    block = feed.block(BLOCK)
    for step in range(BLOCK):
        batch = feed.batch(block, step)
        for image, (first, second), was in zip(batch.images, batch.labels, labels[block[0].index[step]], strict=True):
            seen = image[0] > 0
            rows, columns = seen.any(1).nonzero().flatten(), seen.any(0).nonzero().flatten()
            assert first[1:5].tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            assert (first[0], first[5], second[0]) == (was[0, 0], 0, -1)
            moved += int(not torch.equal(first, was[0]))
    assert (moved > 0) == (augment == "crop-flip")
