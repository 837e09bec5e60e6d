"""torchvision's sets, each from a few images in its real layout; colours tell whether an image is the right one."""

import bz2
import hashlib
import io
import json
import pickle
import tarfile
from typing import NamedTuple
from urllib.error import URLError

import numpy as np
import pytest
from flat_images import colour, encoded, idx, mat, packed, paint, pixels, write
from torchvision import datasets

from transferlab.data import pinning
from transferlab.data.readers import open_set
from transferlab.data.torchvision_sets import SETS
from transferlab.errors import UserError

GREY = {"MNIST", "FashionMNIST", "KMNIST", "USPS"}
IN_MEMORY = GREY | {"CIFAR10", "CIFAR100", "SVHN", "STL10"}
WNIDS = ("n01440764", "n02102040", "n02979186")
MAKERS = {}


class Wanted(NamedTuple):
    """What the package should say about a set: class names, images by split."""

    classes: tuple[str, ...]
    counts: dict[str, int]


def grey(label: int) -> int:
    return 25 * label


def maker(*names: str):
    """Register a function that writes the named sets' files below `root`."""

    def register(make):
        MAKERS.update(dict.fromkeys(names, make))
        return make

    return register


@maker("CIFAR10", "CIFAR100")
def cifar(root, patch, name):
    kind = getattr(datasets, name)
    classes = ("cat", "dog", "eel")
    for part in ("train_list", "test_list"):
        batch = {"data": np.stack([pixels(c, 32).transpose(2, 0, 1).ravel() for c in range(3)])}
        batch |= {"labels" if name == "CIFAR10" else "fine_labels": [0, 1, 2]}
        listed = [[file, write(root / kind.base_folder / file, pickle.dumps(batch))] for file, _ in getattr(kind, part)]
        patch.setattr(kind, part, listed)
    md5 = write(root / kind.base_folder / kind.meta["filename"], pickle.dumps({kind.meta["key"]: list(classes)}))
    patch.setattr(kind, "meta", kind.meta | {"md5": md5})
    return Wanted(classes, {"train": 3 * len(kind.train_list), "test": 3})


@maker("MNIST", "FashionMNIST", "KMNIST")
def mnist(root, patch, name):
    labels = np.arange(10)
    images = np.stack([np.full((28, 28), grey(label)) for label in labels])
    for part in ("train", "t10k"):
        write(root / name / "raw" / f"{part}-images-idx3-ubyte", idx(images))
        write(root / name / "raw" / f"{part}-labels-idx1-ubyte", idx(labels))
    return Wanted(tuple(getattr(datasets, name).classes), {"train": 10, "test": 10})


@maker("USPS")
def usps(root, patch, name):
    row = lambda c: f"{c + 1} " + " ".join(f"{i + 1}:{grey(c) / 127.5 - 1:.4f}" for i in range(256))  # noqa: E731
    for file in ("usps.bz2", "usps.t.bz2"):
        write(root / file, bz2.compress("\n".join(map(row, range(3))).encode()))
    return Wanted(("0", "1", "2"), {"train": 3, "test": 3})


@maker("SVHN")
def svhn(root, patch, name):
    images = np.stack([pixels(c, 32) for c in (1, 2, 0)], axis=-1)
    content = mat(X=images, y=np.array([[1], [2], [10]], dtype=np.uint8))
    listed = {s: [url, file, write(root / file, content)] for s, (url, file, _) in datasets.SVHN.split_list.items()}
    patch.setattr(datasets.SVHN, "split_list", listed)
    return Wanted(("0", "1", "2"), {"train": 3, "test": 3})


@maker("STL10")
def stl10(root, patch, name):
    folder, kind = root / "stl10_binary", datasets.STL10
    images = np.stack([pixels(c, 96).transpose(2, 1, 0) for c in range(2)]).tobytes()
    content = {"X": images, "y": bytes([1, 2])}
    for part in ("train_list", "test_list"):
        patch.setattr(kind, part, [[f, write(folder / f, content[f[-5]])] for f, _ in getattr(kind, part)])
    write(folder / "class_names.txt", "airplane\nbird\n")
    return Wanted(("airplane", "bird"), {"train": 2, "test": 2})


@maker("Flowers102")
def flowers(root, patch, name):
    folder, labels = root / "flowers-102", np.tile(np.arange(1, 103), 3)
    for number, label in enumerate(labels, 1):
        paint(folder / "jpg" / f"image_{number:05d}.jpg", label - 1)
    ids = np.arange(1, 307).reshape(3, 102)
    contents = {"label": mat(labels=labels), "setid": mat(trnid=ids[0], valid=ids[1], tstid=ids[2])}
    listed = {k: (datasets.Flowers102._file_dict[k][0], v) for k, v in contents.items()}
    patch.setattr(
        datasets.Flowers102, "_file_dict", {k: (file, write(folder / file, v)) for k, (file, v) in listed.items()}
    )
    return Wanted(tuple(datasets.Flowers102.classes), {"train": 102, "validation": 102, "test": 102})


