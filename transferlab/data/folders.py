"""Read image sets out of folders, one for each class."""

from pathlib import Path

from ..errors import check
from .opened import SPLITS, Item, Opened, checked, split_off_test

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
FOLDERS = dict(zip(SPLITS, SPLITS, strict=True)) | {"val": "validation", "valid": "validation"}


def _folders(root: Path) -> set[str]:
    return {d.name for d in root.iterdir() if d.is_dir() and not d.name.startswith(".")}


def open_folder(folder: Path, name: str) -> Opened:
    """Open class-per-folder images: ``FOLDER/CLASS/*``, or ``FOLDER/train/CLASS/*`` beside ``validation`` and ``test``.

    ``val`` and ``valid`` are read as ``validation``. A folder without splits gives up a fifth of each class for
    ``test``. Hidden files and folders are left out.
    """
    check(folder.is_dir(), "data set", name, "there is no such folder")
    roots = {FOLDERS[d.name]: d for d in sorted(folder.iterdir()) if d.name in FOLDERS and d.is_dir()}
    if "train" not in roots:
        others = _folders(folder) - {d.name for d in roots.values()}
        check(bool(others) or not roots, "data set", name, f"has {' and '.join(roots)} but no train folder")
        roots = {"train": folder}
    classes = tuple(sorted(set().union(*map(_folders, roots.values()))))
    check(bool(classes), "data set", name, "holds no folders of images; wanted: FOLDER/CLASS/image.jpg")
    splits: dict[str, list[Item]] = {}
    for split, root in roots.items():
        for label, cls in enumerate(classes):
            for file in sorted((root / cls).rglob("*")):
                path = file.relative_to(root)
                shown = not any(part.startswith(".") for part in path.parts)
                if shown and file.suffix.lower() in IMAGE_SUFFIXES and file.is_file():
                    splits.setdefault(split, []).append(Item(path.as_posix(), label, file.read_bytes))
    check(bool(splits), "data set", name, f"holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return checked(name, classes, splits if roots["train"] != folder else split_off_test(splits["train"]))
