"""Tables of neighbours: made once for a target and a pool, and cut for the samples of a seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from ..data.images import Sample, load
from ..data.subsets import relabel
from ..errors import check, few
from ..specs import ImageSet, Neighbours
from .descriptors import descriptors


def neighbours(made: Neighbours, context: Any) -> dict[str, torch.Tensor]:
    """Find what `Neighbours` describes.

    The pool goes through once, some images after others; of it nothing is kept but the table.

    Raises
    ------
    UserError
        If a set has no training images, or fewer of the pool are left than `k`.
    """
    ours, theirs, data = whole(made.target, made.size), whole(made.pool, made.size), load(made.pool, made.size)
    left = relabel(data.classes, made.subset, 0, data.tree).mapping[data.splits["train"].labels] >= 0
    left[context.arrays(made.duplicates)["pool"]] = False
    rows = torch.from_numpy(left).nonzero().flatten()
    rule = f"{made.pool.name} has only {len(rows)} images without those that look like test images"
    check(made.k <= len(rows), "k", made.k, rule)
    how, at = descriptors(made.selection, made.size, context, ours), 0
    found = how.nearest(torch.cat(list(how.of(ours))), made.k)
    for some in how.of(replace(theirs, rows=rows)):
        found.add(some, rows[at : at + len(some)])
        at += len(some)
    return {name: value.cpu() for name, value in found.result().items()}


def whole(images: ImageSet, size: int) -> Sample:
    """Return all images of a stored training split."""
    splits = load(images, size).splits
    check("train" in splits, "data set", images.name, "has no train images")
    rows = torch.arange(len(splits["train"].labels))
    return Sample(splits["train"].pixels, rows, rows, 1)


def neighbour_table(
    arrays: Mapping[str, torch.Tensor],
    target_rows: torch.Tensor,
    pool_rows: torch.Tensor,
    counts: int | torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the neighbours of a sample of a target in a sample of a pool, as `Stream.table` takes them.

    Parameters
    ----------
    arrays : mapping
        What is kept of a `Neighbours`.
    target_rows : Tensor of int, shape (m,)
        Rows of the target's stored training split, one a target image: the first stream's ``sample.rows``.
    pool_rows : Tensor of int, shape (p,)
        Rows of the pool's stored training split that may be borrowed: the second stream's ``sample.rows``.
    counts : int or Tensor of int, shape (m,)
        How many of its nearest each target image gets. One that has fewer left in `pool_rows` gets these.

    Returns
    -------
    table : Tensor of int64, shape (m, largest count)
        Positions in `pool_rows`, nearest first; -1 behind the end.
    used : Tensor of int64, shape (p,)
        How many target images each position is a neighbour of.

    Raises
    ------
    UserError
        If more neighbours are asked for than are kept, or an image has none left.
    """
    found, target_rows, pool_rows = arrays["indices"].long(), target_rows.cpu(), pool_rows.cpu()
    counts = torch.as_tensor(counts).cpu().expand(len(target_rows))
    least, most, kept = int(counts.min()), int(counts.max()), found.shape[1]
    check(least > 0, "counts", least, "each target image must get at least one neighbour")
    check(most <= kept, "counts", most, f"only {kept} neighbours of an image are kept; raise k")
    place = torch.full((int(max(found.max(), pool_rows.max())) + 1,), -1)
    place[pool_rows] = torch.arange(len(pool_rows))
    found = place[found[target_rows]]
    rank = (found >= 0).cumsum(1)
    keep = (found >= 0) & (rank <= counts[:, None])
    lonely = target_rows[~keep.any(1)].tolist()
    rule = f"leave {len(lonely)} target images without a neighbour (row {few([str(row) for row in lonely])})"
    check(not lonely, "pool rows", len(pool_rows), rule)
    row, column = keep.nonzero().T
    table = torch.full((len(target_rows), most), -1)
    table[row, rank[row, column] - 1] = found[row, column]
    return table, torch.bincount(found[keep], minlength=len(pool_rows))
