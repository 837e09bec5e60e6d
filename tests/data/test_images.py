"""Decoding once, pinning, and the samples that trials read."""

import errno
import itertools
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from flat_images import colour, encoded, paint, write
from parquet_sets import row, rows, write_set
from PIL import Image

from transferlab.data import images, pinning, synthetic
from transferlab.data.images import Sample, load, shrink, source_sample, target_sample
from transferlab.data.pinning import pin
from transferlab.errors import DiskError, UserError
from transferlab.paths import cache_root, data_root, weights_root
from transferlab.specs import ImageSet, Recipe, Source, Subset, Target, catalog

SIZE = 16
RECIPE = Recipe(steps=1, batch=1, lr=0.1)


@pytest.fixture
def bugs():
    """Where the Parquet set called ``bugs`` belongs."""
    return data_root() / "bugs"


@pytest.fixture
def openings(monkeypatch):
    """The names of the sets that were opened, in order."""
    opened, really = [], images.open_set
    for module in (images, pinning):
        monkeypatch.setattr(module, "open_set", lambda name, *a, **k: (opened.append(name), really(name, *a, **k))[1])
    return opened


def pinned_set(folder, name: str = "bugs", **splits) -> ImageSet:
    """Write and pin a set of 3 classes, as many images of each in every split as `splits` says."""
    write_set(folder, **{split: rows(count, prefix=split) for split, count in splits.items()})
    pin(name)
    return ImageSet(name)


# --------------------------------------------------------------------------------------------------------- shrink


def test_shrink_is_a_box_filter():
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    blocks = picture.reshape(8, 4, 8, 4, 3).astype(float).mean((1, 3))
    assert np.abs(shrink(Image.fromarray(picture), 8) - blocks).max() <= 1  # Pillow rounds after each of the two passes


@pytest.mark.parametrize("tall", [False, True])
def test_shrink_cuts_out_the_middle(tall):
    strip = np.repeat(np.arange(12, dtype=np.uint8) * 20, 2)  # 24 pixels, two of a value
    picture = np.broadcast_to(strip[None, :, None], (8, 24, 3))
    wanted = np.broadcast_to((np.arange(4, 8, dtype=np.uint8) * 20)[None, :, None], (4, 4, 3))
    if tall:
        picture, wanted = picture.transpose(1, 0, 2), wanted.transpose(1, 0, 2)
    assert np.array_equal(shrink(Image.fromarray(picture.copy()), 4), wanted)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (17, 16), (16, 16), (333, 20)])
def test_shrink_always_gives_a_square(size):
    got = shrink(Image.new("RGB", size, (1, 2, 3)), SIZE)
    assert (got.shape, got.dtype) == ((SIZE, SIZE, 3), np.uint8)
    assert (got == (1, 2, 3)).all()


# ------------------------------------------------------------------------------------------------ decoding, cache


def test_a_set_is_decoded_once(bugs, openings):
    wanted = pinned_set(bugs, train=2, test=1)
    openings.clear()
    first = load(wanted, SIZE)
    assert openings == ["bugs"]
    images._decoded.cache_clear()  # as in another process
    (bugs / "train-00000-of-00001.parquet").unlink()
    again = load(wanted, SIZE)
    assert openings == ["bugs"]
    assert again.classes == first.classes == ("ant", "bee", "cat")
    assert again.tree is None
    for split in ("train", "test"):
        assert torch.equal(again.splits[split].pixels, first.splits[split].pixels)
        assert np.array_equal(again.splits[split].labels, first.splits[split].labels)
        assert again.splits[split].names == first.splits[split].names


