"""Opening sets of every kind: canonical order, class names, splits, image modes, and what is refused."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flat_images import colour, encoded, paint, write
from parquet_sets import IMAGE, row, rows, write_parquet, write_set
from PIL import Image

from transferlab.data.opened import Item, Opened
from transferlab.data.readers import open_set
from transferlab.errors import UserError
from transferlab.paths import data_root


@pytest.fixture
def bugs():
    """Where the Parquet set called ``bugs`` belongs."""
    return data_root() / "bugs"


def names(opened, split: str = "train") -> list[str]:
    return [item.path for item in opened.splits[split]]


def refused(name: str) -> str:
    with pytest.raises(UserError) as caught:
        open_set(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -------------------------------------------------------------------------------------------------------- Parquet


def test_no_such_set(bugs):
    assert (
        refused("bugs")
        == f"data set (=bugs): no Parquet files under {bugs}; set TRANSFERLAB_DATA to the folder of image sets"
    )


def test_a_parquet_set(bugs):
    write_set(bugs, train=rows(2), validation=rows(1, prefix="v"), test=rows(3, prefix="t"))
    opened = open_set("bugs")
    assert opened.classes == ("ant", "bee", "cat")
    assert opened.tree is None
    assert {split: len(items) for split, items in opened.splits.items()} == {"train": 6, "validation": 3, "test": 9}
    for item in opened.splits["train"]:
        assert np.array_equal(np.asarray(item.image())[0, 0], colour(item.label))
    assert names(opened) == ["0/00.png", "0/01.png", "1/00.png", "1/01.png", "2/00.png", "2/01.png"]


def test_neither_files_nor_rows_have_an_order(bugs):
    write_set(bugs, train=rows(4))
    one_file = open_set("bugs")
    (bugs / "train-00000-of-00001.parquet").unlink()
    shuffled = [rows(4)[i] for i in np.random.default_rng(0).permutation(12)]
    write_parquet(bugs / "train-00001-of-00002.parquet", shuffled[:5])
    write_parquet(bugs / "train-00000-of-00002.parquet", shuffled[5:])
    two_files = open_set("bugs")
    assert names(two_files) == names(one_file)
    assert two_files.fingerprint() == one_file.fingerprint()
    assert [i.load() for i in two_files.splits["train"]] == [i.load() for i in one_file.splits["train"]]


@pytest.mark.parametrize("changed", ["bytes", "path", "label", "classes", "split", "tree"])
def test_the_fingerprint_is_of_everything(bugs, changed):
    write_set(bugs, train=rows(2), test=rows(1))
    before = open_set("bugs").fingerprint()
    content, held = rows(2), rows(1)
    if changed == "bytes":
        content[0] = row(0, "0/00.png", encoded(1, ".png"))
    elif changed == "path":
        content[0] = row(0, "0/another.png")
    elif changed == "label":
        content[0]["label"] = 1
    elif changed == "split":
        held.append(content.pop())
    elif changed == "tree":
        write(
            bugs / "wordnet.json",
            json.dumps({c: {"path": [{"wnid": "root"}, {"wnid": c}]} for c in ("ant", "bee", "cat")}),
        )
    write_parquet(
        bugs / "train-00000-of-00001.parquet", content, ("ant", "bee", "dog" if changed == "classes" else "cat")
    )
    write_parquet(bugs / "test-00000-of-00001.parquet", held, ("ant", "bee", "dog" if changed == "classes" else "cat"))
    assert open_set("bugs").fingerprint() != before


def test_the_fingerprint_is_of_labels_also_when_the_order_stays():
    def of(*labels):
        return Opened("x", ("a", "b"), {"train": [Item(f"{i}", c, bytes) for i, c in enumerate(labels)]}).fingerprint()

    assert of(0, 0, 1) == of(0, 0, 1) != of(0, 1, 1)


def test_rows_without_names_are_numbered(bugs):
    write_set(bugs, train=[row(1, None), row(0, None), row(2, None)])
    assert names(open_set("bugs")) == [f"train-00000-of-00001/{i}" for i in (1, 0, 2)]


def test_files_with_different_class_names(bugs):
    write_set(bugs, train=rows(1))
    path = write_parquet(bugs / "test-0.parquet", rows(1), ("bee", "ant", "cat"))
    assert refused("bugs") == f"Parquet file (={path}): names other classes than the files before it"


def test_a_label_without_a_class(bugs):
    write_set(bugs, train=[*rows(1), row(0, "odd.png") | {"label": 3}])
    assert refused("bugs") == "label (=3): train-00000-of-00001.parquet row 3: must be 0 to 2"


def test_half_a_file(bugs):
    path = write_set(bugs, train=rows(2)) / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    assert refused("bugs").startswith(f"Parquet file (={path}): cannot be read (")


def test_no_rows(bugs):
    write_set(bugs, train=[])
    assert refused("bugs") == "data set (=bugs): has no images"


def test_a_class_without_images(bugs):
    write_set(bugs, train=rows(1), test=rows(1, classes=2))
    assert refused("bugs") == "data set (=bugs): class cat has no test images"


def test_a_single_class(bugs):
    write_parquet(bugs / "train-0.parquet", rows(2, classes=1), names=("ant",))
    assert refused("bugs") == "data set (=bugs): has one class (('ant',)); at least two are needed"


def test_class_tree(bugs):
    write_set(bugs, train=rows(1))
    paths = {"ant": ("life", "insect", "ant"), "bee": ("life", "insect", "bee"), "cat": ("life", "cat")}
    write(
        bugs / "wordnet.json", json.dumps({c: {"path": [{"wnid": n, "name": n} for n in p]} for c, p in paths.items()})
    )
    assert open_set("bugs").tree.paths == paths


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"cannot be read; wanted: \{class: \{path: \[\{wnid: node\}, ...\]\}\}"),
        ('{"ant": ["life", "ant"]}', "cannot be read; wanted"),
        ("[1, 2]", "cannot be read; wanted"),
        ('{"ant": {"path": [{"wnid": "ant"}]}}', r"class tree \(=bee\): the tree misses this class"),
    ],
)
def test_bad_class_tree(bugs, content, message):
    write_set(bugs, train=rows(1))
    write(bugs / "wordnet.json", content)
    with pytest.raises(UserError, match=message):
        open_set("bugs")


def test_without(bugs):
    write_set(bugs, train=rows(2), test=rows(2))
    opened = open_set("bugs")
    left = opened.without({"train/1/00.png"})
    assert names(left) == [n for n in names(opened) if n != "1/00.png"]
    assert names(left, "test") == names(opened, "test")
    with pytest.raises(UserError, match="class bee has no train images"):
        opened.without({"train/1/00.png", "train/1/01.png"})


# -------------------------------------------------------------------------------------------------------- folders


def paint_all(folder, classes: int = 2, count: int = 5) -> None:
    for label in range(classes):
        for number in range(count):
            paint(folder / "ab"[label] / f"{number}.png", label)


def test_a_folder_without_splits_gives_up_a_fifth_for_testing(tmp_path):
    paint_all(tmp_path / "set", count=10)
    opened = open_set(f"folder:{tmp_path}/set")
    assert opened.classes == ("a", "b")
    assert {s: [i.label for i in items] for s, items in opened.splits.items()} == {
        "train": [0] * 8 + [1] * 8,
        "test": [0] * 2 + [1] * 2,
    }
    assert len({*names(opened), *names(opened, "test")}) == 20
    assert names(opened, "test") == [
        "a/2.png",
        "a/8.png",
        "b/0.png",
        "b/6.png",
    ]  # the same ones on every machine, for ever


def test_what_a_folder_gives_up_does_not_depend_on_the_other_images(tmp_path):
    paint_all(tmp_path / "set")
    before = names(open_set(f"folder:{tmp_path}/set"), "test")
    for number in range(5):
        paint(tmp_path / "set/c" / f"{number}.png", 2)
    after = names(open_set(f"folder:{tmp_path}/set"), "test")
    assert [n for n in after if not n.startswith("c/")] == before
    assert len(after) == 3


def test_a_class_too_small_to_give_up_an_image(tmp_path):
    paint_all(tmp_path / "set")
    paint(tmp_path / "set/c/only.png", 2)
    assert refused(f"folder:{tmp_path}/set").endswith("class c has fewer than 2 images, of which one is to test on")


@pytest.mark.parametrize("held", ["val", "valid", "validation"])
def test_a_folder_with_splits(tmp_path, held):
    for split in ("train", held, "test"):
        paint_all(tmp_path / split)
    opened = open_set(f"folder:{tmp_path}")
    assert {s: len(items) for s, items in opened.splits.items()} == {"train": 10, "validation": 10, "test": 10}
    assert names(opened, "validation") == [f"{c}/{i}.png" for c in "ab" for i in range(5)]


def test_a_folder_with_training_images_only(tmp_path):
    paint_all(tmp_path / "train")
    assert {s: len(items) for s, items in open_set(f"folder:{tmp_path}").splits.items()} == {"train": 10}


def test_images_lie_at_any_depth(tmp_path):
    paint_all(tmp_path / "train")
    paint(tmp_path / "train/a/more/deep/x.JPEG", 0)
    assert "a/more/deep/x.JPEG" in names(open_set(f"folder:{tmp_path}"))


@pytest.mark.parametrize("odd", [".git/x.png", "a/.thumbnails/x.png", "a/._0.png", "a/notes.txt", "loose.png"])
def test_what_is_no_image_of_a_class_is_left_out(tmp_path, odd):
    paint_all(tmp_path / "set")
    before = open_set(f"folder:{tmp_path}/set").fingerprint()
    write(tmp_path / "set" / odd, encoded(0))
    assert open_set(f"folder:{tmp_path}/set").fingerprint() == before


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "holds no folders of images; wanted: FOLDER/CLASS/image.jpg"),
        ([".a/0.png", ".b/0.png"], "holds no folders of images"),
        (
            ["a/notes.txt", "b/notes.txt"],
            "holds no images (JPEG, PNG, WebP, TIFF and what else Pillow opens); passed over: other suffixes 2",
        ),
        (["a/0.png", "a/1.png"], "has one class (('a',)); at least two are needed"),
        (["a/0.png", "a/1.png", "b/notes.txt"], "class b has fewer than 2 images, of which one is to test on"),
        (["train/a/0.png", "train/b/0.png", "test/a/0.png"], "class b has no test images"),
    ],
    ids=["nothing", "hidden folders", "no images", "one class", "empty class", "class missing from a split"],
)
def test_folders_that_are_no_sets(tmp_path, files, message):
    (tmp_path / "set").mkdir()
    for file in files:
        write(tmp_path / "set" / file, encoded(0))
    assert message in refused(f"folder:{tmp_path}/set")


def test_no_such_folder(tmp_path):
    assert refused(f"folder:{tmp_path}/none") == f"data set (=folder:{tmp_path}/none): there is no such folder"


def test_no_such_home():
    assert refused("folder:~nobody-of-this-name/x").endswith("there is no such folder")


def test_home_is_known(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    paint_all(tmp_path / "set")
    assert len(names(open_set("folder:~/set"))) == 8


# ---------------------------------------------------------------------------------------------------- image modes


def item(picture: Image.Image, kind: str = "PNG", **save) -> Item:
    """An item with the picture in a file."""
    file = io.BytesIO()
    picture.save(file, kind, **save)
    return Item("x", 0, file.getvalue)


RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def shown(one: Item) -> np.ndarray:
    picture = one.image()
    assert picture.mode == "RGB"
    return np.asarray(picture)


def test_grey_is_the_same_in_all_channels():
    assert np.array_equal(shown(item(Image.fromarray(RAMP))), np.stack([RAMP] * 3, -1))


def test_palette_colours_are_looked_up():
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putdata([0, 1])
    assert shown(item(picture)).tolist() == [[[10, 20, 30], [200, 100, 50]]]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L", "I;16"])
def test_white_is_behind_what_is_transparent(mode):
    """What looks the same is the same, whatever an editor left under it."""
    grey = np.repeat(np.array([[40], [200]], np.uint8), 3, 1)
    wanted = [[[40] * 3] * 3, [[255] * 3] * 3]
    if mode in ("RGBA", "LA"):
        alpha = np.repeat(np.array([[255], [0]], np.uint8), 3, 1)
        one = item(Image.merge(mode, [Image.fromarray(g) for g in [*[grey] * (len(mode) - 1), alpha]]))
    elif mode == "I;16":
        one = item(Image.fromarray(grey.astype(np.uint16) * 256), transparency=200 * 256)
    else:
        picture = Image.fromarray(grey).convert(mode)
        clear = {"P": picture.getpixel((0, 1)), "RGB": (200, 200, 200), "L": 200}[mode]
        one = item(picture, transparency=clear)
    assert shown(one).tolist() == wanted


def test_half_transparent_is_half_white():
    assert shown(item(Image.new("RGBA", (1, 1), (40, 50, 60, 128)))).tolist() == [[[147, 152, 157]]]


def test_black_and_white():
    assert shown(item(Image.new("1", (1, 1), 1))).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize(("kind", "dtype"), [("PNG", "<u2"), ("TIFF", "<u2"), ("TIFF", ">u2"), ("TIFF", "<i4")])
def test_sixteen_bits_keep_the_upper_eight(kind, dtype):
    wide = RAMP.astype(dtype) * 256 + 77
    assert np.array_equal(shown(item(Image.fromarray(wide.astype(dtype)), kind))[..., 0], RAMP)


def test_exif_rotation_is_applied():
    picture = Image.new("RGB", (16, 8), (0, 0, 0))
    picture.paste((255, 255, 255), (0, 0, 8, 8))  # white on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    upright = shown(item(picture, "JPEG", exif=exif, quality=95))
    assert upright.shape == (16, 8, 3)
    assert upright[:7].min() > 200
    assert upright[9:].max() < 60


def test_digest_is_of_bytes_or_of_pixels():
    red, same, wide = (Image.new("RGB", size, (255, 0, 0)) for size in ((2, 3), (2, 3), (3, 2)))
    of = lambda picture: Item("x", 0, lambda: picture).digest()  # noqa: E731
    assert of(red) == of(same)
    assert of(red) != of(wide)
    assert of(red) != item(red).digest()
    assert Item("x", 0, lambda: b"abc").digest() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_folder_with_val_and_test_but_no_train(tmp_path):
    for split in ("val", "test"):
        paint(tmp_path / "set" / split / "a" / "0.png", 0)
    with pytest.raises(UserError, match=r"has test and validation but no train folder"):
        open_set(f"folder:{tmp_path / 'set'}")


# --------------------------------------------------------------------------------------------------- detection sets

OBJECTS = pa.struct(
    [
        ("bbox", pa.list_(pa.list_(pa.float32(), 4))),
        ("category", pa.list_(pa.int64())),
        ("difficult", pa.list_(pa.bool_())),
    ]
)


def write_objects(folder, *boxes, split="train") -> None:
    """One 8 x 6 picture, its left half red and its right half blue, and boxes: (box, class, difficult or not)."""
    pixels = np.zeros((6, 8, 3), np.uint8)
    pixels[:, :4, 0] = pixels[:, 4:, 2] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    box, category, difficult = zip(*boxes, strict=True)
    shown = {"bbox": list(box), "category": list(category), "difficult": list(difficult)}
    table = pa.Table.from_pylist(
        [{"image": {"bytes": file.getvalue(), "path": "a.png"}, "objects": shown}],
        pa.schema(
            {"image": IMAGE, "objects": OBJECTS},
            metadata={
                "huggingface": json.dumps(
                    {"info": {"features": {"objects": {"category": {"feature": {"names": ["red", "blue"]}}}}}}
                )
            },
        ),
    )
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")


LEFT, RIGHT = [0.0, 0.0, 4.4, 5.8], [4.0, 1.0, 8.0, 4.0]


def test_objects_of_a_detection_set_are_images(bugs):
    write_objects(bugs, (RIGHT, 1, False), (LEFT, 0, False), (LEFT, 1, True))
    items = open_set("bugs").splits["train"]
    assert [(i.path, i.label) for i in items] == [("a.png#1", 0), ("a.png#0", 1)]  # the difficult one is left out
    red, blue = (np.asarray(i.image()) for i in items)
    assert red.shape == (6, 4, 3)
    assert blue.shape == (3, 4, 3)
    assert (red == [255, 0, 0]).all()
    assert (blue == [0, 0, 255]).all()


def test_the_fingerprint_is_also_of_boxes(bugs):
    found = set()
    for right in (RIGHT, [4.0, 1.0, 8.0, 5.0]):
        write_objects(bugs, (right, 1, False), (LEFT, 0, False))
        found.add(open_set("bugs").fingerprint())
    assert len(found) == 2


def test_bad_objects_are_named(bugs):
    write_objects(bugs, (RIGHT, 2, False), (LEFT, 0, False))
    assert refused("bugs") == "label (=2): train-00000-of-00001.parquet row 0: must be 0 to 1"
    for box in ([4.0, 1.0, 4.2, 5.0], [4.0, 1.0, 9.0, 5.0], [-2.0, 1.0, 3.0, 5.0], [5.0, 1.0, 4.0, 5.0]):
        write_objects(bugs, (box, 1, False), (LEFT, 0, False))
        with pytest.raises(UserError, match=r"box \(=.*\): must be left, top, right, bottom within 8 x 6 pixels"):
            open_set("bugs").splits["train"][1].image()


def test_objects_that_are_not_whole_are_named(bugs):
    wanted = "must have a bbox of four numbers, a category and difficult for each object"
    for boxes in ([(RIGHT, 1, False), (None, 0, False)], [(RIGHT, 1, False), ([1.0, 2.0, None, 4.0], 0, False)]):
        write_objects(bugs, *boxes)
        assert refused("bugs") == f"objects (=train-00000-of-00001.parquet row 0): {wanted}"
