"""What a step sees: order, shifts and mirrors that do not depend on the device, crops, normalised pixels."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from transferlab.data import augment
from transferlab.data.augment import (
    BLOCK,
    CHANNEL_MEAN,
    LUMA,
    STD,
    Draws,
    Sampler,
    crop_flip,
    crop_flip_boxes,
    luma,
    normalise,
)
from transferlab.errors import UserError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def everything(count: int, steps: int, batch: int, pad: int = 2, seed: int = 0) -> Draws:
    """All draws of a training run."""
    sampler = Sampler(count, batch, pad, seed)
    blocks = [sampler.block(min(BLOCK, steps - first)) for first in range(0, steps, BLOCK)]
    return Draws(*(torch.cat([getattr(b, part) for b in blocks]) for part in ("index", "shift", "mirror")))


@given(st.integers(1, 9), st.integers(1, 2 * BLOCK + 3), st.integers(1, 12))
def test_every_epoch_has_every_image_once(count, steps, batch):
    index = everything(count, steps, batch).index
    assert index.shape == (steps, batch)
    whole = index.flatten()[: steps * batch // count * count].reshape(-1, count)
    assert (whole.sort(1).values == torch.arange(count)).all()
    rest = index.flatten()[whole.numel() :]
    assert len(rest.unique()) == len(rest)


def test_no_images_to_draw_from():
    with pytest.raises(UserError, match=r"images \(=0\): there must be some to train on"):
        everything(0, 1, 1)


def test_epochs_come_in_different_orders():
    epochs = everything(20, 10, 20).index
    assert len({tuple(e.tolist()) for e in epochs}) == 10


def test_a_batch_larger_than_the_sample_holds_repeats():
    index = everything(3, 4, 8).index
    assert index.shape == (4, 8)
    for row in index:
        assert torch.bincount(row, minlength=3).min() >= 2


@pytest.mark.parametrize("pad", [0, 1, 3])
def test_shifts_and_mirrors(pad):
    drawn = everything(10, 100, 20, pad)
    assert drawn.shift.shape == (100, 20, 2)
    assert sorted(drawn.shift.unique().tolist()) == list(range(-pad, pad + 1))
    assert drawn.mirror.shape == (100, 20)
    assert drawn.mirror.dtype == torch.bool
    assert abs(drawn.mirror.float().mean() - 0.5) < 0.04
    assert drawn.shift.float().mean((0, 1)).abs().max() < 0.15


def test_a_longer_run_begins_like_a_shorter_one():
    """Blocks are drawn as they are needed; what was seen up to a block's end does not depend on what follows."""
    short, long = everything(7, BLOCK, 4), everything(7, 2 * BLOCK + 10, 4)
    for part in ("index", "shift", "mirror"):
        assert torch.equal(getattr(short, part), getattr(long, part)[:BLOCK])


def test_a_sampler_goes_on_from_its_state():
    sampler = Sampler(7, 4, 2, 0)
    sampler.block(5)
    state = sampler.state()
    after = [sampler.block(5) for _ in range(3)]
    other = Sampler(7, 4, 2, 99)
    other.restore(state)
    for expected in after:
        found = other.block(5)
        assert all(torch.equal(getattr(found, part), getattr(expected, part)) for part in ("index", "shift", "mirror"))


def test_draws_depend_on_the_seed_alone():
    first, again, other = everything(30, 5, 8), everything(30, 5, 8), everything(30, 5, 8, seed=1)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    everything(30, 5, 8)
    assert torch.equal(torch.get_rng_state(), state)
    for part in ("index", "shift", "mirror"):
        assert torch.equal(getattr(first, part), getattr(again, part))
        assert not torch.equal(getattr(first, part), getattr(other, part))


def test_draws_are_made_on_the_cpu_and_then_moved():
    block = Sampler(10, 4, 1, 0).block(3)
    assert block.index.device.type == "cpu"
    moved = block.to(torch.device("meta"))
    assert [t.device.type for t in (moved.index, moved.shift, moved.mirror)] == ["meta"] * 3
    assert moved.shift.shape == block.shift.shape


