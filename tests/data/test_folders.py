"""Folders of images of every shape: what is read, what is passed over, and what is refused because it is open."""

import os
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from flat_images import encoded, write
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from transferlab.data.readers import open_set
from transferlab.errors import UserError

PNG = encoded(0, ".png")


def spread(pattern: str) -> list[str]:
    """Return paths: ``a,b/c/0-2.png`` are nine, images 0 to 2 of a/c and of b/c."""
    paths = [""]
    for part in pattern.split("/"):
        stem, _, last = part.partition("-")
        first = stem.rpartition(".")[2][-1:]
        names = part.split(",")
        if last[:1].isdecimal() and first.isdecimal():
            names = [f"{stem[:-1]}{n}{last[1:]}" for n in range(int(first), int(last[0]) + 1)]
        paths = [f"{path}/{name}" if path else name for path in paths for name in names]
    return paths


def made(folder: Path, *patterns: str, **tables: str) -> str:
    """Write images where the patterns say, and tables; return the set's name."""
    for path in (path for pattern in patterns for path in spread(pattern)):
        write(folder / path, PNG if path.endswith(("g", "G")) else b"text")
    for name, text in tables.items():
        write(folder / f"{name}.csv", text)
    return f"folder:{folder}"


def counts(name: str) -> dict:
    opened = open_set(name)
    return {s: dict(Counter(opened.classes[i.label] for i in items)) for s, items in opened.splits.items()}


def passed(name: str) -> dict[str, list[str]]:
    return {kind: names for kind, names in open_set(name).passed.items() if names}


def refused(name: str) -> str:
    with pytest.raises(UserError) as caught:
        open_set(name)
    assert "\n" not in str(caught.value)
    return str(caught.value).partition("): ")[2]


TWO = {"cat": 2, "dog": 2}


@pytest.mark.parametrize(
    ("train", "held", "split"),
    [
        ("Training", "Testing", "test"),
        ("TRAIN", "TEST", "test"),
        ("train", "val", "validation"),
        ("Train", "Valid", "validation"),
        ("training", "dev", "validation"),
        ("train", "eval", "validation"),
        ("train", "Evaluation", "validation"),
        ("seg_train", "seg_test", "test"),
        ("train2017", "val2017", "validation"),
        ("training_set", "test_set", "test"),
        ("trainset", "testset", "test"),
        ("train_images", "test_images", "test"),
        ("pets-train", "pets-validation", "validation"),
        ("1_train", "2_test", "test"),
    ],
)
def test_splits_have_many_names(tmp_path, train, held, split):
    name = made(tmp_path, f"{train},{held}/cat,dog/0-1.png")
    assert counts(name) == {"train": TWO, split: TWO}
    assert passed(name) == {}


@pytest.mark.parametrize(
    "around", ["", "data/", "archive/pets/", "images/"], ids=["none", "one", "two", "called images"]
)
def test_folders_around_a_set(tmp_path, around):
    assert counts(made(tmp_path, f"{around}train,test/cat,dog/0-1.png")) == {"train": TWO, "test": TWO}


def test_folders_around_classes(tmp_path):
    name = made(tmp_path, "Images/cat,dog/0-5.png", "Annotation/cat,dog/0-5.xml")
    assert counts(name) == {"train": {"cat": 5, "dog": 5}, "test": {"cat": 1, "dog": 1}}
    assert len(passed(name)["other suffixes"]) == 12


@pytest.mark.parametrize("inner", ["{}/{}", "{}/images"])
def test_folders_around_the_classes_of_a_split(tmp_path, inner):
    patterns = [inner.format(s, s) + "/cat,dog/0-1.png" for s in ("train", "test")]
    assert counts(made(tmp_path, *patterns)) == {"train": TWO, "test": TWO}


def test_splits_inside_of_classes(tmp_path):
    name = made(tmp_path, "cat,dog/train,test/0-1.png")
    assert counts(name) == {"train": TWO, "test": TWO}
    assert [i.path for i in open_set(name).splits["test"]][:2] == ["cat/test/0.png", "cat/test/1.png"]
    assert refused(made(tmp_path, "cat/Training/0-1.png")).startswith("cat has two folders for train; keep one")


@pytest.mark.parametrize("name", ["train", "Train", "training", "test_tube", "train_station", "valid", "dev", "val"])
def test_a_class_that_is_called_like_a_split(tmp_path, name):
    assert counts(made(tmp_path, f"car,plane,{name}/0-4.png"))["train"] == {"car": 4, "plane": 4, name: 4}


