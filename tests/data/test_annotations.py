"""Folders of images with annotations: one set in each form, and what is wrong with files that people write."""

import json

import numpy as np
import pytest
from annotated_sets import coco_json, drawn, picture, table, voc, write, xml

from transferlab.data.pinning import pin
from transferlab.data.readers import open_set, write_list
from transferlab.errors import UserError
from transferlab.specs import catalog

IMAGES = drawn(20)
TRAIN, TEST = [f"{i:03}" for i in range(14)], [f"{i:03}" for i in range(14, 20)]
BOX = ("ant", 4.0, 4.0, 12.0, 12.0)


def part(names):
    return {name: IMAGES[name] for name in names}


def write_voc(folder, base="VOCdevkit/VOC2007"):
    voc(folder / base, IMAGES, train=TRAIN[:10], val=TRAIN[10:], trainval=TRAIN, test=TEST)


def write_coco(folder):
    for split, names in (("train2017", TRAIN[:10]), ("val2017", TRAIN[10:]), ("test", TEST)):
        write(folder / "annotations" / f"instances_{split}.json", coco_json(part(names)))
        for name in names:
            picture(IMAGES[name], folder / "images" / split / f"{name}.png")


def write_roboflow(folder):
    for split, names in (("train", TRAIN[:10]), ("valid", TRAIN[10:]), ("test", TEST)):
        write(folder / split / "_annotations.coco.json", coco_json(part(names), ("ant", "bee", "cat", "insects")))
        for name in names:
            picture(IMAGES[name], folder / split / f"{name}.png")


def write_tables(folder):
    for split, names in (("train", TRAIN[:10]), ("val", TRAIN[10:]), ("test", TEST)):
        write(folder / f"{split}.csv", table(part(names)))
        for name in names:
            picture(IMAGES[name], folder / "images" / f"{name}.png")


WRITERS = [write_voc, write_coco, write_roboflow, write_tables]


@pytest.mark.parametrize("writer", WRITERS)
def test_one_set_in_every_form(writer, tmp_path):
    """Each is read as what was drawn, images without objects too; each box is an image of its class's colour."""
    writer(tmp_path)
    whole = open_set(f"folder:{tmp_path}", objects=True)
    assert whole.classes == ("ant", "bee", "cat")
    for split, names in (("train", TRAIN[:10]), ("validation", TRAIN[10:]), ("test", TEST)):
        found = {item.path.rpartition("/")[2][:3]: item.objects for item in whole.splits[split]}
        wanted = {name: tuple((whole.classes.index(of), *box, False) for of, *box in IMAGES[name]) for name in names}
        assert found == wanted
    boxes = [item for items in open_set(f"folder:{tmp_path}").splits.values() for item in items]
    assert len(boxes) == sum(map(len, IMAGES.values()))
    hits = [np.asarray(i.image())[-1, -1].argmax() == i.label for i in boxes]  # those in front cover others
    assert np.mean(hits) > 0.9


@pytest.mark.parametrize("writer", WRITERS)
def test_a_pin_has_both(writer, tmp_path):
    writer(tmp_path)
    name = f"folder:{tmp_path}"
    entry = pin(name)
    assert entry["objects"]["boxes"] == {
        s: sum(len(IMAGES[n]) for n in names)
        for s, names in (("train", TRAIN[:10]), ("validation", TRAIN[10:]), ("test", TEST))
    }
    assert entry["splits"] == entry["objects"]["boxes"]
    assert catalog.pinned(name, entry["objects"]["fingerprint"]) == entry["objects"]
    assert catalog.named("folder:", entry["objects"]["fingerprint"]) == name
    assert (
        f"20 images, classes ant, bee, cat; {sum(map(len, IMAGES.values()))} objects, for multi-label and detection"
        in "; ".join(catalog.notes(entry))
    )


def test_without_splits_images_are_given_up_by_presence(tmp_path):
    voc(tmp_path, IMAGES)
    whole = open_set(f"folder:{tmp_path}", objects=True)
    classes = [{of[0] for item in whole.splits[s] for of in item.objects} for s in ("train", "test")]
    assert classes == [{0, 1, 2}, {0, 1, 2}]
    assert [not item.objects for item in whole.splits["test"]].count(True) == 1
    assert 3 <= len(whole.splits["test"]) <= 6


