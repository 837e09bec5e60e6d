"""Open labelled image sets of three kinds: Parquet files, a folder a class, torchvision's own; `images` decodes them.

A reader returns an `Opened`: class names, and for each split its items in canonical order (by label, then by name), so
that neither the order of files nor of rows matters anywhere.
"""

import os
from pathlib import Path

from ..errors import check
from ..paths import data_root
from .folders import open_folder
from .opened import Item as Item
from .opened import Opened
from .parquet import open_parquet


def open_set(name: str, columns: dict[str, str] | None = None, cut: bool = True) -> Opened:
    """Open an image set by name.

    Parameters
    ----------
    name : str
        ``flowers102`` or another folder of Parquet files below the data root, ``folder:PATH`` or ``torchvision:NAME``.
    columns : dict, optional
        Of Parquet files, the columns called ``image`` and ``label`` here.
    cut : bool
        Whether a folder without splits gives up images for ``test``: otherwise all are ``train``.

    Raises
    ------
    UserError
        If it is not there, holds no images or no labels, has one class, or a class without training images.
    """
    if columns:
        parquet = not name.startswith(("folder:", "torchvision:"))
        check(parquet, "columns", ", ".join(columns.values()), "are named of Parquet files only")
    if name.startswith("folder:"):
        check(name != "folder:", "data set", name, "must name a folder: folder:PATH")
        return open_folder(Path(os.path.expanduser(name.removeprefix("folder:"))), name, cut)
    if name.startswith("torchvision:"):
        from .torchvision_sets import open_torchvision

        return open_torchvision(name.removeprefix("torchvision:"))
    return open_parquet(data_root() / name, name, columns)