# ------------------------------------------------------------------------------------------------------- crop_flip


def slow_crop_flip(pixels: np.ndarray, rows, shift, mirror) -> np.ndarray:
    """One image and one pixel after another."""
    _, height, width, _ = pixels.shape
    out = np.empty((len(rows), height, width, 3), dtype=np.uint8)
    for b, row in enumerate(rows):
        for y in range(height):
            for x in range(width):
                from_x = (width - 1 - x if mirror[b] else x) + shift[b][1]
                from_y = y + shift[b][0]
                out[b, y, x] = pixels[row, min(max(from_y, 0), height - 1), min(max(from_x, 0), width - 1)]
    return out


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 4), st.integers(0, 99))
def test_crop_flip_against_a_loop(height, width, pad, seed):
    random = generator(seed)
    pixels = torch.randint(0, 256, (3, height, width, 3), generator=random, dtype=torch.uint8)
    rows = torch.randint(0, 3, (4,), generator=random)
    shift = torch.randint(-pad, pad + 1, (4, 2), generator=random)
    mirror = torch.rand(4, generator=random) < 0.5
    got = crop_flip(pixels, rows, shift, mirror)
    assert got.dtype == torch.uint8
    assert np.array_equal(got.numpy(), slow_crop_flip(pixels.numpy(), rows.tolist(), shift.tolist(), mirror.tolist()))


def test_crop_flip_by_hand():
    pixels = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]], dtype=torch.uint8)[None, :, :, None].expand(1, 3, 3, 3)

    def one(shift, mirror):
        return crop_flip(pixels, torch.tensor([0]), torch.tensor([shift]), torch.tensor([mirror]))[0, :, :, 0].tolist()

    assert one([0, 0], False) == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert one([0, 0], True) == [[3, 2, 1], [6, 5, 4], [9, 8, 7]]
    assert one([1, 0], False) == [[4, 5, 6], [7, 8, 9], [7, 8, 9]]
    assert one([0, -1], False) == [[1, 1, 2], [4, 4, 5], [7, 7, 8]]
    assert one([0, -1], True) == [[2, 1, 1], [5, 4, 4], [8, 7, 7]]


def test_crop_flip_of_no_images():
    pixels = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    none = torch.empty(0, dtype=torch.int64)
    assert crop_flip(pixels, none, torch.empty(0, 2, dtype=torch.int64), none.bool()).shape == (0, 4, 4, 3)


# ------------------------------------------------------------------------------------------------------- normalise


def test_normalise():
    pixels = torch.randint(0, 256, (2, 4, 5, 3), generator=generator(), dtype=torch.uint8)
    before = pixels.clone()
    got = normalise(pixels)
    assert (got.shape, got.dtype) == ((2, 3, 4, 5), torch.float32)
    assert got.is_contiguous(memory_format=torch.channels_last)
    wanted = (pixels.permute(0, 3, 1, 2) / 255 - torch.tensor(CHANNEL_MEAN)[:, None, None]) / torch.tensor(STD)[
        :, None, None
    ]
    assert torch.allclose(got, wanted, atol=1e-5)
    assert torch.equal(pixels, before)


def test_normalised_images_can_be_trained_on_after_a_prediction():
    """The statistics are kept; made under inference mode, they could not be saved for a backward pass."""
    augment._statistics.cache_clear()
    with torch.inference_mode():
        normalise(torch.zeros(1, 2, 2, 3, dtype=torch.uint8))
    assert not any(t.is_inference() for t in augment._statistics(torch.device("cpu")))


