"""Which Parquet files are of which split, and which of their columns have the images and the labels."""

import json
import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from ..errors import UserError, check, few
from ..paths import whole_file
from ..specs.catalog import passed_over
from .files import File, Found, walk
from .opened import SPLITS, counted
from .shapes import WORDS

MEANT = WORDS | {"trainval": "train"}
FILLERS = {"set", "data", "split", "part", "shard", "of"}  # words that tell no sets apart
SHARD = re.compile(r"(.*?)[-_.]?(\d+)-of-(\d+)(.*)")
IMAGE = re.compile(
    r"(^|_)(image|img|picture|photo|jpe?g|png|webp)s?(_?(bytes|data|file|path|name))*$|^file_?(name|path)$"
)
LABEL = re.compile(r"(^|_)(labels?|class(es)?|cls|category|target|species|breed)(_?(ids?|idx|index|names?))?$")
PARQUET_SUFFIXES = {".parquet", ".pq"}
Passed = dict[str, list[str]]


def parquet_files(folder: Path, name: str) -> tuple[list[tuple[str, Path, str]], Passed]:
    """Return the Parquet files of a folder, or the one that it is, each with its split and its name there, and by kind
    what else there is. The split is empty where no name says it.

    Raises
    ------
    UserError
        If there are none, those of several sets, or a split has two names.
    """
    one = Found([File((folder.name,), os.fspath(folder))] * os.path.isfile(folder), [], set(), defaultdict(list))
    found = walk(os.fspath(folder), PARQUET_SUFFIXES) if os.path.isdir(folder) else one
    passed = found.passed | {"other suffixes": [p for p in found.passed["other suffixes"] if p != "wordnet.json"]}
    sets: dict[str, dict[str, dict[str, list[tuple[Path, str]]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for file in found.pictures:
        word, of = _split(file.parts)
        sets[of][MEANT.get(word, "")][word].append((Path(file.place), file.path))
    none = f"no Parquet files under {folder}; set TRANSFERLAB_DATA to the folder of image sets"
    pictures = next((f", or name a folder of images folder:{at}" for at in (folder, name) if os.path.isdir(at)), "")
    check(bool(sets), "data set", name, "; ".join(filter(None, [none + pictures, passed_over(counted(passed))])))
    several = (
        f"holds several sets ({few([of or '.' for of in sorted(sets)], 6)}); name the folder of one, {name}/FOLDER"
    )
    check(len(sets) == 1, "data set", name, several)
    (splits,) = sets.values()
    passed["of no split"] = (
        [here for files in splits.pop("", {}).values() for _, here in files] if len(splits) > 1 else []
    )
    for split, words in splits.items():
        check(len(words) < 2, "data set", name, f"{' and '.join(words)} are both {split or 'train'}; keep one of them")
    shards: dict[tuple[str, str], set[int]] = defaultdict(set)
    files = [(split, *one) for split in (*SPLITS, "") for some in splits.get(split, {}).values() for one in some]
    for _, path, here in files:
        if told := SHARD.fullmatch(path.stem):
            shards[here[: -len(path.name)] + told[1], told[3]].add(int(told[2]))
    for (start, count), there in shards.items():
        passed["files not there"] += [f"{start}-{i:05}-of-{count}" for i in range(int(count)) if i not in there]
    return files, passed


def _split(parts: tuple[str, ...]) -> tuple[str, str]:
    """Return the word for a split in a file's path, and what else that says: of which set it is, if there are more."""
    *folders, stem = (*parts[:-1], SHARD.sub(r"\1", parts[-1].rpartition(".")[0]))
    words = [[w.rstrip("0123456789") for w in re.split(r"[\W_]+", part.casefold())] for part in (*folders, stem)]
    said = [[w for w in part if w in MEANT] for part in words]
    more = ["-".join(w for w in part if w.isalpha() and w not in {*MEANT, *FILLERS}) for part in words]
    rest = [w if split else folder for folder, w, split in zip((*folders, ""), more, said, strict=True)]
    return ([w for part in said for w in part] or [""])[-1], "/".join(filter(None, rest))


def open_file(path: Path) -> Any:
    """Return a Parquet file of which only what is asked for is read.

    Raises
    ------
    UserError
        If it is none.
    """
    from pyarrow import parquet

    whole_file("Parquet file", path)
    try:
        return parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    except (OSError, ValueError) as e:
        raise UserError(f"Parquet file (={path}): cannot be read ({str(e).splitlines()[0]})") from e


def _features(file: Any) -> dict[str, Any]:
    try:
        return dict(json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"])
    except (KeyError, TypeError, ValueError):
        return {}


def class_names(file: Any, column: str) -> tuple[str, ...]:
    """Return the names of a column's classes in a file's metadata, none if there are none."""
    told = _features(file).get(column)
    try:
        names = (told["category"]["feature"] if column == "objects" else told)["names"]
        return tuple(map(str, names.values() if isinstance(names, dict) else names))
    except (KeyError, TypeError):
        return ()


def form(kind: Any) -> str:
    """Return whether a column's type is ``bytes`` or ``text``, however they are stored, or neither."""
    from pyarrow import types

    name = str(kind.value_type if types.is_dictionary(kind) else kind)
    return {"string": "text", "binary": "bytes"}.get(re.sub(r"^(large|fixed_size)_|_view$|\[\d+\]$", "", name), "")


def columns_of(file: Any, path: Path, name: str, wanted: dict[str, str]) -> dict[str, str]:
    """Return which column has the images, and which the labels: those that are wanted, else the only ones that can be.

    Raises
    ------
    UserError
        If there is none, or several may be meant: the columns are listed, with the option that names one.
    """
    from pyarrow import types

    kinds = {field.name: field.type for field in file.schema_arrow}
    forms = {c: form(t) for c, t in kinds.items()}
    told = {c: about.get("_type") for c, about in _features(file).items() if c in kinds and isinstance(about, dict)}
    structs = [c for c, t in kinds.items() if types.is_struct(t) and {f.name for f in t} & {"bytes", "path"}]
    binary, texts = ([c for c in kinds if forms[c] == of] for of in ("bytes", "text"))
    able = [*structs, *binary, *texts]
    images = [["image"] if "image" in able else [], [c for c in able if told.get(c) == "Image"], structs]
    images += [[c for c in able if IMAGE.search(c.casefold())], binary]
    labels = [[c] if c in kinds else [] for c in ("label", "objects")]
    labels += [[c for c in kinds if told.get(c) == "ClassLabel"], [c for c in kinds if LABEL.search(c.casefold())]]
    chosen: dict[str, str] = {}
    for what, ways in (("image", images), ("label", labels)):
        left = [[c for c in way if c not in chosen.values()] for way in ways]
        found = [wanted[what]] if what in wanted else next(filter(None, left), [])
        listed = f"columns: {', '.join(kinds)}; name one with: transferlab data pin {name} --{what} COLUMN"
        if what in wanted:
            right = wanted[what] in (able if what == "image" else kinds)
            check(right, f"{what} column", wanted[what], f"{path.name} has no such column of {what}s; {listed}")
        several = f"{' and '.join(found)} may all be" if found else "has no column that may be"
        check(len(found) == 1, "Parquet file", path, f"{several} that of the {what}s; {listed}")
        chosen[what] = found[0]
    return chosen
