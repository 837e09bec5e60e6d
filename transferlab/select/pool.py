"""Images that a target may borrow: of one set, or of several whose stored training splits follow each other."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import NamedTuple

import torch

from ..data.images import Sample
from ..errors import check
from .selection import neighbour_table


class Pool(NamedTuple):
    """Images that may be borrowed.

    Attributes
    ----------
    sample : Sample
        On the CPU; of several sets a copy.
    rows : Tensor of int64, shape (n,)
        Where each image is in the splits, one behind the other.
    starts : list of int
        Where the split of each set begins.
    left_out : int
        Images that may not be borrowed.
    """

    sample: Sample
    rows: torch.Tensor
    starts: list[int]
    left_out: int

    @classmethod
    def of(cls, parts: Sequence[Sample], leave_out: Sequence[torch.Tensor]) -> "Pool":
        """Return the images of samples, without those rows of each split that are to be left out.

        Classes that have one name in several sets are one.
        """
        names, starts = names_of(parts), [0, *accumulate(len(part.pixels) for part in parts)][: len(parts)]
        kept = [~torch.isin(part.rows, gone) for part, gone in zip(parts, leave_out, strict=True)]
        rows = [part.rows[its] for part, its in zip(parts, kept, strict=True)]
        places = [torch.tensor([names.index(name) for name in part.names])[part.labels] for part in parts]
        labels = torch.cat([new[its] for new, its in zip(places, kept, strict=True)])
        sample = replace(parts[0], rows=rows[0], labels=labels, classes=len(names))
        if len(parts) > 1:
            pixels = torch.cat([part.pixels[its] for part, its in zip(parts, rows, strict=True)])
            sample = Sample(pixels, torch.arange(len(pixels)), labels, len(names))
        rows = torch.cat([its + start for its, start in zip(rows, starts, strict=True)])
        return cls(sample, rows, starts, sum(len(part.rows) for part in parts) - len(rows))

    def nearest(self, tables: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Return one table of neighbours for those of each set, as `Neighbours` keeps them: as many a row, the nearest.

        Bins are those of the target, so distances to images of different sets are comparable.
        """
        order = torch.cat([one["distances"] for one in tables], 1).argsort(stable=True)
        indices = torch.cat([one["indices"].long() + start for one, start in zip(tables, self.starts, strict=True)], 1)
        return {"indices": indices.gather(1, order[:, : tables[0]["indices"].shape[1]])}

    def select(self, tables: Sequence, rows: torch.Tensor, counts: torch.Tensor, least: int, seed: int | None) -> tuple:
        """Choose what is borrowed.

        Parameters
        ----------
        tables : sequence of mapping
            Of each set, what is kept of a `Neighbours`.
        rows : Tensor of int64, shape (m,)
            Of the target's images in its stored training split.
        counts : Tensor of int64, shape (m,)
            Their numbers of neighbours.
        least : int
            Classes with fewer selected images are dropped.
        seed : int, optional
            As many random images, each in as many rows, take the place of those that were selected.

        Returns
        -------
        which : Tensor of int64
            Positions in the pool of the images that are borrowed.
        classes : Tensor of int64
            Labels that are left.
        table : Tensor of int64, shape (m, largest count)
            Positions in `which`, -1 behind the end.

        Raises
        ------
        UserError
            If less than two classes are left, or no neighbour of an image.
        """
        arrays, left, classes = self.nearest(tables), torch.arange(len(self.rows)), torch.arange(self.sample.classes)
        table, used = neighbour_table(arrays, rows, self.rows, counts)
        if least:
            sizes = self.sample.labels[used > 0].bincount(minlength=len(classes))
            classes = (sizes >= least).nonzero().flatten()
            rule = f"two classes must be left; the second largest has {int(sizes.sort()[0][-2])} selected images"
            check(len(classes) > 1, "least", least, rule)
            left = torch.isin(self.sample.labels, classes).nonzero().flatten()
            table, _ = neighbour_table(arrays, rows, self.rows[left], counts)
        if seed is not None:
            left = left[torch.randperm(len(left), generator=torch.Generator().manual_seed(seed))]
        used, table = table.unique(return_inverse=True)  # -1, of rows that are not full, comes first
        begin = int(used[0] < 0)
        return left[used[begin:]], classes, table - begin


def names_of(parts: Iterable[Sample]) -> tuple[str, ...]:
    """Return the classes of samples, each name once."""
    return tuple(dict.fromkeys(name for part in parts for name in part.names))