@maker("Caltech101", "Caltech256")
def caltech(root, patch, name):
    digits = name[-3:]
    classes = ("ant", "bass") if name == "Caltech101" else ("001.ant", "002.bass")
    pattern = "image_{1:04d}.jpg" if name == "Caltech101" else "{0:03d}_{1:04d}.jpg"
    for label, cls in enumerate(classes):
        for number in range(1, 11):
            paint(root / name.lower() / f"{digits}_ObjectCategories" / cls / pattern.format(label + 1, number), label)
    if name == "Caltech101":
        paint(root / "caltech101" / "101_ObjectCategories" / "BACKGROUND_Google" / "image_0001.jpg", 9)
    return Wanted(classes, {"train": 16, "test": 4})


@maker("DTD")
def dtd(root, patch, name):
    classes = ("banded", "dotted")
    for part in ("train", "val", "test"):
        lines = [f"{c}/{c}_{part}.jpg" for c in classes]
        write(root / "dtd/dtd/labels" / f"{part}1.txt", "\n".join(lines) + "\n")
        for label, line in enumerate(lines):
            paint(root / "dtd/dtd/images" / line, label)
    return Wanted(classes, {"train": 2, "validation": 2, "test": 2})


@maker("OxfordIIITPet")
def pets(root, patch, name):
    for part in ("trainval", "test"):
        lines = [f"Abyssinian_{part}1 1 1 1", f"american_bulldog_{part}1 2 2 1"]
        write(root / "oxford-iiit-pet/annotations" / f"{part}.txt", "\n".join(lines) + "\n")
        for label, line in enumerate(lines):
            paint(root / "oxford-iiit-pet/images" / f"{line.split()[0]}.jpg", label)
    return Wanted(("Abyssinian", "American Bulldog"), {"train": 2, "test": 2})


@maker("FGVCAircraft")
def aircraft(root, patch, name):
    folder, classes = root / "fgvc-aircraft-2013b/data", ("Boeing 737-200", "DC-3", "Tu-134")
    write(folder / "variants.txt", "\n".join(classes) + "\n")
    for start, part in enumerate(("train", "val", "test")):
        numbers = [f"{start}{label:06d}" for label in range(3)]
        write(
            folder / f"images_variant_{part}.txt", "".join(f"{n} {c}\n" for n, c in zip(numbers, classes, strict=True))
        )
        for label, number in enumerate(numbers):
            paint(folder / "images" / f"{number}.jpg", label)
    return Wanted(classes, {"train": 3, "validation": 3, "test": 3})