def test_boxes_in_a_list_of_files(tmp_path):
    write_voc(tmp_path)
    opened = open_set(f"folder:{tmp_path}")
    name = write_list(tmp_path / "lists", opened)
    again = open_set(name)
    assert again.fingerprint() == opened.fingerprint()


BAD = {  # what is done to boxes, and what is said; with the boxes that are left
    "outside": (("ant", 60.0, 2.0, 70.0, 9.0), "boxes outside of their image 1 (000.png#1)", []),
    "of no area": (("ant", 4.0, 2.0, 4.0, 9.0), "boxes of no area 1 (000.png#1)", []),
    "reversed": (
        ("ant", 12.0, 9.0, 4.0, 2.0),
        "boxes with reversed corners, which were turned 1 (000.png#1)",
        [(0, 4.0, 2.0, 12.0, 9.0, False)],
    ),
    "reaching out": (
        ("ant", -4.0, 2.0, 12.0, 40.0),
        "boxes that reach out of their image, which were cut 1 (000.png#1)",
        [(0, 0.0, 2.0, 12.0, 32.0, False)],
    ),
    "no number": (("ant", float("nan"), 2.0, 12.0, 40.0), "boxes of no area 1 (000.png#1)", []),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("form", ["coco", "table"])
def test_bad_boxes_are_handled_and_counted(case, form, tmp_path):
    box, said, left = BAD[case]
    if form == "table" and case == "no number":
        return  # a table that says nan says nothing
    images = {"000": [BOX, box], "001": [BOX], "002": [("bee", *BOX[1:])]}
    for name in images:
        picture([BOX], tmp_path / f"{name}.png")
    if form == "coco":
        write(tmp_path / "_annotations.coco.json", coco_json(images))
    else:
        write(tmp_path / "boxes.csv", table(images))
    whole = open_set(f"folder:{tmp_path}", objects=True)
    (item,) = [i for items in whole.splits.values() for i in items if i.path == "000.png"]
    assert list(item.objects[1:]) == left
    entry = pin(f"folder:{tmp_path}")
    assert said in catalog.passed_over(entry.get("objects", entry)["passed"])


def test_images_and_annotations_without_each_other(tmp_path):
    write_voc(tmp_path, ".")
    picture([], tmp_path / "JPEGImages" / "alone.png")
    write(tmp_path / "Annotations" / "gone.xml", xml([BOX]))
    write(tmp_path / "ImageSets" / "Main" / "train.txt", "000\n001\nlost\n")
    passed = open_set(f"folder:{tmp_path}", objects=True).passed
    assert passed["images without annotations"][-1] == "JPEGImages/alone.png"
    assert passed["annotations without an image"] == ["gone"]
    assert passed["listed and not there"] == ["lost"]


def test_a_set_without_a_list_of_test_images(tmp_path):
    voc(tmp_path, IMAGES, trainval=TRAIN)
    whole = open_set(f"folder:{tmp_path}", objects=True)
    assert {s: len(items) for s, items in whole.splits.items()} == {"train": 14}
    assert whole.passed["of no split"] == TEST


def test_difficult_objects(tmp_path):
    voc(tmp_path, IMAGES)
    write(tmp_path / "Annotations" / "000.xml", xml([BOX], difficult=1))
    whole = open_set(f"folder:{tmp_path}", objects=True)
    (item,) = [i for items in whole.splits.values() for i in items if i.path.endswith("000.png")]
    assert item.objects == ((0, *BOX[1:], True),)
    single = open_set(f"folder:{tmp_path}")
    assert not [i for items in single.splits.values() for i in items if "000.png" in i.path]


def test_crowds_are_difficult_and_categories_without_objects_are_no_classes(tmp_path):
    crowd = {"image_id": 0, "category_id": 10, "bbox": [1, 1, 9, 9], "iscrowd": 1}
    lost = {"image_id": 99, "category_id": 10, "bbox": [1, 1, 9, 9]}
    text = coco_json(part(TRAIN), ("ant", "bee", "cat", "none"), annotations=[crowd, lost])
    write(tmp_path / "_annotations.coco.json", text)
    for name in TRAIN:
        picture(IMAGES[name], tmp_path / f"{name}.png")
    whole = open_set(f"folder:{tmp_path}", objects=True)
    (item,) = [i for items in whole.splits.values() for i in items if i.path == "000.png"]
    assert item.objects[-1] == (0, 1.0, 1.0, 10.0, 10.0, True)
    assert whole.classes == ("ant", "bee", "cat")
    assert whole.passed["categories without objects"] == ["none"]
    assert whole.passed["crowds, which count as difficult"] == ["000.png"]
    assert whole.passed["annotations without an image"] == ["_annotations.coco.json image_id 99"]


def refused(folder) -> str:
    with pytest.raises(UserError) as error:
        open_set(f"folder:{folder}", objects=True)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_files_that_are_cut_are_named(tmp_path):
    write_voc(tmp_path / "voc", ".")
    text = xml([BOX])
    write(tmp_path / "voc" / "Annotations" / "003.xml", text[: len(text) // 2])
    assert "Annotations/003.xml is no whole XML" in refused(tmp_path / "voc")
    write(tmp_path / "voc" / "Annotations" / "003.xml", text.replace("<xmin>5</xmin>", ""))
    assert "003.xml: each object must have a name and a bndbox of numbers xmin" in refused(tmp_path / "voc")
    write_roboflow(tmp_path / "json")
    file = tmp_path / "json" / "train" / "_annotations.coco.json"
    text = file.read_text()
    write(file, text[: len(text) // 2])
    assert "train/_annotations.coco.json cannot be read (JSONDecodeError" in refused(tmp_path / "json")
    write(file, "[]")
    assert "wanted: images (id, file_name), categories (id, name)" in refused(tmp_path / "json")


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        ({"image_id": 0, "category_id": 77, "bbox": [1, 1, 9, 9]}, "category_id (=77) must be one of its categories"),
        ({"image_id": 0, "category_id": 10, "bbox": [1, 1, 9]}, "must be left, top, width and height"),
        ({"image_id": 0, "category_id": 10, "bbox": "1 1 9 9"}, "cannot be read (ValueError"),
        ({"image_id": 0, "category_id": 10}, "cannot be read (KeyError: 'bbox')"),
    ],
)
def test_json_of_something_else_is_named(annotation, said, tmp_path):
    write(tmp_path / "_annotations.coco.json", coco_json(part(TRAIN), annotations=[annotation]))
    for name in TRAIN:
        picture(IMAGES[name], tmp_path / f"{name}.png")
    assert said in refused(tmp_path)


def test_rows_that_say_half_are_named(tmp_path):
    write_tables(tmp_path)
    write(tmp_path / "train.csv", "image,class,xmin,ymin,xmax,ymax\n000.png,ant,1,2,,4\n")
    assert "train.csv line 2: must have a class and numbers xmin, ymin, xmax, ymax, or none of them" in refused(
        tmp_path
    )
    write(tmp_path / "train.csv", "image,size,xmin,ymin,xmax,ymax\n000.png,3,1,2,3,4\n")
    assert "train.csv: must have a column of images that are here, and one called class" in refused(tmp_path)


def test_a_set_without_objects_or_in_two_splits_is_named(tmp_path):
    voc(tmp_path / "none", {name: [] for name in TRAIN})
    assert "has no objects in its training images" in refused(tmp_path / "none")
    for split in ("train", "test"):
        write(tmp_path / "both" / f"{split}.csv", table(part(TRAIN)))
    for name in TRAIN:
        picture(IMAGES[name], tmp_path / "both" / f"{name}.png")
    assert ".png is in two splits, t" in refused(tmp_path / "both")


def test_sets_without_annotations_have_no_objects(tmp_path):
    for label in ("ant", "bee"):
        for number in range(3):
            picture([], tmp_path / label / f"{number}.png")
    assert refused(tmp_path).endswith("has no boxes of objects")
    write(tmp_path / "notes.json", json.dumps({"images": []}))
    assert open_set(f"folder:{tmp_path}").classes == ("ant", "bee")


def test_classes_that_lack_test_images_are_no_reason_against_boxes(tmp_path):
    """Of boxes alone there is no set of images with labels; whole images are pinned in its place."""
    images = {name: boxes if name in TRAIN else [BOX] for name, boxes in IMAGES.items()}
    voc(tmp_path, images, train=TRAIN, test=TEST)
    with pytest.raises(UserError, match="class bee has no test images"):
        open_set(f"folder:{tmp_path}")
    entry = pin(f"folder:{tmp_path}")
    assert entry["boxes"]["test"] == len(TEST)
    assert "objects" not in entry
