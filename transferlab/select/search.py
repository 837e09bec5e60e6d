"""The nearest of many descriptors, exactly, as products of matrices: by symmetric KL divergence, or by angle.

Ge and Yu (2017), sec. 3.2, with the weights and the epsilon of the released code:

    H(t, s) = sum_c w_c / 2 * sum_b (p - q) * (log(p + eps) - log(q + eps))

for shares p of t and q of s. Multiplied out it is a term of t, a term of s, and two products that all pairs share.
"""

from collections.abc import Iterator

import torch

from ..errors import check

LOG_EPSILON = 2.2204e-16
TILE, OWN = 1 << 28, 3 << 30  # bytes of shares and their logarithms: of some images of the pool, and of the target
AT_ONE_GO = 32  # of a tile that are filled at once
PAIRS = 1 << 22  # numbers at once where pairs are computed one by one
NEAR = 1e-4  # below this what float32 rounds off is seen: images alike have distance 0


def pairs(p: torch.Tensor, q: torch.Tensor, shares: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the distances of counts, row by row, as the formula has them: float64."""
    p, q = (counts.double() * shares for counts in (p, q))
    return ((p - q) * ((p + LOG_EPSILON).log() - (q + LOG_EPSILON).log())) @ weights.double() / 2


def keyed(distances: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return whole numbers that are in the order of distances, which are not negative, and then of rows."""
    return (distances.contiguous().view(torch.int32).long() << 32) | rows.long()


class Nearest:
    """The `k` nearest images of each target image, of those seen so far, nearest first and earlier rows before later.

    Parameters
    ----------
    target : Tensor, shape (T, D)
        Descriptors, on the device that computes.
    k : int
    size : int
        Bytes that are worked on for each image.
    """

    def __init__(self, target: torch.Tensor, k: int, size: int) -> None:
        self.k, self.seen = k, 0
        self.keys = torch.full((len(target), k), torch.iinfo(torch.int64).max, device=target.device)
        self.some, self.tiles = max(1, TILE // size), target.split(max(1, OWN // size))

    def add(self, descriptors: torch.Tensor, rows: torch.Tensor) -> None:
        """Compare images, (S, D), with all target images; `rows`, int (S,), is what they are called."""
        device, tiles = self.keys.device, self.keys.split(len(self.tiles[0]))
        for some, names in zip(descriptors.split(self.some), rows.split(self.some), strict=True):
            for keys, found in zip(tiles, self.distances(some.to(device)), strict=True):
                both = torch.cat([keys, keyed(found, names.to(device))], 1)
                keys.copy_(both.topk(self.k, largest=False, sorted=False).values)
            self.seen += len(some)

    def distances(self, descriptors: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the distances of images to those of each tile of the target, float32, not negative."""
        raise NotImplementedError

    def result(self) -> dict[str, torch.Tensor]:
        """Return int32 ``indices`` and float32 ``distances``, each (T, k).

        Raises
        ------
        UserError
            If fewer than `k` images were seen.
        """
        check(self.k <= self.seen, "k", self.k, f"there are only {self.seen} source images to choose from")
        keys = self.keys.sort(1).values
        return {"indices": keys.int(), "distances": (keys >> 32).int().view(torch.float32)}


class NearestByAngle(Nearest):
    """The nearest by one minus the cosine, of descriptors of length 1, float32."""

    def __init__(self, target: torch.Tensor, k: int) -> None:
        super().__init__(target, k, 4 * max(target.shape))

    def distances(self, descriptors: torch.Tensor) -> Iterator[torch.Tensor]:
        """As `Nearest.distances`."""
        return (1 - (tile @ descriptors.T).clamp(-1, 1) for tile in self.tiles)


class NearestByDivergence(Nearest):
    """The nearest by symmetric KL divergence, of histograms.

    Parameters
    ----------
    target : Tensor of int, shape (T, D)
        Counts, on the device that computes.
    k : int
    shares, weights : Tensor of float32, shape (D,)
        What a count stands for, and what its dimension weighs.
    """

    def __init__(self, target: torch.Tensor, k: int, shares: torch.Tensor, weights: torch.Tensor) -> None:
        super().__init__(target, k, 8 * len(shares))
        device = target.device
        self.shares, self.weights = shares.to(device), weights.to(device)
        # what is written again costs no new pages
        self.room = torch.empty(2, self.some, len(shares), device=device)
        self.own_room = torch.empty(2, len(self.tiles[0]), len(shares), device=device)
        # what is taken from both factors drops out of the sum, and less is left to be rounded
        self.middle = torch.zeros(2, 1, device=device)
        self.middle = sum(self._fill(tile, self.own_room)[1].sum(1) for tile in self.tiles) / len(target)
        self.only = self._ours(self.tiles[0]) if len(self.tiles) == 1 else None

    def _fill(self, counts: torch.Tensor, room: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the term of each image, and where its shares and their logarithms now are: (2, images, D)."""
        room, own = room[:, : len(counts)], []
        for some, p, logs in zip(counts.split(AT_ONE_GO), *(part.split(AT_ONE_GO) for part in room), strict=True):
            p.copy_(some).mul_(self.shares)
            torch.add(p, LOG_EPSILON, out=logs).log_().sub_(self.middle[1])
            own.append((p.sub_(self.middle[0]) * logs).mul_(self.weights / 2).sum(1, dtype=torch.float64))
        return torch.cat(own), room

    def _ours(self, tile: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        own, room = self._fill(tile, self.own_room)
        return own, room.mul_(self.weights / 2)

    def distances(self, descriptors: torch.Tensor) -> Iterator[torch.Tensor]:
        """As `Nearest.distances`."""
        theirs, (q, their_logs) = self._fill(descriptors, self.room)
        for tile in self.tiles:
            ours, (p, logs) = self.only or self._ours(tile)
            found = torch.addmm((ours[:, None] + theirs).float(), logs, q.T, alpha=-1)
            found.addmm_(p, their_logs.T, alpha=-1).clamp_(min=0)
            for t, s in (near.T for near in (found < NEAR).nonzero().split(max(1, PAIRS // len(self.shares)))):
                found[t, s] = pairs(tile[t], descriptors[s], self.shares, self.weights).float()
            yield found
