"""Small sets of images with objects, drawn: what is in them can be known, and read in each of the usual forms."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from transferlab.data.pinning import pin
from transferlab.specs import Target, Task

WIDTH, HEIGHT = 48, 32
CLASSES = ("ant", "bee", "cat")
Box = tuple[str, float, float, float, float]  # class, left, top, right and bottom edge


def drawn(count: int, seed: int = 0, classes: tuple[str, ...] = CLASSES) -> dict[str, list[Box]]:
    """Boxes of some images by name: one to three each, but none in every fifth image."""
    random, found = np.random.default_rng(seed), {}
    for number in range(count):
        boxes = []
        for _ in range(0 if number % 5 == 4 else 1 + number % 3):
            left, top = random.integers(0, (WIDTH - 12, HEIGHT - 12))
            wide, high = random.integers(6, 13, 2)
            boxes.append((classes[random.integers(len(classes))], *map(float, (left, top, left + wide, top + high))))
        found[f"{number:03}"] = boxes
    return found


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def picture(boxes: list[Box], path: Path) -> None:
    """Write a grey image, in which each box is filled with its class's colour."""
    pixels = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    for name, left, top, right, bottom in boxes:
        here = pixels[max(0, int(top)) : max(0, int(bottom)), max(0, int(left)) : max(0, int(right))]
        here[:] = {"ant": (255, 0, 0), "bee": (0, 255, 0), "cat": (0, 0, 255)}.get(name, (255, 255, 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def xml(boxes: list[Box], difficult: int = 0) -> str:
    """VOC's annotation: corners are pixels, counted from 1."""
    things = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{left + 1:g}</xmin>"
        f"<ymin>{top + 1:g}</ymin><xmax>{right:g}</xmax><ymax>{bottom:g}</ymax></bndbox></object>"
        for name, left, top, right, bottom in boxes
    )
    return f"<annotation><size><width>{WIDTH}</width></size>{things}</annotation>"


def voc(base: Path, images: dict[str, list[Box]], **splits: list[str]) -> None:
    for name, boxes in images.items():
        picture(boxes, base / "JPEGImages" / f"{name}.png")
        write(base / "Annotations" / f"{name}.xml", xml(boxes))
    for split, names in splits.items():
        write(base / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{name}\n" for name in names))


def coco_json(images: dict[str, list[Box]], classes: tuple[str, ...] = CLASSES, **more: list) -> str:
    """COCO's annotations: boxes are left, top, width and height."""
    about = {
        "images": [{"id": i, "file_name": f"{name}.png"} for i, name in enumerate(images)],
        "categories": [{"id": 10 + i, "name": name} for i, name in enumerate(classes)],
        "annotations": [
            {"image_id": i, "category_id": 10 + classes.index(name), "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0}
            for i, boxes in enumerate(images.values())
            for name, x0, y0, x1, y1 in boxes
        ],
    }
    return json.dumps({key: value + more.get(key, []) for key, value in about.items()})


def table(images: dict[str, list[Box]]) -> str:
    rows = ["image,class,xmin,ymin,xmax,ymax"]
    for name, boxes in images.items():
        rows += [f"{name}.png,{','.join(map(str, box))}" for box in boxes] or [f"{name}.png,,,,,"]
    return "\n".join(rows)


def drawn_target(folder: Path, task: Task, count: int = 40, size: int = 24, **more) -> Target:
    """A target of drawn images in a folder, which is pinned; a fifth of the images is for the test."""
    if not folder.exists():
        voc(folder, drawn(count))
        pin(f"folder:{folder}")
    return Target(f"folder:{folder}", size, task=task, **more)