def test_a_synthetic_set_is_drawn_once(monkeypatch):
    monkeypatch.setattr(synthetic, "PER_CLASS", {"source": {"train": 2, "validation": 1, "test": 1}})
    world, drawn = synthetic.World(None), []
    monkeypatch.setattr(images, "synthetic_set", images.synthetic_set.__wrapped__)  # every time as in another process
    wanted = {split: world.draw(split, SIZE) for split in ("train", "validation", "test")}
    wanted = {split: (torch.from_numpy(np.concatenate(list(p))), *rest) for split, (p, *rest) in wanted.items()}

    def draw(self, split, size):
        drawn.append(split)
        return (piece.numpy() for piece in wanted[split][0].split(7)), *wanted[split][1:]

    monkeypatch.setattr(synthetic.World, "draw", draw)
    for _ in range(2):
        found = load(ImageSet("synthetic:source"), SIZE)
        assert (found.classes, found.tree.paths, list(found.splits)) == (world.classes, world.tree.paths, list(wanted))
        for split, (pixels, labels, names) in wanted.items():
            assert found.splits[split].names == names
            assert torch.equal(found.splits[split].pixels, pixels)
            assert np.array_equal(found.splits[split].labels, labels)
        assert drawn == list(wanted)


def test_pixels_are_those_of_the_named_images(bugs):
    split = load(pinned_set(bugs, train=2), SIZE).splits["train"]
    assert (split.pixels.shape, split.pixels.dtype) == ((6, SIZE, SIZE, 3), torch.uint8)
    assert split.names == [f"train{c}/{i:02d}.png" for c in range(3) for i in range(2)]
    assert split.labels.tolist() == [0, 0, 1, 1, 2, 2]
    for pixels, label in zip(split.pixels, split.labels, strict=True):
        colour = Image.open(write_to(bugs, encoded(label, ".png"))).getpixel((0, 0))
        assert (pixels == torch.tensor(colour, dtype=torch.uint8)).all()


def write_to(folder, content: bytes):
    write(folder.parent / "one.png", content)
    return folder.parent / "one.png"


def test_every_size_and_every_content_has_its_own_cache(bugs, openings):
    first = pinned_set(bugs, train=2)
    for size in (SIZE, 2 * SIZE, SIZE):
        assert load(first, size).splits["train"].pixels.shape == (6, size, size, 3)
    second = pinned_set(bugs, train=3)
    assert second.fingerprint != first.fingerprint
    assert len(load(second, SIZE).splits["train"].labels) == 9
    assert len(load(first, SIZE).splits["train"].labels) == 6  # what was decoded before is still known
    assert sorted(f.name for f in (cache_root() / "decoded").iterdir()) == sorted(
        [f"{first.fingerprint}-16", f"{first.fingerprint}-32", f"{second.fingerprint}-16"]
    )


def test_a_tree_comes_back_from_the_cache(bugs):
    paths = {c: ("root", c) for c in ("ant", "bee", "cat")}
    write(bugs / "wordnet.json", json.dumps({c: {"path": [{"wnid": n} for n in p]} for c, p in paths.items()}))
    assert load(pinned_set(bugs, train=1), SIZE).tree.paths == paths


def test_half_a_cache_is_made_again(bugs, openings):
    wanted = pinned_set(bugs, train=2, test=1)
    load(wanted, SIZE)
    images._decoded.cache_clear()
    folder = cache_root() / "decoded" / f"{wanted.fingerprint}-{SIZE}"
    (folder / "about.json").unlink()  # it comes last
    (folder / "test.npy").unlink()
    openings.clear()
    assert len(load(wanted, SIZE).splits["test"].labels) == 3
    assert openings == ["bugs"]


@pytest.mark.parametrize("name", ["train.npy", "about.json"])
@pytest.mark.parametrize("share", [0, 0.9])
def test_a_damaged_cache_is_made_again(bugs, openings, name, share):
    wanted = pinned_set(bugs, train=2)
    pixels = load(wanted, SIZE).splits["train"].pixels.clone()
    images._decoded.cache_clear()
    file = cache_root() / "decoded" / f"{wanted.fingerprint}-{SIZE}" / name
    os.truncate(file, int(share * file.stat().st_size))
    openings.clear()
    assert torch.equal(load(wanted, SIZE).splits["train"].pixels, pixels)
    assert openings == ["bugs"]


def test_a_manifest_that_is_damaged_is_named(bugs):
    pinned_set(bugs, train=2)
    catalog.local_path().write_text('{"bugs": ')
    with pytest.raises(
        UserError, match=r"manifest \(=.*manifest.json\): is no JSON; restore it, or delete it and pin the sets again"
    ):
        ImageSet("bugs")