def test_a_class_called_train_with_folders_in_it(tmp_path):
    name = made(tmp_path, "car,plane/old/0-4.png", "train/steam,diesel/0-4.png")
    assert counts(name)["train"] == {"car": 4, "plane": 4, "train": 8}


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["train/cat,dog/0.png", "extra/0.png"], "train can be a split, or a class beside extra; rename train if"),
        (["train,holdout,more/cat,dog/0.png"], "train can be a split, or a class beside holdout, more; rename train"),
        (
            ["cat,dog,test/0.png"],
            "test can be a split, or a class beside cat, dog; rename test if it is a class, else mo",
        ),
        (["cat,dog/0.png", "test/cat,dog/0.png"], "test can be a split, or a class beside cat, dog; rename"),
        (["train,test,plane/0.png"], "test and train can be a split, or a class beside plane; rename"),
        (["train,Training,test/cat,dog/0.png"], "Training and train are both train; keep one, or merge them"),
        (["train,val,valid/cat,dog/0.png"], "val and valid are both validation; keep one"),
        (
            ["a_train,a_test,b_train,b_test/cat,dog/0.png"],
            "holds several sets (a_test, a_train, b_test, b_train); name",
        ),
        (["val,test/cat,dog/0.png"], "has test and validation but no train folder"),
        (["train/0.png", "test/0.png"], "train holds images, but no folders of classes, and no table (.csv) says"),
        (["0-4.png"], "holds no folders of images; wanted: FOLDER/CLASS/image.jpg, or a table (.csv) of their labels"),
        (["train/cat,dog/0.png", "test/unknown/0.png"], "class unknown has no train images"),
        (["train/cat,dog/0.png", "test/Cat,dog/0.png"], "class Cat has no train images (is cat the same class?)"),
        (["train/cat ,dog/0.png", "test/cat,dog/0.png"], "class cat has no train images (is cat  the same class?)"),
        (
            ["cat/0.png", "cat/0.txt"],
            "has one class (('cat',)); at least two are needed; passed over: other suffixes 1",
        ),
    ],
)
def test_what_can_be_read_in_two_ways_or_in_none_is_refused(tmp_path, patterns, message):
    assert refused(made(tmp_path, *patterns)).startswith(message)


def test_images_beside_the_splits_and_without_a_class_are_named(tmp_path):
    name = made(tmp_path, "train,test/cat,dog/0-1.png", "pred/0-1.png", "loose.png", "train/odd.png")
    assert counts(name) == {"train": TWO, "test": TWO}
    assert passed(name) == {
        "beside the splits": ["loose.png", "pred/0.png", "pred/1.png"],
        "without a class": ["train/odd.png"],
    }


def test_a_test_folder_without_classes_is_named(tmp_path):
    name = made(tmp_path, "train/cat,dog/0-1.png", "test/0-1.png")
    assert counts(name) == {"train": TWO}
    assert passed(name) == {"without a label": ["test/0.png", "test/1.png"]}


def test_held_images_in_a_folder_of_images(tmp_path):
    """As Tiny ImageNet is unpacked: ``images`` is no class of the validation images."""
    inner = made(tmp_path / "inner", "train/images/cat,dog/0-1.png", "test/cat,dog/0-1.png")
    assert counts(inner) == {"train": TWO, "test": TWO}
    name = made(tmp_path / "flat", "train/cat,dog/images/0-1.png", "val,test/images/0.png")
    assert counts(name) == {"train": TWO}
    assert passed(name) == {"without a label": ["test/images/0.png", "val/images/0.png"]}


# --------------------------------------------------------------------------------------------------------- tables

LISTED = "file,label\n0.png,cat\n1.png,dog\n2.png,cat\n3.png,dog\n"
READ = {"train": {"cat": 1, "dog": 1}, "test": {"cat": 1, "dog": 1}}