def test_luma_of_every_colour():
    """The same in any batch; and what the product of matrices gives that published records were made with, but where
    the exact value lies so near the middle of two that a processor's order of the sum decides.
    """
    values = torch.arange(256, dtype=torch.uint8)
    pixels = torch.cartesian_prod(values, values, values).reshape(-1, 256, 256, 3)
    grey = luma(pixels)
    assert (grey.shape, grey.dtype) == (pixels.shape, torch.uint8)
    exact = pixels.double() @ torch.tensor(LUMA, dtype=torch.float64)
    clear = (exact % 1 - 0.5).abs() > 1e-4
    assert clear.double().mean() > 0.998
    assert torch.equal(grey[..., 0][clear], exact.round().to(torch.uint8)[clear])
    assert torch.equal(grey[..., 0], grey[..., 1])
    assert torch.equal(grey[..., 0], grey[..., 2])
    assert torch.equal(luma(pixels[7:9]), grey[7:9])
    pillow = np.array([np.asarray(Image.fromarray(p.numpy()).convert("L")) for p in pixels[::16]], dtype=int)
    assert np.abs(grey[::16, ..., 0].numpy() - pillow).max() <= 1  # Pillow truncates


# ------------------------------------------------------------------------------------------------ boxes of objects


def drawn_boxes(boxes: torch.Tensor, size: int) -> torch.Tensor:
    """Pictures that are bright inside of one box each, whose edges are whole numbers."""
    pixels = torch.zeros(len(boxes), size, size, 3, dtype=torch.uint8)
    for picture, (_, left, top, right, bottom, _) in zip(pixels, boxes[:, 0].int().tolist(), strict=True):
        picture[top:bottom, left:right] = 255
    return pixels


@given(st.integers(0, 10**6), st.integers(-3, 3), st.integers(-3, 3), st.booleans())
def test_boxes_go_where_their_pixels_go(seed, down, right, mirror):
    """Objects that touch no edge, so that no pixel of theirs is repeated beyond it."""
    size, draw = 24, generator(seed)
    low = torch.randint(1, 16, (4, 2), generator=draw)
    high = (low + torch.randint(1, 12, (4, 2), generator=draw)).clamp_max(size - 1)
    boxes = torch.cat([torch.ones(4, 1), low, high, torch.zeros(4, 1)], 1)[:, None]
    shift, turned = torch.tensor([[down, right]] * 4), torch.tensor([mirror] * 4)
    seen = crop_flip(drawn_boxes(boxes, size), torch.arange(4), shift, turned)[..., 0] > 0
    for picture, (label, *edges, hard) in zip(seen, crop_flip_boxes(boxes, shift, turned, size)[:, 0], strict=True):
        rows, columns = picture.any(1).nonzero().flatten(), picture.any(0).nonzero().flatten()
        if len(rows) == 0:
            assert label == -1
            continue
        assert [int(edge) for edge in edges] == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert label == 1
        assert hard == 0 or picture.sum() < boxes[0, 0, 3] * size


def test_what_is_left_of_boxes_that_leave():
    """Of ten rows seven, two (difficult), or none stay; what was difficult is so, and what is no object is none."""
    at = lambda top, hard=0.0: [3, 5, top, 15, top + 10, hard]  # noqa: E731
    boxes = torch.tensor([[at(0), at(-2, 1.0)], [at(-5), [-1] * 6], [at(-7), [-1] * 6]])
    shift, mirror = torch.tensor([[3, 0]] * 3), torch.tensor([False] * 3)
    found = crop_flip_boxes(boxes, shift, mirror, 24)
    assert found[:, 0, 0].tolist() == [3, 3, -1]
    assert found[:, 0, 5].tolist()[:2] == [0, 1]
    assert found[0, :, 4].tolist() == [7, 5]
    assert found[0, 1, 5] == 1
    assert (found[1:, 1, 0] == -1).all()


def test_a_mirror_turns_boxes():
    found = crop_flip_boxes(torch.tensor([[[0, 2, 3, 8, 9, 0.0]]]), torch.tensor([[0, 0]]), torch.tensor([True]), 24)
    assert found.flatten().tolist() == [0, 16, 3, 22, 9, 0]
