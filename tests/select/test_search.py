"""The search against the formula, pair by pair in float64."""

import math

import numpy as np
import pytest
import torch

from transferlab.errors import UserError
from transferlab.select import search
from transferlab.select.search import NearestByAngle, NearestByDivergence, keyed, pairs

BINS, POSITIONS = 8, (36, 16)
CHANNELS = (3, 5)
SHARES = torch.tensor([1 / 36] * 3 * BINS + [1 / 16] * 5 * BINS)
WEIGHTS = torch.tensor([0.5 / 3] * 3 * BINS + [0.5 / 5] * 5 * BINS)


def drawn(count: int, seed: int, sharp: float = 1.0) -> torch.Tensor:
    """Counts of some images: many empty bins."""
    random = np.random.default_rng(seed)
    layers = []
    for channels, positions in zip(CHANNELS, POSITIONS, strict=True):
        chances = random.dirichlet([sharp] * BINS, (count, channels))
        layers.append(random.multinomial(positions, chances).reshape(count, -1))
    return torch.from_numpy(np.concatenate(layers, 1)).to(torch.int16)


def divergence(p: list[float], q: list[float]) -> float:
    """KL(p || q), as the released code has it; no term where p is 0."""
    return sum(a * math.log((a + 2.2204e-16) / (b + 2.2204e-16)) for a, b in zip(p, q, strict=True) if a)


def distance(p: torch.Tensor, q: torch.Tensor) -> float:
    """H(t, s) of two images' counts, channel by channel."""
    total, at = 0.0, 0
    for channels, positions in zip(CHANNELS, POSITIONS, strict=True):
        for _ in range(channels):
            one, other = ([n / positions for n in counts[at : at + BINS].tolist()] for counts in (p, q))
            total += 0.5 / channels * (divergence(one, other) + divergence(other, one)) / 2
            at += BINS
    return total


def matrix(target: torch.Tensor, pool: torch.Tensor) -> np.ndarray:
    return np.array([[distance(t, s) for s in pool] for t in target])


def nearest(target, pool, k, piece: int = 1000, rows=None) -> dict:
    found, rows = NearestByDivergence(target, k, SHARES, WEIGHTS), torch.arange(len(pool)) if rows is None else rows
    for counts, names in zip(pool.split(piece), rows.split(piece), strict=True):
        found.add(counts, names)
    return found.result()


def agrees(found: dict, expected: np.ndarray, k: int) -> None:
    """Distances are those of the formula, and no image that is left out is nearer, but for ties."""
    indices, distances = found["indices"].numpy(), found["distances"].numpy()
    assert (found["indices"].dtype, found["distances"].dtype) == (torch.int32, torch.float32)
    assert all(len(set(row)) == k for row in indices.tolist())
    np.testing.assert_allclose(distances, np.take_along_axis(expected, indices.astype(int), 1), rtol=1e-6, atol=2e-6)
    np.testing.assert_allclose(distances, np.sort(expected, 1)[:, :k], rtol=1e-6, atol=2e-6)
    assert (np.diff(distances, axis=1) >= 0).all()


@pytest.mark.parametrize("sharp", [0.05, 1.0, 50.0])
@pytest.mark.parametrize("k", [1, 7, 60])
def test_it_finds_the_nearest(k, sharp):
    target, pool = drawn(9, 0, sharp), drawn(60, 1, sharp)
    agrees(nearest(target, pool, k), matrix(target, pool), k)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32])
def test_whatever_counts_are_kept_as(kind):
    target, pool = drawn(4, 0), drawn(20, 1)
    found, expected = nearest(target.to(kind), pool.to(kind), 5), nearest(target, pool, 5)
    assert torch.equal(found["indices"], expected["indices"])


