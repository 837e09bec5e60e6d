"""Parquet sets made from a few images in the layout of each public original, and the committed lists."""

import gzip
import hashlib
import io
import json
import pickle

import numpy as np
import pyarrow.parquet as pq
import pytest
import rebuild
import rebuild_sets
from flat_images import colour, idx, mat, paint, pixels, write
from PIL import Image
from torchvision.datasets import CIFAR100

from transferlab.data import tree
from transferlab.data.readers import open_set
from transferlab.errors import UserError
from transferlab.paths import data_root
from transferlab.specs import catalog

TREE = {
    "n1": ("-", "entity"),
    "n2": ("n1", "animal"),
    "n3": ("n2", "Great Dane, big dog"),
    "n4": ("n2", "cat"),
    "n5": ("n1", "rock"),
}
WNIDS = ("n3", "n4", "n5")
SCENES = ("Bedroom/image_0001.jpg", "Coast/image_0002.jpg", "Office/image_0003.jpg")
DIGITS = ("0/0.png", "1/1.png", "0/4.png", "1/5.png")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder for originals; image sets go beside it, lists come from it, and nothing is published."""
    monkeypatch.setenv("TRANSFERLAB_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(rebuild_sets, "LISTS", tmp_path / "lists")
    monkeypatch.setattr(tree, "TINY_IMAGENET", tmp_path / "lists" / "tiny-imagenet-tree.txt")
    monkeypatch.setattr(catalog, "packaged", dict)
    return tmp_path / "originals"


def lists(place, name: str, **splits: tuple[str, ...]) -> None:
    lines = ["# names", *(line for split, names in splits.items() for line in (f"[{split}]", *names))]
    write(place.parent / "lists" / f"{name}.txt", "\n".join(lines) + "\n")


def tiny_imagenet(place, monkeypatch):
    write(
        place.parent / "lists/tiny-imagenet-tree.txt",
        "# tree\n" + "".join(f"{k}\t{p}\t{n}\n" for k, (p, n) in TREE.items()),
    )
    base = place / "tiny-imagenet-200"
    for label, wnid in enumerate(WNIDS):
        for number in (0, 10):
            paint(base / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", label, (64, 64))
        write(base / "train" / wnid / f"{wnid}_boxes.txt", f"{wnid}_0.JPEG\t0\t1\t62\t63\n{wnid}_10.JPEG\t3\t4\t5\t6\n")
        paint(base / "val/images" / f"val_{label}.JPEG", label, (64, 64))
    write(base / "val/val_annotations.txt", "".join(f"val_{i}.JPEG\t{w}\t{i}\t0\t9\t9\n" for i, w in enumerate(WNIDS)))


def flowers102(place, monkeypatch):
    for number, label in enumerate((0, 1, 0, 1, 0, 1), 1):
        paint(place / "jpg" / f"image_{number:05d}.jpg", label)
    for name, content in {
        "imagelabels": {"labels": [1, 2, 1, 2, 1, 2]},
        "setid": {"trnid": [1, 2], "valid": [3, 4], "tstid": [6, 5]},
    }.items():
        write(place / f"{name}.mat", mat(**content))


def folders(name: str, *below: str):
    def make(place, monkeypatch):
        names = ("elephant/one.jpg", "accordion/two.jpg"), ("elephant/three.jpg", "accordion/four.jpg")
        lists(place, name, train=names[0], test=names[1])
        for path in (*names[0], *names[1]):
            paint(place.joinpath(*below, path), int(path.startswith("elephant")))

    return make


def scene15(place, monkeypatch):
    lists(place, "scene15", train=SCENES, test=tuple(s.replace("00", "01") for s in SCENES))
    theirs = {"Bedroom": "bedroom", "Coast": "MITcoast", "Office": "PARoffice"}
    for label, name in enumerate(SCENES):
        folder, file = name.split("/")
        paint(place / theirs[folder] / file, label)
        paint(place / theirs[folder] / file.replace("00", "01"), label)


def cifar100(place, monkeypatch):
    lists(place, "cifar100", train=("apple/a.png", "bee/b.png"), test=("apple/a.png", "bee/c.png"))
    data = np.stack([pixels(c, 32).transpose(2, 0, 1).ravel() for c in (1, 0, 1)])
    batches = {"meta": {"fine_label_names": ["apple", "bee"]}}
    batches["train"] = {"data": data, "fine_labels": [1, 0, 1], "filenames": ["b.png", "a.png", "unused.png"]}
    batches["test"] = {"data": data[:2], "fine_labels": [1, 0], "filenames": ["c.png", "a.png"]}
    contents = {name: pickle.dumps(batch) for name, batch in batches.items()}
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}
    for name, content in contents.items():
        write(place / "cifar-100-python" / name, content)
    for part in ("train", "test"):
        monkeypatch.setattr(CIFAR100, f"{part}_list", [[part, md5[part]]])
    monkeypatch.setattr(CIFAR100, "meta", CIFAR100.meta | {"md5": md5["meta"]})


def mnist(place, monkeypatch):
    lists(place, "mnist", train=DIGITS[:2], test=DIGITS[2:])
    labels = np.array([0, 1, 1, 0, 0, 1])
    images = np.stack([np.full((28, 28), colour(label)[0]) for label in labels])
    for part, rows in {"train": slice(0, 3), "t10k": slice(3, 6)}.items():
        write(place / "raw" / f"{part}-images-idx3-ubyte.gz", gzip.compress(idx(images[rows])))
        write(place / "raw" / f"{part}-labels-idx1-ubyte", idx(labels[rows]))


def imagenet_samples(place, monkeypatch):
    for label, name in enumerate(("n01440764_tench.JPEG", "n01443537_goldfish.JPEG")):
        paint(place / name, label)


MAKERS = {
    "tiny-imagenet": tiny_imagenet,
    "flowers102": flowers102,
    "caltech101": folders("caltech101", "101_ObjectCategories"),
    "cifar100": cifar100,
    "mnist": mnist,
    **{f"pacs/{d}": folders(f"pacs-{d}", "PACS", "kfold", d) for d in ("photo", "art_painting", "cartoon", "sketch")},
    "scene15": scene15,
    "imagenet-samples": imagenet_samples,
}
WANTED = {  # class names, images by split, how they are stored
    "tiny-imagenet": (WNIDS, {"train": 6, "validation": 3}, ("JPEG", (64, 64))),
    "flowers102": (("1", "2"), {"train": 2, "validation": 2, "test": 2}, ("JPEG", (64, 64))),
    "cifar100": (("apple", "bee"), {"train": 2, "test": 2}, ("WEBP", (32, 32))),
    "mnist": (("0", "1"), {"train": 2, "test": 2}, ("PNG", (28, 28))),
    "scene15": (("Bedroom", "Coast", "Office"), {"train": 3, "test": 3}, ("WEBP", (128, 128))),
    "imagenet-samples": (("n01440764", "n01443537"), {"validation": 2}, ("WEBP", (128, 128))),
}
FOLDERS = (("accordion", "elephant"), {"train": 2, "test": 2}, ("WEBP", (128, 128)))


def test_every_set_is_tried():
    assert {*MAKERS, "voc2007", "bccd"} == set(rebuild_sets.ORIGINALS)


@pytest.mark.parametrize("name", MAKERS)
def test_classification_set(name, place, monkeypatch):
    MAKERS[name](place, monkeypatch)
    folder = rebuild.build(name, place)
    classes, counts, stored = WANTED.get(name, FOLDERS)
    assert sorted(f.name for f in folder.glob("*.parquet")) == sorted(
        f"{split}-00000-of-00001.parquet" for split in counts
    )
    opened = open_set(name)
    assert opened.classes == classes
    assert {split: len(items) for split, items in opened.splits.items()} == counts
    for item in (i for items in opened.splits.values() for i in items):
        picture = Image.open(io.BytesIO(item.load()))
        assert (picture.format, picture.size) == stored
        expected = [colour(item.label)[0]] * 3 if name == "mnist" else colour(item.label)
        assert np.abs(np.asarray(item.image()).mean(axis=(0, 1)) - expected).max() < (
            0.01 if name in ("mnist", "cifar100") else 6
        )
    found = catalog.pinned(name)["fingerprint"]
    assert found == opened.fingerprint()
    line = rebuild.summary(name)
    images = f"{sum(counts.values())} images in {len(classes)} classes"
    assert line == f"{name}: {images}, fingerprint {found} (no records are published for it)"


def test_rows_keep_the_convention(place, monkeypatch):
    """Canonical order, zstd, class names in the metadata, the corners of tiny-imagenet's objects."""
    tiny_imagenet(place, monkeypatch)
    file = rebuild.build("tiny-imagenet", place / "tiny-imagenet-200") / "train-00000-of-00001.parquet"
    assert pq.ParquetFile(file).metadata.row_group(0).column(0).compression == "ZSTD"
    table = pq.read_table(file)
    assert table.schema.names == ["image", "label", "bbox"]
    assert [row["path"] for row in table["image"].to_pylist()] == [f"{w}_{n}.JPEG" for w in WNIDS for n in (0, 10)]
    assert table["bbox"].to_pylist()[:2] == [[0, 1, 62, 63], [3, 4, 5, 6]]
    about = json.loads(table.schema.metadata[b"huggingface"])
    assert about["info"]["features"]["label"] == {"names": list(WNIDS), "_type": "ClassLabel"}