def test_another_set_than_the_one_that_was_named(bugs):
    pinned_set(bugs, train=2)
    found = catalog.pinned("bugs")["fingerprint"]
    message = (
        rf"bugs fingerprint \(={found}\): the trials name 0123456789abcdef; if this set is meant: .* data pin bugs"
    )
    with pytest.raises(UserError, match=message):
        load(ImageSet("bugs", "0123456789abcdef"), SIZE)
    assert not (cache_root() / "decoded").exists()


def test_a_cache_that_cannot_be_written(bugs):
    wanted = pinned_set(bugs, train=2)
    write(cache_root(), "a file is in the way")
    with pytest.raises(UserError, match=r"cache \(=.*\): cannot be written"):
        load(wanted, SIZE)


@pytest.mark.parametrize("name", ["bugs", "synthetic:source"])
def test_a_disk_that_fills_up_halfway(bugs, monkeypatch, name):
    monkeypatch.setattr(images, "synthetic_set", images.synthetic_set.__wrapped__)
    monkeypatch.setattr(synthetic, "PER_CLASS", {"source": {"train": 2, "validation": 1, "test": 1}})
    wanted = ImageSet(name) if name.startswith("synthetic") else pinned_set(bugs, train=2, test=1)

    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(
            DiskError, match=r"file \(=.*train.npy\): cannot be written \(No space left on device\); free the disk"
        ):
            load(wanted, SIZE)
    assert [p for p in cache_root().rglob("*") if p.is_file()] == []
    assert len(load(wanted, SIZE).splits["test"].labels) > 0  # and goes on when there is space


def test_what_the_dead_left_half_written_goes(bugs):
    wanted = pinned_set(bugs, train=2)
    old, new = (cache_root() / "decoded" / "another-16" / f".train.npy.{pid}-00" for pid in (1, 2))
    write(old, "half")
    write(new, "half")
    os.utime(old, (0, 0))
    load(wanted, SIZE)
    assert (old.exists(), new.exists()) == (False, True)


def test_an_image_that_turns_unreadable_is_named(bugs, monkeypatch):
    wanted = pinned_set(bugs, train=2)

    def broken(file):
        raise OSError("codec is gone")

    monkeypatch.setattr(Image, "open", broken)
    with pytest.raises(UserError, match=r"image \(=train0/00.png\): cannot be read \(OSError: codec is gone\)"):
        load(wanted, SIZE)


def test_more_pieces_than_are_decoded_ahead(bugs, monkeypatch):
    monkeypatch.setattr(images, "AT_ONCE", 2)
    monkeypatch.setattr(images, "AHEAD", 2)
    split = load(pinned_set(bugs, train=5), SIZE).splits["train"]
    monkeypatch.undo()
    assert torch.equal(split.pixels, pixels_of(split.labels))


def pixels_of(labels) -> torch.Tensor:
    return torch.tensor([colour(label) for label in labels], dtype=torch.uint8)[:, None, None].expand(
        -1, SIZE, SIZE, -1
    )