@pytest.mark.parametrize(
    "text",
    [
        LISTED,
        LISTED.replace(".png", ""),
        LISTED.replace(",", ";"),
        LISTED.replace(",", "\t"),
        LISTED.replace("\n", "\r\n"),
        LISTED.partition("\n")[2],
        "\ufeff" + LISTED,
        LISTED.replace("0.png", "images/0.png").replace("1.png", r"C:\\pets\\images\\1.png"),
        "id,width,breed\n0,8,cat\n1,8,dog\n2,8,cat\n3,8,dog\n",
        "class_name,class_id,file\ncat,0,0.png\ndog,1,1.png\ncat,0,2.png\ndog,1,3.png\n",
        LISTED.replace("cat", '"cat"').replace(",", ", "),
        LISTED.replace("file,label", "file,label,caption").replace("t\n", f"t,{'x' * 200_000}\n"),
    ],
)
def test_a_table_of_labels(tmp_path, text):
    name = made(tmp_path, "images/0-3.png", labels=text)
    assert counts(name) == READ
    assert passed(name) == {}


def test_a_table_with_splits(tmp_path):
    text = "file,label,split\n0.png,cat,train\n1.png,dog,train\n2.png,cat,val\n3.png,dog,val\n"
    assert counts(made(tmp_path, "0-3.png", labels=text)) == {s: {"cat": 1, "dog": 1} for s in ("train", "validation")}


def test_a_table_a_split(tmp_path):
    """Pictures of both splits have the same names; the test images of a sample submission have no labels."""
    rows = "id,label\n0,cat\n1,dog\n"
    name = made(
        tmp_path,
        "train,valid,test/0-1.png",
        train=rows,
        valid=rows.replace("0,cat", "0,dog").replace("1,dog", "1,cat"),
        sample_submission=rows,
    )
    opened = open_set(name)
    labelled = {s: {i.path: opened.classes[i.label] for i in items} for s, items in opened.splits.items()}
    assert labelled == {"train": {"0.png": "cat", "1.png": "dog"}, "validation": {"0.png": "dog", "1.png": "cat"}}
    assert passed(name) == {
        "without a label": ["test/0.png", "test/1.png"],
        "tables without labels of these images": ["sample_submission.csv"],
    }


def test_a_table_of_all_beside_those_of_the_splits(tmp_path):
    """What is to be tested on, one table says, and another does not."""
    head, *rows = LISTED.splitlines(keepends=True)
    tables = {"all": LISTED, "train": head + "".join(rows[:2]), "test": head + "".join(rows[2:])}
    for name, order in (("first", sorted(tables)), ("last", sorted(tables, reverse=True))):
        given = {f"{i}_{table}": tables[table] for i, table in enumerate(order)}
        splits = open_set(made(tmp_path / name, "i/0-3.png", **given)).splits
        assert {s: [i.path for i in items] for s, items in splits.items()} == {
            "train": ["i/0.png", "i/1.png"],
            "test": ["i/2.png", "i/3.png"],
        }
    both = made(tmp_path / "both", "i/0-3.png", train=LISTED, test=head + rows[0])
    assert refused(both).startswith("i/0.png has two splits: test and train")


def test_a_table_for_the_test_images_alone(tmp_path):
    name = made(
        tmp_path, "Train/0,1/0-1.png", "Test/5-6.png", Test="Width,ClassId,Path\n8,1,Test/5.png\n8,0,Test/6.png\n"
    )
    assert counts(name) == {"train": {"0": 2, "1": 2}, "test": {"0": 1, "1": 1}}


def test_rows_without_a_label_or_a_picture_are_named(tmp_path):
    name = made(tmp_path, "i/0-5.png", labels=LISTED + "4.png,\nnone.png,cat\n")
    assert counts(name) == READ
    assert passed(name) == {"listed and not there": ["none.png"], "without a label": ["i/4.png", "i/5.png"]}


def test_numbers_that_became_floats_and_labels_that_are_none(tmp_path):
    """As pandas writes a column in which some are missing: 1.0 is 1, and nan is no class."""
    text = "file,label\n0.png,0\n1.png,1.0\n2.png,0.0\n3.png,1\n4.png,nan\n5.png,NaN\n"
    name = made(tmp_path, "i/0-5.png", labels=text)
    assert counts(name) == {"train": {"0": 1, "1": 1}, "test": {"0": 1, "1": 1}}
    assert passed(name) == {"without a label": ["i/4.png", "i/5.png"]}


