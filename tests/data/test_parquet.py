"""Parquet files under the names, with the columns and in the states in which people have them."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flat_images import colour, encoded, write
from parquet_sets import IMAGE, row, rows, write_parquet, write_set

from transferlab.data import parquet
from transferlab.data.pinning import pin
from transferlab.data.readers import open_set
from transferlab.errors import UserError
from transferlab.paths import data_root
from transferlab.specs import catalog

COLUMNS = {"image": IMAGE, "label": pa.int64()}


@pytest.fixture
def bugs():
    """Where the set called ``bugs`` belongs."""
    return data_root() / "bugs"


def counts(name: str = "bugs") -> dict[str, int]:
    return {split: len(items) for split, items in open_set(name).splits.items()}


def refused(name: str = "bugs", **columns: str) -> str:
    with pytest.raises(UserError) as caught:
        open_set(name, columns or None)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def put(path, columns: dict, features: dict | None = None, **how) -> None:
    """Write columns, and what the Hugging Face libraries would say of them."""
    about = {"huggingface": json.dumps({"info": {"features": features}})} if features else None
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns).replace_schema_metadata(about), path, **how)


def images(*labels: int, kind: pa.DataType = IMAGE) -> pa.Array:
    """Return a column of flat pictures."""
    named = [{"bytes": encoded(label % 3, ".png"), "path": f"{i}.png"} for i, label in enumerate(labels)]
    return pa.array(named if pa.types.is_struct(kind) else [one["bytes"] for one in named], kind)


# ------------------------------------------------------------------------------------------------------------ splits


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (["train-00000-of-00001", "val-00000-of-00001"], {"train", "validation"}),
        (["train", "valid", "test"], {"train", "validation", "test"}),
        (["data/train-00000-of-00001", "data/dev-00000-of-00001"], {"train", "validation"}),
        (
            ["data/train-00000-of-00001-b42a775f407cee45", "data/test-00000-of-00001-30c58cc58b5dd3ee"],
            {"train", "test"},
        ),
        (["default/train/0000", "default/validation/0000"], {"train", "validation"}),
        (["default/partial-train/0000", "default/partial-test/0000"], {"train", "test"}),
        (["train/part-00000-1f0c-c000.snappy", "test/part-00000-77aa-c000.snappy"], {"train", "test"}),
        (["split=train/0", "split=test/0"], {"train", "test"}),
        (["TRAIN", "Testing_01"], {"train", "test"}),
        (["bugs_train", "bugs_test"], {"train", "test"}),
        (["training_set/x", "eval/x"], {"train", "validation"}),
    ],
)
def test_names_of_splits(bugs, files, splits):
    for number, file in enumerate(files):
        write_parquet(bugs / f"{file}.parquet", rows(number + 1))
    assert {*counts()} == splits
    assert sorted(counts().values()) == [3, 6, 9][: len(files)]


def test_files_of_no_split_give_up_a_fifth(bugs):
    write_parquet(bugs / "0000.parquet", rows(5))
    write_parquet(bugs / "0001.parquet", rows(5, prefix="more/"))
    assert counts() == {"train": 24, "test": 6}


def test_a_single_file(bugs):
    write_parquet(bugs / "train.parquet", rows(2))
    assert counts("bugs/train.parquet") == {"train": 6}
    (bugs / "train.parquet").rename(data_root() / "whole.PARQUET")
    assert counts("whole.PARQUET") == {"train": 3, "test": 3}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["coarse/train/0000", "fine/train/0000"],
            "holds several sets (coarse, fine); name the folder of one, bugs/FOLDER",
        ),
        (
            ["data/train-0", "default/train/0"],
            "holds several sets (data, default); name the folder of one, bugs/FOLDER",
        ),
        (["old/train-0", "train-0"], "holds several sets (., old); name the folder of one, bugs/FOLDER"),
        (["ants_train", "bees_train"], "holds several sets (ants, bees); name the folder of one, bugs/FOLDER"),
        (["train-0", "val-0", "validation-0"], "val and validation are both validation; keep one of them"),
    ],
)
def test_several_readings(bugs, files, message):
    for file in files:
        write_parquet(bugs / f"{file}.parquet", rows(1))
    assert refused() == f"data set (=bugs): {message}"
    if "fine/" in files[1]:
        assert counts("bugs/fine") == {"train": 3}


def test_what_is_passed_over_is_counted(bugs):
    write_set(bugs, train=rows(1))
    write_parquet(bugs / "extra-00000-of-00001.parquet", rows(1))
    write_parquet(bugs / "test-00001-of-00003.parquet", rows(1))
    write(bugs / "README.md", "about")
    write(bugs / ".cache/train.parquet", "half")
    (bugs / "test-gone.parquet").symlink_to(bugs / "nowhere")
    assert {kind: names for kind, names in open_set("bugs").passed.items() if names} == {
        "of no split": ["extra-00000-of-00001.parquet"],
        "files not there": ["test-00000-of-00003", "test-00002-of-00003"],
        "other suffixes": ["README.md"],
        "broken links": ["test-gone.parquet"],
        "hidden": [".cache/train.parquet"],
    }


def test_folders_without_parquet_files(bugs):
    write(bugs / "ant/0.png", encoded(0))
    told = (
        f"the folder of image sets, or name a folder of images folder:{bugs}; passed over: other suffixes 1 (ant/0.png)"
    )
    assert refused().endswith(told)


# ----------------------------------------------------------------------------------------------------------- columns


@pytest.mark.parametrize(
    ("image", "label"), [("img", "label"), ("image", "labels"), ("picture", "fine_label"), ("jpg", "cls_class")]
)
def test_columns_by_other_names(bugs, image, label):
    put(bugs / "train.parquet", {"id": [7, 8, 9], label: [0, 1, 2], image: images(0, 1, 2)})
    items = open_set("bugs").splits["train"]
    assert [i.label for i in items] == [0, 1, 2]
    assert all(np.array_equal(np.asarray(i.image())[0, 0], colour(i.label)) for i in items)


def test_columns_by_their_types(bugs):
    """As CIFAR-100 has them, with one label."""
    told = {"photograph": {"_type": "Image"}, "kind": {"_type": "ClassLabel", "names": ["ant", "bee"]}}
    put(bugs / "train.parquet", {"photograph": images(0, 1), "kind": [1, 0], "mask": images(0, 0)}, told)
    opened = open_set("bugs")
    assert opened.classes == ("ant", "bee")
    assert [i.path for i in opened.splits["train"]] == ["1.png", "0.png"]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.struct({"bytes": pa.binary()})])
def test_images_as_plain_bytes(bugs, kind):
    column = images(0, 1, kind=pa.binary())
    column = pa.array([{"bytes": v.as_py()} for v in column], kind) if pa.types.is_struct(kind) else column.cast(kind)
    put(bugs / "train.parquet", {"image": column, "label": [0, 1]})
    items = open_set("bugs").splits["train"]
    assert [i.path for i in items] == ["train/0", "train/1"]
    assert [tuple(np.asarray(i.image())[0, 0]) for i in items] == [tuple(colour(0)), tuple(colour(1))]


@pytest.mark.parametrize("kind", [pa.binary_view(), pa.binary(400), pa.large_binary()])
@pytest.mark.parametrize("text", [pa.string_view(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_however_bytes_and_text_are_stored(bugs, kind, text):
    content = [encoded(label, ".png").ljust(400, b"\0") for label in range(2)]
    put(bugs / "train.parquet", {"image": pa.array(content, kind), "label": pa.array(["b", "a"]).cast(text)})
    opened = open_set("bugs")
    assert opened.classes == ("a", "b")
    assert [tuple(np.asarray(i.image())[0, 0]) for i in opened.splits["train"]] == [colour(1), colour(0)]


def test_columns_that_are_there_twice(bugs):
    bugs.mkdir(parents=True)
    table = pa.Table.from_arrays([images(0, 1), images(0, 1), pa.array([0, 1])], names=["image", "image", "label"])
    pq.write_table(table, bugs / "train.parquet")
    assert refused().endswith("train.parquet): must have one column image, and not several label")


def test_several_columns_are_listed_and_one_can_be_named(bugs):
    put(
        bugs / "train.parquet",
        {"img": images(0, 1, 2, 3), "fine_label": [0, 1, 2, 3], "coarse_label": [0, 0, 1, 1]},
        {
            c: {"_type": "ClassLabel", "names": list(names)}
            for c, names in (("fine_label", "abcd"), ("coarse_label", "xy"))
        },
    )
    assert refused() == (
        f"Parquet file (={bugs}/train.parquet): fine_label and coarse_label may all be that of the labels; "
        "columns: img, fine_label, coarse_label; name one with: transferlab data pin bugs --label COLUMN"
    )
    assert open_set("bugs", {"label": "fine_label"}).classes == ("a", "b", "c", "d")
    assert pin("bugs", columns={"label": "coarse_label"})["columns"] == {"label": "coarse_label"}
    assert open_set("bugs").classes == ("x", "y")  # as it was pinned
    assert pin("bugs") == catalog.pinned("bugs")
    assert catalog.pinned("bugs")["columns"] == {"label": "coarse_label"}
    assert refused(label="lable").startswith(
        "label column (=lable): train.parquet has no such column of labels; columns: "
    )
    assert refused(image="fine_label").startswith(
        "image column (=fine_label): train.parquet has no such column of images"
    )
    with pytest.raises(UserError, match=r"columns \(=x\): are named of Parquet files only"):
        open_set("folder:x", {"label": "x"})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": IMAGE}, "has no column that may be that of the labels; columns: image; name one with: "),
        ({"label": pa.int64()}, "has no column that may be that of the images; columns: label; name one with: "),
        ({"picture": pa.int64()}, "has no column that may be that of the images; columns: picture; name one with: "),
        (
            {"image": IMAGE, "label": pa.list_(pa.int64())},
            "label (=list<element: int64>) must be whole numbers or text",
        ),
        (
            {"img": IMAGE, "picture": IMAGE, "label": pa.int64()},
            "img and picture may all be that of the images; columns",
        ),
    ],
)
def test_columns_that_will_not_do(bugs, columns, message):
    write_parquet(bugs / "train-0.parquet", [], schema=columns)
    assert message in refused()


# ------------------------------------------------------------------------------------------------------------ labels


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_labels_as_text(bugs, kind):
    put(bugs / "train.parquet", {"image": images(0, 1, 2), "label": pa.array(["bee", " ant", "bee"]).cast(kind)})
    put(bugs / "test.parquet", {"image": images(0, 1), "label": pa.array(["caf\u00e9", "cafe\u0301"])})
    opened = refused()
    assert opened == "data set (=bugs): class caf\u00e9 has no train images"  # one class, written in two ways
    (bugs / "test.parquet").unlink()
    assert open_set("bugs").classes == ("ant", "bee")
    assert [i.label for i in open_set("bugs").splits["train"]] == [0, 1, 1]


def test_numbers_without_names_are_their_own(bugs):
    put(bugs / "train.parquet", {"image": images(0, 1, 2), "label": [10, 9, 10]})
    opened = open_set("bugs")
    assert opened.classes == ("9", "10")
    assert [i.label for i in opened.splits["train"]] == [0, 1, 1]
    put(bugs / "test.parquet", {"image": images(0, 1), "label": ["a", "b"]})
    assert refused() == "data set (=bugs): labels are text in some rows, and numbers in others"


def test_rows_without_a_label_or_an_image(bugs):
    put(bugs / "train.parquet", {"image": images(0, 1, 2, 0), "label": [0.0, 1.0, float("nan"), None]})
    put(bugs / "validation.parquet", {"image": images(0, 1), "label": pa.array([None, None], pa.null())})
    put(bugs / "test.parquet", {"image": images(0, 1)})  # as of a competition
    put(bugs / "extra/test-1.parquet", {"image": images(0), "label": [-1]})
    (bugs / "extra/test-1.parquet").rename(bugs / "test1.parquet")
    write_parquet(bugs / "train2.parquet", [row(0, None, b"") | {"image": None}, row(1, "more.png")], ())
    opened = open_set("bugs")
    assert {split: len(items) for split, items in opened.splits.items()} == {"train": 3}
    assert opened.passed["rows without a label"] == [
        *(f"train.parquet row {i}" for i in (2, 3)),
        *(f"validation.parquet row {i}" for i in (0, 1)),
        *(f"test.parquet row {i}" for i in (0, 1)),
        "test1.parquet row 0",
    ]
    assert opened.passed["rows without an image"] == ["train2.parquet row 0"]
    put(bugs / "train.parquet", {"image": images(0, 1), "label": [0.5, 1.0]})
    assert refused() == "label (=0.5): train.parquet row 0: must be a whole number"


def test_decimals_are_numbers(bugs):
    put(bugs / "train.parquet", {"image": images(0, 1), "label": pa.array([Decimal("9.00"), Decimal(10)])})
    assert open_set("bugs").classes == ("9", "10")


def test_paths_of_another_machine_and_texts_that_are_none(bugs):
    for name in ("a/0.png", "b/0.png"):
        write(bugs / "pictures" / name, encoded(name[0] == "b", ".png"))
    put(bugs / "train.parquet", {"image": [f"/home/me/pictures/{c}/0.png" for c in "ab"], "label": [0, 1]})
    opened = open_set("bugs")
    assert [tuple(np.asarray(i.image())[0, 0]) for i in opened.splits["train"]] == [colour(0), colour(1)]
    assert not opened.passed["other suffixes"]
    put(bugs / "train.parquet", {"image": ["x" * 9000] * 2, "label": [0, 1]})
    assert refused().endswith("train.parquet row 0: image is a long text, and names no file")


def test_linked_folders_are_read_and_closed_ones_named(bugs, tmp_path, monkeypatch):
    write_set(tmp_path / "elsewhere", train=rows(1))
    write_set(bugs / "closed", test=rows(1))
    (bugs / "data").symlink_to(tmp_path / "elsewhere")
    really = os.scandir

    def scandir(place):
        if str(place).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return really(place)

    monkeypatch.setattr(os, "scandir", scandir)
    assert counts() == {"train": 3}
    assert open_set("bugs").passed["folders that cannot be read"] == ["closed"]


# ------------------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("kind", [IMAGE, pa.string()])
def test_paths_without_bytes_are_looked_for_beside_the_file(bugs, kind):
    paths = ["a.png", "pictures/b.png", "C:\\data\\c.png", "gone.png"]
    for place, label in (("a.png", 0), ("pictures/b.png", 1), ("data/c.png", 2)):
        write(bugs / place, encoded(label, ".png"))
    column = pa.array([{"path": p} for p in paths] if kind == IMAGE else paths, kind)
    put(bugs / "data/train.parquet", {"image": column, "label": [0, 1, 2, 2]})
    opened = open_set("bugs")
    *found, gone = opened.splits["train"]
    assert [i.path for i in opened.splits["train"]] == paths
    assert not opened.passed["other suffixes"]
    assert [tuple(np.asarray(i.image())[0, 0]) for i in found[:2]] == [tuple(colour(0)), tuple(colour(1))]
    with pytest.raises(UserError, match=r"image \(=gone.png\): cannot be read \(FileNotFoundError"):
        gone.image()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "is a Git LFS pointer, not the file itself; ",
        ),
        (b"", "is empty; fetch it again"),
        (b"PAR1", "cannot be read ("),
    ],
)
def test_what_is_no_parquet_file(bugs, content, message):
    write_set(bugs, train=rows(1))
    write(bugs / "test-0.parquet", content)
    assert refused().startswith(f"Parquet file (={bugs}/test-0.parquet): {message}")


def test_a_damaged_page(bugs):
    path = write_set(bugs, train=rows(9)) / "train-00000-of-00001.parquet"
    content = bytearray(path.read_bytes())
    content[4:40] = bytes(36)
    path.write_bytes(content)
    assert refused().startswith(f"Parquet file (={path}): cannot be read (")


@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "brotli", "zstd", "lz4"])
def test_every_compression(bugs, codec):
    put(bugs / "train.parquet", {"image": images(0, 1), "label": [0, 1]}, compression=codec)
    assert counts() == {"train": 2}


def test_files_are_never_in_memory_as_a_whole(bugs, monkeypatch):
    """A single row group of 16 MB: when an image is taken out, Arrow holds a few of them."""
    contents = [i.to_bytes(8, "big") + bytes(1 << 18) for i in range(64)]
    column = pa.array([{"bytes": c, "path": None} for c in contents], IMAGE)
    put(bugs / "train.parquet", {"image": column, "label": [0, 1] * 32}, write_batch_size=1, compression="none")
    assert pq.ParquetFile(bugs / "train.parquet").metadata.num_row_groups == 1
    del column
    before, held, put_in = pa.total_allocated_bytes(), [], parquet._Spool.put
    monkeypatch.setattr(parquet, "HELD", 1 << 20)
    monkeypatch.setattr(parquet, "IN_MEMORY", 1 << 20)
    monkeypatch.setattr(
        parquet._Spool, "put", lambda spool, c: held.append(pa.total_allocated_bytes()) or put_in(spool, c)
    )
    items = open_set("bugs").splits["train"]
    assert len(held) == 64
    assert max(held) - before < 6 << 20
    with ThreadPoolExecutor() as pool:
        assert {*pool.map(lambda item: item.load(), items)} == {*contents}