@pytest.mark.parametrize("piece", [1, 7, 59])
def test_a_stream_is_the_whole(piece, monkeypatch):
    """Pieces of the pool, and tiles of the target, of any size."""
    target, pool = drawn(9, 2), drawn(60, 3)
    whole = nearest(target, pool, 12)
    monkeypatch.setattr(search, "TILE", 8 * len(SHARES) * 4)
    monkeypatch.setattr(search, "OWN", 8 * len(SHARES) * 5)
    monkeypatch.setattr(search, "AT_ONE_GO", 3)
    part = nearest(target, pool, 12, piece)
    torch.testing.assert_close(part["distances"], whole["distances"], rtol=1e-6, atol=1e-6)
    assert (part["indices"] == whole["indices"]).float().mean() > 0.95, "but for ties"
    agrees(part, matrix(target, pool), 12)


def test_an_image_alike_has_distance_zero():
    """Exactly, whatever the products lose, and alone: the next one is farther away."""
    target = drawn(5, 4)
    pool = torch.cat([drawn(20, 5), target, drawn(20, 6)])
    found = nearest(target, pool, 3)
    assert found["indices"][:, 0].tolist() == [20, 21, 22, 23, 24]
    assert (found["distances"][:, 0] == 0).all()
    assert (found["distances"][:, 1] > 0.01).all()


def test_ties_go_to_the_earlier_row():
    target = drawn(3, 7)
    pool = target[[0, 1, 0, 2, 1, 0]]
    found = nearest(target, pool, 3, piece=2, rows=torch.tensor([50, 40, 30, 20, 10, 0]))
    assert found["indices"][0].tolist() == [0, 30, 50]
    assert found["indices"][1, :2].tolist() == [10, 40]
    assert found["indices"][2, 0] == 20


def test_empty_bins_by_hand():
    """0 log 0 is 0; mass where the other has none costs its logarithm over epsilon."""
    shares, weights = torch.full((4,), 0.25), torch.full((4,), 1.0)
    counts = torch.tensor([[4, 0, 0, 0], [0, 4, 0, 0], [2, 2, 0, 0]], dtype=torch.int16)
    found = NearestByDivergence(counts[:1], 3, shares, weights)
    found.add(counts, torch.arange(3))
    far = math.log(1 / 2.2204e-16)
    half = 0.5 * (math.log(2) + 0.5 * math.log(0.5) + 0.5 * math.log(0.5 / 2.2204e-16))
    assert found.result()["indices"].tolist() == [[0, 2, 1]]
    assert found.result()["distances"][0].tolist() == pytest.approx([0, half, far], rel=1e-6)
    assert pairs(counts[:1], counts[2:], shares, weights).item() == pytest.approx(half)


def test_keys_are_in_the_order_of_distances_and_rows():
    distances = torch.tensor([0.0, 1e-30, 0.5, 0.5, 3e4, torch.inf])
    rows = torch.tensor([5, 4, 1, 2, 0, 2**31 - 1])
    assert torch.equal(keyed(distances, rows).sort().indices, torch.arange(6))


def test_more_than_there_are_is_refused():
    found = NearestByDivergence(drawn(3, 0), 9, SHARES, WEIGHTS)
    found.add(drawn(8, 1), torch.arange(8))
    with pytest.raises(UserError, match=r"^k \(=9\): there are only 8 source images to choose from$"):
        found.result()


def test_directions_by_hand():
    """An image alike to itself has distance 0, one at a right angle 1, an opposite one 2, whatever the pieces."""
    own = torch.eye(2)
    others = torch.tensor([[0.0, 1.0], [0.6, 0.8], [-1.0, 0.0], [1.0, 0.0]])
    for piece in (1, 4):
        found = NearestByAngle(own, 3)
        for some, rows in zip(others.split(piece), torch.tensor([7, 5, 3, 1]).split(piece), strict=True):
            found.add(some, rows)
        assert found.result()["indices"].tolist() == [[1, 5, 7], [7, 5, 1]]
        assert found.result()["distances"].flatten().tolist() == pytest.approx([0, 0.4, 1, 0, 0.2, 1])