@pytest.mark.parametrize("head", ["id", "id,width,height"])
def test_a_competition(tmp_path, head):
    """Its table of test images has no labels."""
    rows = "".join(f"\n{i}" + ",8" * head.count(",") for i in (2, 3))
    name = made(tmp_path, "train/0-1.png", "test/2-3.png", train="id,label\n0,cat\n1,dog\n", test=head + rows)
    assert counts(name) == {"train": {"cat": 1, "dog": 1}}
    assert passed(name) == {
        "tables without labels of these images": ["test.csv"],
        "without a label": ["test/2.png", "test/3.png"],
    }


def test_a_table_that_names_other_pictures_is_named(tmp_path):
    assert refused(made(tmp_path, "0-3.png", labels=LISTED.replace(".png", ".jpg"))).endswith(
        "passed over: tables without labels of these images 1 (labels.csv)"
    )


def test_a_table_beside_folders_of_classes(tmp_path):
    patterns = ["cat,dog/0-4.png"]
    rows = [f"{c}/{i}.png,{c}" for c in ("cat", "dog") for i in range(5)]
    agrees = made(tmp_path, *patterns, labels="\n".join(["file,label", *rows]))
    assert passed(agrees) == {"other suffixes": ["labels.csv"]}
    differs = made(tmp_path, *patterns, labels="\n".join(["file,label", *rows]).replace("0.png,cat", "0.png,tiger"))
    assert refused(differs).startswith(
        "can be read in two ways: by its folders (cat ...), or by the labels of labels.csv (cat, ti"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,x,y\n0.png,1,2\n", "labels.csv: one column must be called label; columns: x, y"),
        (
            "file,label,class\n0.png,a,b\n1.png,a,c\n",
            "labels.csv: one column must be called label; columns: label, class",
        ),
        ("file,label\n0.png,a\n0.png,b\n", "i/0.png has two labels: a and b"),
        ("file,label,split\n0.png,a,7\n", "labels.csv: split (=7) of 0.png must be train, validation or test"),
    ],
)
def test_tables_that_are_open(tmp_path, text, message):
    assert refused(made(tmp_path, "i/0-3.png", labels=text)).startswith(message)


def test_a_row_that_may_be_of_two_pictures(tmp_path):
    message = refused(made(tmp_path, "train,valid/0-1.png", labels="id,label\n0,cat\n1,dog\n"))
    assert message == "labels.csv lists 0, which may be train/0.png or valid/0.png"


# ---------------------------------------------------------------------------------------------------------- names


def test_a_folder_without_splits_gives_up_test_images_unless_it_is_not_to_be_cut(tmp_path):
    whole, parted = made(tmp_path / "whole", "a/0-9.png", "b/0.png"), made(tmp_path / "parted", "train,test/a,b/0.png")
    with pytest.raises(UserError, match="class b has fewer than 2 images"):
        open_set(whole)
    assert {s: len(items) for s, items in open_set(whole, cut=False).splits.items()} == {"train": 11}
    assert open_set(parted, cut=False).splits.keys() == {"train", "test"}


def test_one_class_however_its_accent_is_written(tmp_path):
    whole, parts = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    name = made(tmp_path / "mixed", f"train/{whole},tea/0.png", f"test/{parts},tea/0.png")
    assert counts(name) == {s: {whole: 1, "tea": 1} for s in ("train", "test")}
    found = {open_set(made(tmp_path / form, f"{form},tea/{form}0-4.png")).fingerprint() for form in (whole, parts)}
    assert len(found) == 1


def test_pictures_of_one_name_are_told_apart(tmp_path):
    """What unpacks on two systems lies in two folders of one name, where a file may be damaged in one of them."""
    forms = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    name = made(tmp_path, f"{forms[0]},{forms[1]},tea/0-4.png")
    write(tmp_path / forms[1] / "0.png", b"damaged")
    opened = open_set(name)
    paths = [f"{s}/{i.path}" for s, items in opened.splits.items() for i in items]
    assert len(paths) == 15
    bad = [p for s, items in opened.splits.items() for i in items if i.load() == b"damaged" for p in [f"{s}/{i.path}"]]
    assert sum(map(len, opened.without({*bad}).splits.values())) == 14


def test_bytes_that_are_no_unicode(tmp_path):
    for folder in (b"caf\xe9", b"tea"):
        place = os.path.join(os.fsencode(tmp_path), folder)
        os.mkdir(place)
        for number in range(2):
            with open(os.path.join(place, b"\xff%d.png" % number), "wb") as file:
                file.write(PNG)
    opened = open_set(f"folder:{tmp_path}")
    assert opened.classes == (r"caf\xe9", "tea")
    assert opened.fingerprint() == open_set(f"folder:{tmp_path}").fingerprint()
    paths = {i.path for items in opened.splits.values() for i in items}
    assert paths == {rf"{c}/\xff{i}.png" for c in opened.classes for i in range(2)}