@maker("StanfordCars")
def cars(root, patch, name):
    folder, classes = root / "stanford_cars", ("Acura TL Sedan 2012", "Fiat 500 Abarth 2012")
    write(folder / "devkit/cars_meta.mat", mat(class_names=np.array(classes, dtype=object)))
    for part, file in {"train": "devkit/cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}.items():
        rows = np.array([("00001.jpg", 1), ("00002.jpg", 2)], dtype=[("fname", object), ("class", object)])
        write(folder / file, mat(annotations=rows))
        for label in range(2):
            paint(folder / f"cars_{part}" / f"{label + 1:05d}.jpg", label)
    return Wanted(classes, {"train": 2, "test": 2})


@maker("Food101")
def food(root, patch, name):
    for part in ("train", "test"):
        listed = {"apple_pie": [f"apple_pie/{part}1"], "waffles": [f"waffles/{part}1", f"waffles/{part}2"]}
        write(root / "food-101/meta" / f"{part}.json", json.dumps(listed))
        for label, stems in enumerate(listed.values()):
            for stem in stems:
                paint(root / "food-101/images" / f"{stem}.jpg", label)
    return Wanted(("apple_pie", "waffles"), {"train": 3, "test": 3})


@maker("EuroSAT")
def eurosat(root, patch, name):
    for label, cls in enumerate(("AnnualCrop", "SeaLake")):
        for number in range(1, 6):
            paint(root / "eurosat/2750" / cls / f"{cls}_{number}.jpg", label)
    return Wanted(("AnnualCrop", "SeaLake"), {"train": 8, "test": 2})


@maker("GTSRB")
def gtsrb(root, patch, name):
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for label in range(3):
        paint(root / "gtsrb/GTSRB/Training" / f"{label:05d}" / "00000_00000.ppm", label)
        paint(root / "gtsrb/GTSRB/Final_Test/Images" / f"{2 - label:05d}.ppm", label)
        lines.append(f"{2 - label:05d}.ppm;8;8;1;1;7;7;{label}")
    write(root / "gtsrb/GT-final_test.csv", "\n".join(lines) + "\n")
    return Wanted(("0", "1", "2"), {"train": 3, "test": 3})


@maker("Country211", "RenderedSST2")
def folders(root, patch, name):
    folder, classes, suffix = (
        ("country211", ("AD", "ZW"), "jpg")
        if name == "Country211"
        else ("rendered-sst2", ("negative", "positive"), "png")
    )
    for part in ("train", "valid", "test"):
        for label, cls in enumerate(classes):
            paint(root / folder / part / cls / f"{label}{part}.{suffix}", label)
    return Wanted(classes, {"train": 2, "validation": 2, "test": 2})


@maker("SUN397")
def sun(root, patch, name):
    classes = ("abbey", "apartment_building/outdoor")
    write(root / "SUN397/ClassName.txt", "".join(f"/a/{c}\n" for c in classes))
    for label, cls in enumerate(classes):
        for number in range(5):
            paint(root / "SUN397/a" / cls / f"sun_a{number}.jpg", label)
    return Wanted(classes, {"train": 8, "test": 2})


@maker("Places365")
def places(root, patch, name):
    kind, classes = datasets.Places365, ("/a/airfield", "/z/zen_garden")
    lists = {
        "train-standard": ("places365_train_standard.txt", "data_256_standard", [f"{c}/00000001.jpg" for c in classes]),
        "val": ("places365_val.txt", "val_256", ["Places365_val_00000001.jpg", "Places365_val_00000002.jpg"]),
    }
    table = {}
    for split, (file, folder, paths) in lists.items():
        table[split] = (file, write(root / file, "".join(f"{path} {label}\n" for label, path in enumerate(paths))))
        for label, path in enumerate(paths):
            paint(root / folder / path.lstrip("/"), label)
    patch.setattr(kind, "_FILE_LIST_META", table)
    file = "categories_places365.txt"
    patch.setattr(
        kind, "_CATEGORIES_META", (file, write(root / file, "".join(f"{c} {i}\n" for i, c in enumerate(classes))))
    )
    return Wanted(classes, {"train": 2, "validation": 2})


@maker("Imagenette")
def imagenette(root, patch, name):
    for part in ("train", "val"):
        for label, wnid in enumerate(WNIDS):
            paint(root / "imagenette2" / part / wnid / f"{wnid}_{part}.JPEG", label)
    return Wanted(WNIDS, {"train": 3, "validation": 3})


@maker("ImageNet")
def imagenet(root, patch, name):
    """The three archives as they are handed out: torchvision unpacks them, the devkit's numbers lead to WordNet ids."""
    kinds = [
        ("ILSVRC2012_ID", object),
        ("WNID", object),
        ("words", object),
        ("gloss", object),
        ("num_children", object),
    ]
    rows = [(3 - i, wnid, "crane" if i else "tench, Tinca tinca", "", 0) for i, wnid in enumerate(WNIDS)]
    synsets = np.array([*rows, (4, "n00000004", "a thing above", "", 3)], dtype=kinds)
    kit = {"data/meta.mat": mat(synsets=synsets), "data/ILSVRC2012_validation_ground_truth.txt": b"1\n3\n2\n"}
    contents = {
        "train": packed({f"{w}.tar": packed({f"{w}_1.JPEG": encoded(c)}) for c, w in enumerate(WNIDS)}),
        "val": packed({f"ILSVRC2012_val_0000000{i}.JPEG": encoded(c) for i, c in enumerate((2, 0, 1))}),
        "devkit": packed({f"ILSVRC2012_devkit_t12/{k}": v for k, v in kit.items()}, zipped=True),
    }
    for part, (file, _) in list(datasets.imagenet.ARCHIVE_META.items()):
        patch.setitem(datasets.imagenet.ARCHIVE_META, part, (file, write(root / file, contents[part])))
    return Wanted(WNIDS, {"train": 3, "validation": 3})


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The folder of torchvision's sets, and no way to the network."""

    def unreachable(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setenv("TRANSFERLAB_DATA", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    return tmp_path / "torchvision"


def test_every_set_is_tried():
    assert set(MAKERS) == set(SETS)


@pytest.mark.filterwarnings("ignore:Python 3.14 will, by default, filter:DeprecationWarning")
@pytest.mark.parametrize("name", sorted(SETS))
def test_set(name, root, monkeypatch):
    wanted = MAKERS[name](root, monkeypatch, name)
    opened = open_set(f"torchvision:{name}")
    assert opened.name == f"torchvision:{name}"
    assert opened.classes == wanted.classes
    assert {split: len(items) for split, items in opened.splits.items()} == wanted.counts
    for items in opened.splits.values():
        assert len({i.path for i in items}) == len(items)
        for item in items:
            assert isinstance(item.load(), bytes) == (name not in IN_MEMORY)
            shown = np.asarray(item.image()).mean(axis=(0, 1))
            expected = [grey(item.label)] * 3 if name in GREY else colour(item.label)
            assert np.abs(shown - expected).max() < 4, item.path
    assert opened.fingerprint() == open_set(f"torchvision:{name}").fingerprint()


def test_held_out_images_do_not_depend_on_the_others(root, monkeypatch):
    caltech(root, monkeypatch, "Caltech101")
    before = {i.path for i in open_set("torchvision:Caltech101").splits["test"]}
    paint(root / "caltech101/101_ObjectCategories/crab/image_0001.jpg", 2)
    paint(root / "caltech101/101_ObjectCategories/crab/image_0002.jpg", 2)
    opened = open_set("torchvision:Caltech101")
    after = {i.path for i in opened.splits["test"]}
    assert before == {p for p in after if "crab" not in p}
    assert len(after) == 5
    assert not after & {i.path for i in opened.splits["train"]}


def message(name: str) -> str:
    with pytest.raises(UserError) as caught:
        open_set(f"torchvision:{name}")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_unknown_set(root):
    assert "torchvision set (=CIFAR1O): must be one of CIFAR10" in message("CIFAR1O")
    assert message("CIFAR1O").endswith("did you mean CIFAR10?")


@pytest.mark.parametrize("name", sorted(n for n, row in SETS.items() if row.get("downloads", True)))
def test_no_network(name, root, capsys):
    text = message(name)
    assert "the download failed" in text
    assert "no network" in text
    assert f"put {SETS[name]['wants']} into {root}" in text
    assert "downloading" in capsys.readouterr().err


def test_sets_that_nobody_may_download(root):
    text = message("ImageNet")
    assert "torchvision does not download it" in text
    for archive in ("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", str(root)):
        assert archive in text
    assert "put stanford_cars/ into" in message("StanfordCars")


def test_download(root, monkeypatch):
    """What the network hands out lands below the root folder and is read from there."""
    for part in ("train", "test"):
        dtd(root / part, monkeypatch, "DTD")
    files = {f.relative_to(root / "train/dtd").as_posix(): f.read_bytes() for f in (root / "train").rglob("*.*")}
    archive = packed(files, zipped=True)
    monkeypatch.setattr(datasets.DTD, "_MD5", hashlib.md5(archive).hexdigest())
    monkeypatch.setattr(
        datasets.dtd, "download_and_extract_archive", lambda url, download_root, md5: unpack(archive, download_root)
    )
    assert len(open_set("torchvision:DTD").splits["train"]) == 2


def unpack(archive: bytes, folder: str) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        opened.extractall(folder, filter="data")


def test_half_a_file(root, monkeypatch):
    """MNIST is unpacked without checksums, so half a file shows up when it is parsed."""
    mnist(root, monkeypatch, "MNIST")
    path = root / "MNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:40])
    assert "damaged" in message("MNIST")
    assert "put MNIST/raw/ afresh into" in message("MNIST")


def test_unreadable_image(root, monkeypatch):
    eurosat(root, monkeypatch, "EuroSAT")
    path = root / "eurosat/2750/SeaLake/SeaLake_1.jpg"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match=r"1 unreadable image .*SeaLake_1\.jpg"):
        pinning.pin("torchvision:EuroSAT")


def test_wrong_checksum(root, monkeypatch):
    """A file that is not the official one is fetched anew, which needs the network."""
    cifar(root, monkeypatch, "CIFAR10")
    write(root / "cifar-10-batches-py/test_batch", b"something else")
    assert "not whole, and the download failed (URLError" in message("CIFAR10")


def test_listed_image_is_missing(root, monkeypatch):
    dtd(root, monkeypatch, "DTD")
    (root / "dtd/dtd/images/dotted/dotted_val.jpg").unlink()
    with pytest.raises(UserError, match=r"dotted_val\.jpg.*cannot be read"):
        open_set("torchvision:DTD").fingerprint()


def test_images_are_missing_beside_their_lists(root, monkeypatch):
    """Places365 checks its lists only; the package looks for the first image too."""
    places(root, monkeypatch, "Places365")
    (root / "val_256").rename(root / "elsewhere")
    assert "the download failed" in message("Places365")


def test_splits_with_different_classes(root, monkeypatch):
    dtd(root, monkeypatch, "DTD")
    write(root / "dtd/dtd/labels/val1.txt", "dotted/dotted_val.jpg\n")
    assert "different classes" in message("DTD")