LARGE = """
import sys, threading, time
from pathlib import Path
import torch
from transferlab.data.images import load, target_sample
from transferlab.data.pinning import pin
from transferlab.nets.build import build
from transferlab.specs import AlexNet, ImageSet, Recipe, Target
from transferlab.train.fit import fit
from transferlab.train.run import Run, Stream

def held() -> int:
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) // 1024

def watch() -> None:
    while True:
        seen.append(held())
        time.sleep(0.02)

torch.set_num_threads(1)
start, seen = held(), []
threading.Thread(target=watch, daemon=True).start()
name = sys.argv[1]
pin(name)
assert len(load(ImageSet(name), 224).splits["train"].labels) == 8000
sample = target_sample(Target(name, 224), "train", 0)
net = build(AlexNet((4, 8, 8, 8, 8), (32, 32)), 224, sample.classes, 0)
fitted = fit(Run(net, (Stream(sample, 0),), Recipe(steps=2, batch=32, lr=0.01), 0))
assert len(fitted.losses) == 2
print(max(seen) - start)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_set_larger_than_memory_is_decoded_and_trained_on(tmp_path):
    """1.2 GB of pixels never lie in anonymous memory."""
    for label in range(4):
        for split, count in {"train": 2000, "test": 2}.items():
            folder = tmp_path / "set" / split / f"class{label}"
            paint(folder / "0.bmp", label)
            for number in range(1, count):
                (folder / f"{number}.bmp").hardlink_to(folder / "0.bmp")
    command = [sys.executable, "-c", LARGE, f"folder:{tmp_path}/set"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 400


# ------------------------------------------------------------------------------------------------------------ pin


def broken_set(bugs):
    """Two of nine images are unreadable: no image at all, and half of one."""
    content = rows(3)
    content[1]["image"]["bytes"] = b"this is text"
    whole = encoded(2, ".jpg", (64, 64))
    content[8]["image"]["bytes"] = whole[: len(whole) // 2]
    write_set(bugs, train=content, test=rows(1))


def test_unreadable_images_are_counted_and_named(bugs):
    broken_set(bugs)
    message = (
        r"data set \(=bugs\): 2 unreadable images \(train/0/01.png, train/2/02.png\); leave out with --skip-unreadable"
    )
    with pytest.raises(UserError, match=message):
        pin("bugs")
    assert catalog.local() == {}


def test_what_is_passed_over_is_noted(tmp_path):
    for path in ("a/0.png", "a/1.png", "b/0.png", "b/1.png", "a/.hidden.png", "a/2.txt", "a/1.txt"):
        write(tmp_path / "set" / path, encoded(0, ".png"))
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "set/b/film.gif", save_all=True, append_images=frames[1:])
    entry = pin(f"folder:{tmp_path}/set")
    assert entry["passed"] == {"hidden": [1, "a/.hidden.png"], "other suffixes": [2, "a/1.txt, a/2.txt"]}
    assert (entry["several"], entry["splits"]) == (1, {"train": 3, "test": 2})


def test_an_image_that_is_damaged_goes_and_one_of_its_name_stays(bugs):
    write_set(bugs, train=[*rows(2), row(0, "0/00.png", b"damaged")])
    entry = pin("bugs", skip_unreadable=True)
    assert (entry["splits"], len(entry["skipped"])) == ({"train": 6}, 1)
    assert load(ImageSet("bugs"), SIZE).splits["train"].labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_too_large_images_are_called_so(bugs, monkeypatch):
    write_set(bugs, train=[*rows(1), row(0, "broken", b""), row(0, "large", encoded(0, ".png", (40, 40)))])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    wanted = (
        r"1 unreadable image \(train/broken\), 1 too large \(train/large; allow with TRANSFERLAB_MAX_PIXELS=1600\); "
        r"leave out with --skip-unreadable; train/broken: cannot be read \(empty\)$"
    )
    with pytest.raises(UserError, match=wanted):
        pin("bugs")


def test_only_a_few_unreadable_images_are_named(bugs):
    write_set(bugs, train=[row(c, f"{c}{i}", b"") for c in range(3) for i in range(2)])
    with pytest.raises(UserError, match=r"6 unreadable images \(train/00, train/01, train/10 ...\)"):
        pin("bugs")


def test_unreadable_images_stay_out(bugs):
    broken_set(bugs)
    entry = pin("bugs", skip_unreadable=True)
    assert entry["skipped"] == ["train/0/01.png", "train/2/02.png"]
    assert entry["splits"] == {"train": 7, "test": 3}
    assert catalog.pinned("bugs") == entry
    decoded = load(ImageSet("bugs"), SIZE)
    assert decoded.splits["train"].names == [
        "0/00.png",
        "0/02.png",
        "1/00.png",
        "1/01.png",
        "1/02.png",
        "2/00.png",
        "2/01.png",
    ]
    assert len(target_sample(Target("bugs", SIZE), "test", 0).labels) == 3


def test_nothing_readable_is_left(bugs):
    write_set(bugs, train=[row(c, str(c), b"") for c in range(3)])
    with pytest.raises(UserError, match="has no images"):
        pin("bugs", skip_unreadable=True)


def test_pin_says_what_is_in_a_set(bugs):
    write_set(bugs, train=rows(2), test=rows(1))
    entry = pin("bugs")
    assert entry.keys() == {"fingerprint", "classes", "splits", "names"}
    assert (entry["classes"], entry["splits"]) == (3, {"train": 6, "test": 3})
    named = {
        "test": ["2/00.png", "0/00.png", "1/00.png"],
        "train": [f"{c}/0{i}.png" for c in range(3) for i in range(2)],
    }
    assert entry["names"] == pinning.names_digest(named)
    assert catalog.names()[-1] == "bugs"
    assert json.loads(catalog.local_path().read_text()) == {"bugs": entry}


def test_the_published_set_needs_no_entry_of_its_own(bugs, monkeypatch):
    write_set(bugs, train=rows(2))
    entry = pin("bugs")
    pin_another = pinned_set(data_root() / "others", "others", train=1)
    monkeypatch.setattr(catalog, "packaged", lambda: {"bugs": entry})
    assert pin("bugs") == entry  # an entry that was there goes ...
    assert catalog.local().keys() == {"others"}
    assert catalog.pinned("bugs") == entry
    assert catalog.pinned("others")["fingerprint"] == pin_another.fingerprint


def test_pin_replaces_an_entry_that_is_out_of_date(bugs, monkeypatch):
    write_set(bugs, train=rows(2))
    published = pinning.describe(pinning.open_set("bugs"))
    monkeypatch.setattr(catalog, "packaged", lambda: {"bugs": published})
    write_set(bugs, train=rows(3))
    mine = pin("bugs")
    assert catalog.pinned("bugs") == mine != published
    write_set(bugs, train=rows(2))
    assert pin("bugs") == published
    assert catalog.pinned("bugs") == published  # ... also one of another set
    assert catalog.local() == {}


def test_the_published_set_and_a_broken_image_beside_it(bugs, monkeypatch):
    """What is left is the published set, but what was left out must be kept in mind."""
    write_set(bugs, train=rows(2))
    published = pinning.describe(pinning.open_set("bugs"))
    monkeypatch.setattr(catalog, "packaged", lambda: {"bugs": published})
    write_set(bugs, train=[*rows(2), row(0, "odd.png", b"")])
    assert pin("bugs", skip_unreadable=True)["fingerprint"] == published["fingerprint"]
    assert len(load(ImageSet("bugs"), SIZE).splits["train"].labels) == 6


def test_weights_are_pinned_by_their_bytes():
    write(weights_root() / "net.pt", b"abc")
    assert pin("file:net.pt") == {"fingerprint": "ba7816bf8f01cfea"}
    assert catalog.pinned("file:net.pt") == {"fingerprint": "ba7816bf8f01cfea"}
    with pytest.raises(UserError, match=r"weights \(=.*other.pt\): there is no such file; set TRANSFERLAB_WEIGHTS"):
        pin("file:other.pt")


# -------------------------------------------------------------------------------------------------------- samples


def names_of(sample: Sample, images: ImageSet, split: str) -> list[str]:
    """The names of a sample's images."""
    return [load(images, SIZE).splits[split].names[i] for i in sample.rows]