def test_suffixes_of_every_case_and_none(tmp_path):
    name = made(tmp_path, "a,b/0-3.PNG")
    write(tmp_path / "a" / "bare", PNG)
    write(tmp_path / "a" / "README", b"some text")
    write(tmp_path / "a" / "0.png.bak", PNG)
    assert sum(counts(name)["train"].values()) + sum(counts(name)["test"].values()) == 9
    assert passed(name) == {"other suffixes": ["a/0.png.bak", "a/README"]}


# ----------------------------------------------------------------------------------------------- what is passed over


def test_every_kind_that_is_passed_over(tmp_path):
    name = made(
        tmp_path / "set",
        "a,b/0-4.png",
        "a/._0.png",
        ".git/x.png",
        "__MACOSX/a/0.png",
        "b/Thumbs.db",
        "@eaDir/a/0.png",
        "a/notes.txt",
    )
    (tmp_path / "set/a/gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "set/a/self.png").symlink_to(tmp_path / "set/a/self.png")
    (tmp_path / "set/b/back").symlink_to(tmp_path / "set")
    os.mkfifo(tmp_path / "set/b/pipe.png")
    (tmp_path / "set/lost+found").mkdir()  # where a disk begins
    assert passed(name) == {
        "hidden": [".git/x.png", "@eaDir/a/0.png", "__MACOSX/a/0.png", "a/._0.png", "b/Thumbs.db"],
        "other suffixes": ["a/notes.txt"],
        "broken links": ["a/gone.png", "a/self.png"],
        "links in a circle": ["b/back"],
        "no plain files": ["b/pipe.png"],
    }
    assert counts(name) == {"train": {"a": 4, "b": 4}, "test": {"a": 1, "b": 1}}


def test_linked_folders_are_read(tmp_path):
    made(tmp_path / "elsewhere", "cats,more/0-3.png")
    name = made(tmp_path / "set", "dog/0-7.png")
    (tmp_path / "set/cat").symlink_to(tmp_path / "elsewhere/cats")
    (tmp_path / "elsewhere/cats/more").symlink_to(tmp_path / "elsewhere/more")
    found = counts(name)
    assert {c: found["train"][c] + found["test"][c] for c in found["train"]} == {"cat": 8, "dog": 8}


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    name, really = made(tmp_path, "a,b/0-3.png", "a/more/0-3.png"), os.scandir

    def scandir(place):
        if str(place).endswith("more"):
            raise PermissionError(13, "Permission denied")
        return really(place)

    monkeypatch.setattr(os, "scandir", scandir)
    assert passed(name) == {"folders that cannot be read": ["a/more"]}


NAMES = st.sampled_from(
    ["train", "Test", "val", "cat", "dog", "a b", "é", "e\u0301", ".git", "__MACOSX", "x", "images"]
)
FILES = st.sampled_from(
    ["0.png", "1.JPG", "0", "n.txt", ".h.png", "Thumbs.db", "1.tar.gz", "link.png", "t.csv", "é.png"]
)


@settings(max_examples=60)
@given(
    st.sets(
        st.tuples(st.lists(NAMES, max_size=4), FILES).map(lambda p: "/".join([*p[0], p[1]])), min_size=1, max_size=14
    )
)
@example({"train/cat/0.png", "train/dog/0.png", "Test/cat/0.png", "Test/dog/0.png", "x/0.png", "0.png", "n.txt"})
def test_what_is_read_and_what_is_named_are_all_files(tmp_path_factory, files):
    folder = tmp_path_factory.mktemp("set")
    for path in [*files, *(f"{c}/{i}.png" for c in ("cat", "dog") for i in range(2))]:
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.name == "link.png":
            place.symlink_to("nowhere")
        else:
            place.write_bytes(b"text" if place.suffix in (".txt", ".csv") else PNG)
    try:
        opened = open_set(f"folder:{folder}")
    except UserError as e:
        event(str(e).partition("): ")[2][:20])
        return
    read = sum(map(len, opened.splits.values()))
    assert read + sum(map(len, opened.passed.values())) == sum(len(names) for _, _, names in os.walk(folder))
