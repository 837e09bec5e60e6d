"""Descriptors against an independent reference, in plain Python and float64."""

import math
from bisect import bisect_right
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from transferlab.data.images import Sample
from transferlab.errors import UserError
from transferlab.nets.build import build
from transferlab.nets.taps import reading
from transferlab.select.descriptors import (
    FirstTwo,
    GaborBank,
    Histograms,
    counted,
    gabor,
    quantile_edges,
    responses,
    walk_edges,
)
from transferlab.specs import AlexNet, Gabor, Torchvision
from transferlab.train.read import batches

SMALL = Gabor(scales=2, orientations=3, lowest=0.2, bins=8)


def sample(count: int = 6, size: int = 24, seed: int = 0) -> Sample:
    pixels = torch.randint(0, 256, (count, size, size, 3), generator=torch.Generator().manual_seed(seed))
    rows = torch.arange(count)
    return Sample(pixels.to(torch.uint8), rows, rows, 1)


# ----------------------------------------------------------------------------------------------------------- reference


def mass_edges(values: list[float], bins: int) -> list[float]:
    """Below the j-th edge are j / bins of the values, rounded down."""
    values = sorted(values)
    return [values[j * len(values) // bins] for j in range(1, bins)]


def walked(values: list[float], bins: int) -> list[float]:
    """The loop of `feature_statistics_layer.cpp`, upper edges of all bins but the last."""
    low, high = min(values), max(values)
    width = (high - low) / 2000
    cells = [0] * 2000
    for value in values:
        cells[min(1999, max(0, int((value - low) / width)))] += 1
    edges, start, proportion = [], low, 0.0
    for m in range(2000):
        if len(edges) == bins:
            continue
        proportion += cells[m] / (len(values) + 1)
        length = int(proportion * bins)
        if length >= 1:
            end = width * (m + 1) + low
            edges += [start + (n + 1) * (end - start) / length for n in range(length)]
            proportion, start = 0.0, end
        if m == 1999:
            length = bins - len(edges)
            edges += [start + (n + 1) * (high - start) / length for n in range(length)]
    return edges[: bins - 1]


def bin_of(value: float, edges: list[float]) -> int:
    """The first bin whose upper edge is above a value, the last one if none is."""
    return bisect_right(edges, value)


def histogram(values: list[float], edges: list[float]) -> list[int]:
    found = [0] * (len(edges) + 1)
    for value in values:
        found[bin_of(value, edges)] += 1
    return found


# --------------------------------------------------------------------------------------------------------------- edges

numbers = st.lists(st.integers(-40, 40).map(lambda n: n / 8), min_size=1, max_size=60)


@given(numbers, st.integers(2, 12))
def test_quantiles_are_order_statistics(values, bins):
    assert quantile_edges(torch.tensor([values]), bins)[0].tolist() == mass_edges(values, bins)


@given(numbers.filter(lambda v: len(set(v)) > 1), st.integers(2, 12))
def test_the_walk_is_the_released_one(values, bins):
    found = walk_edges(torch.tensor([values, values]), bins)
    np.testing.assert_allclose(found, [walked(values, bins)] * 2, rtol=0, atol=1e-6)


def test_the_walk_of_many_values():
    values = torch.randn(3, 5000, generator=torch.Generator().manual_seed(0)) ** 3
    found = walk_edges(values, 100)
    for row, edges in zip(values.double().tolist(), found, strict=True):
        np.testing.assert_allclose(edges, walked(row, 100), rtol=0, atol=1e-5)


def test_a_cell_with_several_bins_of_mass_is_cut_and_what_is_over_is_forgotten():
    """Nine of eleven values in the first of 2,000 cells: 9 / 12 of 4 bins are 3, of the width of the cell."""
    values = [0.0] * 9 + [500.0, 1000.0]
    found = walk_edges(torch.tensor([values]), 4)[0]
    assert found.tolist() == pytest.approx([0.5 / 3, 1.0 / 3, 0.5])
    assert histogram(values, found.tolist()) == [9, 0, 0, 2]


def test_bins_have_equal_mass():
    values = torch.randn(2, 1000, generator=torch.Generator().manual_seed(1))
    assert set(counted(values[None], quantile_edges(values, 100)).flatten().tolist()) == {10}


def test_a_channel_that_is_dead():
    """All responses are equal: one bin has them, and what another image responds still has a side."""
    for find in (quantile_edges, walk_edges):
        edges = find(torch.full((1, 20), 2.0), 5)
        assert counted(torch.full((1, 1, 7), 2.0), edges).tolist() == [[0, 0, 0, 0, 7]]
        assert counted(torch.tensor([[[1.0, 3.0]]]), edges).tolist() == [[1, 0, 0, 0, 1]]


# -------------------------------------------------------------------------------------------------------------- counts


@given(numbers, numbers, st.integers(2, 12))
def test_counts_are_those_of_the_reference(own, values, bins):
    edges = mass_edges(own, bins)
    found = counted(torch.tensor([[values]]), torch.tensor([edges]))
    assert found.tolist() == [histogram(values, edges)]


def test_responses_beyond_the_bounds_go_to_the_bins_at_the_ends():
    edges = quantile_edges(torch.arange(8.0)[None], 4)
    assert counted(torch.tensor([[[-1e9, -1.0, 8.0, 1e9, 1e9]]]), edges).tolist() == [[2, 0, 0, 3]]


def test_images_and_channels_are_kept_apart():
    generator = torch.Generator().manual_seed(0)
    values, edges = torch.randn(3, 4, 10, generator=generator), torch.randn(4, 5, generator=generator).sort(1).values
    found = counted(values, edges).view(3, 4, 6)
    for i in range(3):
        for c in range(4):
            assert found[i, c].tolist() == histogram(values[i, c].tolist(), edges[c].tolist())


@pytest.mark.parametrize("binning", ["quantiles", "walk"])
def test_a_descriptor_is_that_of_the_reference(binning):
    """All of it: responses of a small bank, bins of a sample, counts of other images."""
    own, other = sample(), sample(5, seed=1)
    how = Histograms.fitted(Gabor(2, 3, lowest=0.2, bins=8, binning=binning), GaborBank(SMALL), own)
    ours, theirs = (torch.cat([layer for (layer,) in responses(how.bank, s)]) for s in (own, other))
    (found,) = how.of(other)
    assert found.dtype == torch.int16
    assert found.shape == (5, 12 * 8)
    find = mass_edges if binning == "quantiles" else walked
    for channel in range(12):
        edges = find(ours[:, channel].flatten().double().tolist(), 8)
        for i in range(5):
            values = theirs[i, channel].double().tolist()
            off = found[i].view(12, 8)[channel].numpy() - np.array(histogram(values, edges))
            assert abs(off).sum() <= (0 if binning == "quantiles" else 2), "a value on a rounded edge may change sides"


def test_pieces_make_no_difference(monkeypatch):
    """Channels pooled one by one, images binned one by one: the same descriptors, and the same edges."""
    own = sample()
    whole = Histograms.fitted(SMALL, GaborBank(SMALL), own)
    (expected,) = whole.of(own)
    for name in ("POOLED", "AT_A_TIME"):
        monkeypatch.setattr(f"transferlab.select.descriptors.{name}", 1)
    pieces = Histograms.fitted(SMALL, GaborBank(SMALL), own)
    assert torch.equal(torch.cat(pieces.edges), torch.cat(whole.edges))
    found = list(pieces.of(own))
    assert [len(part) for part in found] == [1] * 6
    assert torch.equal(torch.cat(found), expected)


def test_counts_are_as_small_as_can_be():
    for size, kind in ((16, torch.int16), (15, torch.uint8), (182, torch.int32)):
        spec = Gabor(1, 2, lowest=0.39, bins=4)
        images = sample(2, size)
        how = Histograms.fitted(spec, GaborBank(spec), images)
        (found,) = how.of(images)
        assert found.dtype == kind
        assert found.view(2, 4, 4).long().sum(2).eq(size**2).all()


def test_what_is_no_number_is_refused():
    net = build(AlexNet((4, 4, 4, 4, 4), (8, 8)), 24, 2, 0)
    nn.init.constant_(net.conv2.conv.weight, torch.nan)
    with pytest.raises(UserError, match=r"^selection \(=gabor\): responds with what is no finite number$"):
        Histograms.fitted(SMALL, FirstTwo(net, False), sample())


# -------------------------------------------------------------------------------------------------------------- filters


def test_gabor_filters_are_what_they_are_called():
    spec = Gabor()
    assert spec.side == 45
    assert [k.shape for k in GaborBank(spec).kernels] == [(12, 1, s, s) for s in (7, 13, 23, 45)]
    for frequency in (0.4, 0.05):
        found = gabor(spec, frequency)[:, 0]
        reach, deviation = found.shape[1] // 2, 0.56 / frequency
        assert found.sum((1, 2)).abs().max() < 1e-12, "a constant image has no response"
        for k in range(6):
            angle = k * math.pi / 6
            for y, x in ((0, 1), (1, -2), (-3, 2)):
                phase = 2 * math.pi * frequency * (x * math.cos(angle) + y * math.sin(angle))
                window = math.exp(-(x * x + y * y) / (2 * deviation**2))
                assert found[6 + k, reach + y, reach + x] == pytest.approx(
                    window * math.sin(phase) / found.new_tensor(normal(deviation, reach)).item()
                )


def normal(deviation: float, reach: int) -> float:
    line = [math.exp(-(x * x) / (2 * deviation**2)) for x in range(-reach, reach + 1)]
    return sum(line) ** 2


def test_a_grating_is_answered_by_its_own_filter():
    spec, at = Gabor(lowest=0.1), torch.arange(48)
    frequencies = [0.4 * 0.25 ** (scale / 3) for scale in range(4)]
    for scale, k in ((0, 4), (1, 0), (2, 2), (3, 3)):
        along = at[None] * math.cos(k * math.pi / 6) + at[:, None] * math.sin(k * math.pi / 6)
        grating = (2 * math.pi * frequencies[scale] * along).cos()
        (found,) = GaborBank(spec)(grating[None, None].expand(1, 3, -1, -1))
        energy = found[..., 12:-12, 12:-12].square().mean((0, 2, 3)).view(4, 2, 6).sum(1)
        assert energy.argmax() == 6 * scale + k


def test_colour_is_no_part_of_gabor_responses():
    images = sample()
    grey = images.pixels.float().mul(torch.tensor([0.299, 0.587, 0.114])).sum(3, keepdim=True).round()
    other = Sample(grey.to(torch.uint8).expand(-1, -1, -1, 3), images.rows, images.rows, 1)
    (a,), (b,) = (next(responses(GaborBank(SMALL), s)) for s in (images, other))
    torch.testing.assert_close(a, b)


def keep(seen: dict, name: str, module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
    seen[name] = output.clone()


@pytest.mark.parametrize(
    ("backbone", "size", "taps"),
    [
        (
            AlexNet((4, 6, 4, 4, 4), (8, 8)),
            24,
            {False: ("conv1.conv", "conv2.conv"), True: ("conv1.relu", "conv2.relu")},
        ),
        (AlexNet((4, 6, 4, 4, 4), (8, 8), "none"), 24, {False: ("conv1.conv", "conv2.conv")}),
        (Torchvision("squeezenet1_0"), 48, {False: ("features.0", "features.3.squeeze"), True: ("features.1",)}),
        (Torchvision("mobilenet_v2"), 32, {False: ("features.0.0", "features.1.conv.0.0"), True: ("features.0.2",)}),
        (Torchvision("resnet18"), 32, {False: ("conv1", "layer1.0.conv1")}),
    ],
)
def test_the_first_two_convolutions(backbone, size, taps):
    """What each is, before the ReLU that works in place, and behind it; the rest of the network does not run."""
    images = sample(3, size)
    for relu, names in taps.items():
        net = build(backbone, size, 5, 0)
        seen: dict[str, torch.Tensor] = {}
        handles = [net.get_submodule(name).register_forward_hook(partial(keep, seen, name)) for name in names]
        with torch.no_grad():
            for some in batches(net, images):
                net(some)
        for handle in handles:
            handle.remove()
        net.get_submodule(net.head_name).register_forward_hook(lambda *_: pytest.fail("it need not run"))
        found = next(responses(FirstTwo(net, relu), images))
        assert len(found) == 2
        for value, name in zip(found, names, strict=False):
            torch.testing.assert_close(value, seen[name].flatten(2), rtol=1e-5, atol=1e-5)
            assert (value.min() < 0) != relu


def test_of_our_own_network_these_are_its_taps():
    net, images = build(AlexNet((4, 6, 4, 4, 4), (8, 8)), 24, 5, 0), sample()
    with reading(net, ("conv1", "conv2")) as found, torch.no_grad():
        for some in batches(net, images):
            net(some)
        expected = [found[tap].flatten(2) for tap in ("conv1", "conv2")]
    torch.testing.assert_close(next(responses(FirstTwo(net, True), images)), expected)


def test_layers_weigh_alike():
    net, images = build(AlexNet((4, 6, 4, 4, 4), (8, 8)), 24, 5, 0), sample()
    how = Histograms.fitted(SMALL, FirstTwo(net, False), images)
    assert how.weights.tolist() == pytest.approx([0.5 / 4] * 32 + [0.5 / 6] * 48)
    assert how.shares.tolist() == pytest.approx([1 / 144] * 80)
    (found,) = how.of(images)
    assert (found * how.shares).view(6, 10, 8).sum(2).sub(1).abs().max() < 1e-5


def test_a_network_without_two_convolutions_is_refused():
    for relu, what in ((False, "two convolutions"), (True, "two convolutions, each with a ReLU behind it")):
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten())
        with pytest.raises(UserError, match=rf"^network \(=Sequential\): has to begin with {what}, as modules"):
            next(responses(FirstTwo(net, relu), sample()))