def read(wanted: ImageSet, split: str, seed: int = 0, **subset) -> Sample:
    return target_sample(Target(wanted, SIZE, Subset(**subset)), split, seed)


@pytest.mark.parametrize(
    ("stored", "counts"),
    [
        ({"train": 10}, {"train": 24, "validation": 6}),
        ({"train": 10, "validation": 2}, {"train": 24, "validation": 6, "test": 6}),
        ({"train": 10, "test": 2}, {"train": 24, "validation": 6, "test": 6}),
        ({"train": 10, "validation": 3, "test": 2}, {"train": 30, "validation": 9, "test": 6}),
        ({"validation": 2}, {"test": 6}),
        ({"test": 2}, {"test": 6}),
    ],
    ids=lambda splits: "+".join(splits),
)
def test_what_stands_in_for_a_split(bugs, stored, counts):
    wanted = pinned_set(bugs, **stored)
    for split in ("train", "validation", "test"):
        if split in counts:
            assert len(read(wanted, split).labels) == counts[split]
        else:
            with pytest.raises(
                UserError, match=rf"data set \(=bugs\): has no {'test' if split == 'test' else 'train'} images"
            ):
                read(wanted, split)


def test_a_set_with_validation_and_test_uses_them(bugs):
    wanted = pinned_set(bugs, train=3, validation=2, test=2)
    for split in ("train", "validation", "test"):
        assert names_of(read(wanted, split), wanted, split) == load(wanted, SIZE).splits[split].names