def test_tiny_imagenet_keeps_bytes_and_writes_its_tree(place, monkeypatch):
    tiny_imagenet(place, monkeypatch)
    folder = rebuild.build("tiny-imagenet", place)
    opened = open_set("tiny-imagenet")
    for item in opened.splits["train"]:
        assert (
            item.load()
            == (place / "tiny-imagenet-200/train" / item.path.split("_")[0] / "images" / item.path).read_bytes()
        )
    dane = json.loads((folder / "wordnet.json").read_text())["n3"]
    path = [{"wnid": "n1", "name": "entity"}, {"wnid": "n2", "name": "animal"}, {"wnid": "n3", "name": "great_dane"}]
    assert dane == {"name": "Great Dane, big dog", "path": path}
    assert opened.tree.under("n2") == {"n3", "n4"}


@pytest.mark.parametrize(("name", "size", "square"), [("caltech101", (300, 100), 100), ("flowers102", (100, 300), 100)])
def test_centre_crop(name, size, square, place, monkeypatch):
    """The middle square is kept whole and nothing beside it."""
    MAKERS[name](place, monkeypatch)
    for file in place.rglob("*.jpg"):
        picture = Image.new("RGB", size, (255, 0, 0))
        picture.paste(
            (0, 0, 255),
            ((size[0] - square) // 2, (size[1] - square) // 2, (size[0] + square) // 2, (size[1] + square) // 2),
        )
        picture.save(file, quality=95)
    rebuild.build(name, place)
    kept = np.asarray(open_set(name).splits["train"][0].image()).astype(int)
    assert kept[2:-2, 2:-2, 2].min() > 200
    assert kept[2:-2, 2:-2, 0].max() < 60


XML = """<annotation><size><width>{w}</width><height>{h}</height></size>{objects}</annotation>"""
OBJECT = """<object><name>{0}</name>{1}<bndbox><xmin>{2}</xmin><ymin>{3}</ymin><xmax>{4}</xmax><ymax>{5}</ymax></bndbox>
<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"""


def annotated(base, stem: str, size: tuple[int, int], *objects: tuple) -> None:
    paint(base / "JPEGImages" / f"{stem}.jpg", 1, size)
    body = "".join(
        OBJECT.format(name, "" if hard is None else f"<difficult>{hard}</difficult>", *box)
        for name, hard, *box in objects
    )
    write(base / "Annotations" / f"{stem}.xml", XML.format(w=size[0], h=size[1], objects=body))


def rows(folder, split: str) -> list[dict]:
    return pq.read_table(folder / f"{split}-00000-of-00001.parquet").to_pylist()


def test_voc2007(place):
    base = place / "VOCdevkit/VOC2007"
    lists(place, "voc2007", train=("000001",), test=("000002",))
    annotated(base, "000001", (353, 500), ("dog", 0, 48, 240, 195, 371), ("person", 1, 8, 12, 353, 500))
    annotated(base, "000002", (500, 333), ("train", 0, 1, 1, 250, 333))
    annotated(base, "000003", (500, 333), ("cat", 0, 1, 1, 250, 333))  # not listed
    folder = rebuild.build("voc2007", place)
    (first,) = rows(folder, "train")
    (second,) = rows(folder, "test")
    assert (first["image"]["path"], second["image"]["path"]) == ("000001.webp", "000002.webp")
    assert Image.open(io.BytesIO(first["image"]["bytes"])).size == (181, 256)
    assert Image.open(io.BytesIO(second["image"]["bytes"])).size == (256, 170)
    assert first["objects"]["category"] == [11, 14]
    assert first["objects"]["difficult"] == [False, True]
    x, y = 181 / 353, 256 / 500
    np.testing.assert_allclose(first["objects"]["bbox"][0], [47 * x, 239 * y, 195 * x, 371 * y], rtol=1e-6)
    np.testing.assert_allclose(first["objects"]["bbox"][1], [7 * x, 11 * y, 181, 256], rtol=1e-6)
    assert second["objects"]["bbox"] == [[0, 0, 128, 170]]
    assert rebuild.summary("voc2007") == "voc2007: 2 images with 3 objects of 20 classes"
    assert not catalog.local()


def test_bccd(place):
    for number in (0, 1, 2, 5):
        annotated(
            place / "BCCD",
            f"BloodImage_{number:05d}",
            (640, 480),
            ("RBC", None, 0, 1, 700, 480),
            ("Platelets", None, 11, 11, 20, 20),
        )
    folder = rebuild.build("bccd", place)
    assert [row["image"]["path"][-7:-5] for split in ("train", "test") for row in rows(folder, split)] == [
        "00",
        "02",
        "01",
        "05",
    ]
    for row in rows(folder, "test"):
        assert row["objects"]["bbox"] == [[0, 0, 256, 192], [4, 4, 8, 8]]
        assert row["objects"]["category"] == [0, 2]


def test_folder_may_be_the_original_or_lie_above_it(place, monkeypatch):
    scene15(place / "a" / "b", monkeypatch)
    lists(place, "scene15", train=SCENES, test=tuple(s.replace("00", "01") for s in SCENES))
    built = [
        rebuild.build("scene15", folder, place.parent / str(i))
        for i, folder in enumerate((place / "a/b", place / "a", place))
    ]
    contents = {tuple(f.read_bytes() for f in sorted(folder.iterdir())) for folder in built}
    assert len(contents) == 1
    assert not catalog.local()  # a set that lies elsewhere cannot be opened by name


def test_scene15_halved(place):
    lists(place, "scene15", train=SCENES, test=tuple(s.replace("00", "01") for s in SCENES))
    for label, name in enumerate(SCENES):
        paint(place / "train" / name.replace("00", "01"), label)  # which half an image lies in is not ours
        paint(place / "test" / name, label)
    rebuild.build("scene15", place)
    assert len(open_set("scene15").splits["train"]) == 3


def test_summary_says_whose_records(place, monkeypatch):
    imagenet_samples(place, monkeypatch)
    rebuild.build("imagenet-samples", place)
    own = catalog.pinned("imagenet-samples")
    other = own | {"fingerprint": "0123456789abcdef"}
    monkeypatch.setattr(catalog, "packaged", lambda: {"imagenet-samples": other})
    assert "(the published records use 0123456789abcdef: this set has its own, and its trials" in rebuild.summary(
        "imagenet-samples"
    )
    monkeypatch.setattr(catalog, "packaged", lambda: {"imagenet-samples": own})
    assert rebuild.summary("imagenet-samples").endswith(
        f"fingerprint {own['fingerprint']} (the same as the published one)"
    )
    catalog.pin("imagenet-samples", other)
    for file in data_root().glob("imagenet-samples/*"):
        file.unlink()
    rebuild.build("imagenet-samples", place)
    assert catalog.pinned("imagenet-samples") == own


def message(name: str, folder) -> str:
    with pytest.raises(UserError) as caught:
        rebuild.build(name, folder)
    assert "\n" not in str(caught.value)
    assert not (data_root() / name).exists()
    return str(caught.value)


def test_unknown_set(place):
    assert message("flowers", place).startswith("data set (=flowers): must be one of tiny-imagenet, flowers102")
    assert message("flowers", place).endswith("did you mean flowers102?")


def test_no_originals(place):
    assert f"originals (={place}): there is no such folder; wanted for mnist: train-images-idx3-ubyte" in message(
        "mnist", place
    )
    place.mkdir()
    assert "not the original of caltech101; wanted: 101_ObjectCategories/CLASS/image_0001.jpg" in message(
        "caltech101", place
    )
    write(place / "JPEGImages/nothing", "")
    assert "lists no images of bccd" in message("bccd", place)


@pytest.mark.parametrize(
    ("name", "gone", "said"),
    [
        (
            "caltech101",
            "101_ObjectCategories/elephant/*",
            "2 of 4 images are missing (elephant/one.jpg, elephant/three.jpg); wanted: 101_",
        ),
        ("tiny-imagenet", "*/train/n3/images/n3_10.JPEG", "1 of 9 images are missing (train/n3/images/n3_10.JPEG)"),
        ("tiny-imagenet", "*/train/n3/n3_boxes.txt", "cannot be read as tiny-imagenet (FileNotFoundError"),
        (
            "flowers102",
            "jpg/*",
            "6 of 6 images are missing (jpg/image_00001.jpg, jpg/image_00002.jpg, jpg/image_00003.jpg ...)",
        ),
        ("flowers102", "imagelabels.mat", "cannot be read as flowers102 (FileNotFoundError"),
        ("mnist", "raw/t10k-*", "t10k-images-idx3-ubyte"),
        ("cifar100", "cifar-100-python/test", "must be CIFAR-100's own"),
        ("scene15", "bedroom/image_0001.jpg", "1 of 6 images are missing (Bedroom/image_0001.jpg)"),
    ],
)
def test_missing_files(name, gone, said, place, monkeypatch):
    MAKERS[name](place, monkeypatch)
    for file in list(place.glob(gone)):
        file.unlink()
    assert said in message(name, place)


def test_missing_names_in_archives(place, monkeypatch):
    cifar100(place, monkeypatch)
    lists(place, "cifar100", train=("apple/a.png", "bee/other.png"), test=("bee/b.png",))
    assert "2 of 3 images are missing (bee/other.png, bee/b.png)" in message("cifar100", place)


def test_pickles_of_strangers_stay_closed(place, monkeypatch):
    cifar100(place, monkeypatch)
    write(place / "cifar-100-python/train", b"cos\nabort\n(tR.")
    assert "must be CIFAR-100's own; it is absent, or its MD5 sum another" in message("cifar100", place)


def test_missing_annotation(place):
    lists(place, "voc2007", train=("000001",), test=("000002",))
    annotated(place, "000001", (50, 40), ("dog", 0, 1, 1, 9, 9))
    assert "1 of 2 images are missing (Annotations/000002.xml)" in message("voc2007", place)
    annotated(place, "000002", (50, 40), ("dogg", 0, 1, 1, 9, 9))
    assert "object (=dogg): must be one of" in message("voc2007", place)
    write(place / "Annotations/000002.xml", "<annotation>")
    assert "cannot be read as voc2007 (ParseError" in message("voc2007", place)


@pytest.mark.parametrize("name", ["caltech101", "tiny-imagenet"])
def test_unreadable_image(name, place, monkeypatch):
    MAKERS[name](place, monkeypatch)
    file = sorted(f for f in place.rglob("*") if f.suffix.lower() in (".jpg", ".jpeg"))[0]
    file.write_bytes(file.read_bytes()[:200])
    assert "1 unreadable image in t" in message(name, place)


def test_incomplete_original(place, monkeypatch):
    imagenet_samples(place, monkeypatch)
    monkeypatch.setattr(catalog, "packaged", lambda: {"imagenet-samples": {"splits": {"validation": 1000}}})
    assert "2 validation images of imagenet-samples; there must be 1,000" in message("imagenet-samples", place)


def test_nothing_is_overwritten(place, monkeypatch):
    imagenet_samples(place, monkeypatch)
    rebuild.build("imagenet-samples", place)
    with pytest.raises(UserError, match="is there already; move it away first"):
        rebuild.build("imagenet-samples", place)


def test_command(place, monkeypatch, capsys):
    imagenet_samples(place, monkeypatch)
    rebuild.main(["imagenet-samples", "--from", str(place)])
    assert capsys.readouterr().out.startswith("imagenet-samples: 2 images in 2 classes, fingerprint ")
    with pytest.raises(SystemExit) as caught:
        rebuild.main(["flower", "--from", str(place)])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("rebuild: data set (=flower): must be one of")
    assert said.count("\n") == 1