def test_a_set_without_test_images_is_tested_on_its_validation_images(bugs):
    wanted = pinned_set(bugs, train=10, validation=2)
    test = read(wanted, "test")
    assert names_of(test, wanted, "validation") == load(wanted, SIZE).splits["validation"].names
    assert torch.equal(
        read(wanted, "validation").pixels, read(wanted, "train").pixels
    )  # and validated on training images


def test_validation_images_are_taken_from_training_images(bugs):
    wanted = pinned_set(bugs, train=10, test=2)
    train, held = (names_of(read(wanted, split), wanted, "train") for split in ("train", "validation"))
    assert not set(train) & set(held)
    assert sorted(train + held) == load(wanted, SIZE).splits["train"].names
    assert read(wanted, "validation").labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert names_of(read(wanted, "validation", seed=0), wanted, "train") == held
    assert names_of(read(wanted, "validation", seed=1), wanted, "train") != held
    assert names_of(read(wanted, "test", seed=1), wanted, "test") == names_of(read(wanted, "test"), wanted, "test")


def test_a_smaller_training_sample_is_validated_on_the_same_images(bugs):
    wanted = pinned_set(bugs, train=10, test=2)
    few = read(wanted, "train", per_class=3)
    assert few.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert set(names_of(few, wanted, "train")) < set(names_of(read(wanted, "train"), wanted, "train"))
    for split in ("validation", "test"):
        assert torch.equal(read(wanted, split, per_class=3).rows, read(wanted, split).rows)


def test_more_images_than_a_class_has_after_validation(bugs):
    wanted = pinned_set(bugs, train=10, test=2)
    with pytest.raises(UserError, match=r"per_class \(=9\): the smallest class has only 8 images"):
        read(wanted, "train", per_class=9)


def test_classes_are_numbered_anew_in_every_split(bugs):
    wanted = pinned_set(bugs, train=5, test=2)
    for split, there in {"train": "train", "validation": "train", "test": "test"}.items():
        whole, part = read(wanted, split), read(wanted, split, classes=("cat", "ant"))
        assert (part.classes, whole.classes) == (2, 3)
        by_name = dict(zip(names_of(whole, wanted, there), whole.labels.tolist(), strict=True))
        for name, label in zip(names_of(part, wanted, there), part.labels.tolist(), strict=True):
            assert ("cat", "ant")[label] == ("ant", "bee", "cat")[by_name[name]]
        assert torch.equal(read(wanted, split, exclude=("bee",)).labels, 1 - part.labels)


def source(wanted: ImageSet, seed: int = 0, **subset) -> Sample:
    return source_sample(Source(wanted, SIZE, RECIPE, Subset(**subset)), seed)


def test_a_grey_source_is_the_coloured_one_with_a_flag(bugs):
    source = Source(pinned_set(bugs, train=5, test=2), SIZE, RECIPE, Subset(per_class=2))
    coloured, bare = source_sample(source, 1), source_sample(replace(source, grey=True), 1)
    assert (coloured.grey, bare.grey) == (False, True)
    assert bare.pixels is coloured.pixels
    assert torch.equal(coloured.labels, bare.labels)
    assert torch.equal(coloured.rows, bare.rows)
    assert source.canonical == replace(source, grey=None).canonical


def test_a_sample_knows_where_it_is_from(bugs):
    wanted = pinned_set(bugs, train=5, validation=2)
    for split, stored in {"train": "train", "validation": "train", "test": "validation"}.items():
        sample = read(wanted, split)
        assert (sample.images, sample.size, sample.split, sample.grey) == (wanted, SIZE, stored, False)


def test_a_long_tail_is_in_the_training_images_alone(bugs):
    wanted = pinned_set(bugs, train=10, test=2)
    assert sorted(np.bincount(read(wanted, "train", tail=4.0).labels).tolist()) == [2, 4, 8]
    for split in ("validation", "test"):
        assert torch.equal(read(wanted, split, tail=4.0).rows, read(wanted, split).rows)


def test_source_samples_are_nested(bugs):
    wanted = pinned_set(bugs, train=50, test=1)
    drawn = {n: set(source(wanted, per_class=n).rows.tolist()) for n in (5, 20, 50)}
    assert drawn[5] < drawn[20] < drawn[50] == set(range(150))
    assert drawn[20] != set(source(wanted, seed=1, per_class=20).rows.tolist())
    assert torch.equal(source(wanted).rows, torch.arange(150))  # a source gives nothing up for validation


def test_a_source_needs_training_images(bugs):
    with pytest.raises(UserError, match=r"data set \(=bugs\): has no train images"):
        source(pinned_set(bugs, validation=2))


def test_a_folder_is_a_target(tmp_path):
    for label in range(2):
        for number in range(10):
            paint(tmp_path / "set" / "ab"[label] / f"{number}.png", label)
    name = f"folder:{tmp_path}/set"
    with pytest.raises(UserError, match=f"not pinned yet; pin it with: transferlab data pin {name}"):
        Target(name, SIZE)
    assert pin(name)["splits"] == {"train": 16, "test": 4}
    assert [len(target_sample(Target(name, SIZE), split, 0).labels) for split in ("train", "validation", "test")] == [
        12,
        4,
        4,
    ]


def test_the_synthetic_world_is_a_set_like_any_other():
    target = Target("synthetic:0", SIZE, Subset(classes=4, per_class=3))
    for split, each in {"train": 3, "validation": 10, "test": 20}.items():
        sample = target_sample(target, split, 0)
        assert sample.labels.tolist() == [c for c in range(4) for _ in range(each)]
        assert sample.pixels[sample.rows].shape == (4 * each, SIZE, SIZE, 3)
    other = target_sample(replace(target, images=ImageSet("synthetic:1")), "train", 0)
    assert torch.equal(other.rows, target_sample(target, "train", 0).rows)
    assert not torch.equal(other.pixels, target_sample(target, "train", 0).pixels)


def test_samples_on_a_device_share_their_split_unless_it_is_too_large(monkeypatch):
    pixels = torch.arange(5, dtype=torch.uint8)[:, None, None, None].repeat(1, 2, 2, 3)
    sample = Sample(pixels, torch.tensor([4, 1]), torch.tensor([0, 1]), 2)
    assert sample.to(torch.device("cpu")) is sample
    shared = [s.to(torch.device("meta")) for s in (sample, replace(sample, rows=torch.tensor([0, 3])))]
    assert shared[0].pixels is shared[1].pixels
    assert (shared[0].pixels.shape, shared[0].rows.shape, shared[0].labels.shape) == ((5, 2, 2, 3), (2,), (2,))
    monkeypatch.setattr(images, "STAYS", pixels.nbytes - 1)
    own = sample.to(torch.device("meta"))
    assert (own.pixels.shape, own.rows.shape, own.labels.shape, own.classes) == ((2, 2, 2, 3), (2,), (2,), 2)
    assert {t.device.type for t in (own.pixels, own.rows, own.labels)} == {"meta"}
    monkeypatch.setattr(images, "STAYS", 23)  # two images have 24 bytes
    mapped = sample.to(torch.device("meta"))
    assert mapped.pixels is pixels
    assert mapped.rows is sample.rows
    assert mapped.labels.device.type == "meta"


def test_threads_are_as_many_as_our_cores(monkeypatch, tmp_path):
    """Those that the quota of a container leaves us, not those of the node."""
    counts = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, count: int) -> None:
            counts.append(count)
            super().__init__(count)

    for module in (images, pinning):
        monkeypatch.setattr(module, "ThreadPoolExecutor", Pool)
        monkeypatch.setattr(module, "cpu_workers", lambda threads: 3)
    for label, i in itertools.product("ab", range(2)):
        paint(tmp_path / "set" / label / f"{i}.png", i)
    name = f"folder:{tmp_path}/set"
    load(ImageSet(name, pin(name)["fingerprint"]), 8)
    assert counts == [3, 3, 3]  # a look, and two splits
