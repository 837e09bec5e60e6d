"""Give published records the keys that their trials have now: ``python tools/migrate_keys.py``.

Splits and measures are no part of a trial any more, and a chain is a trial that starts from another. Published records
hold no spec. ``old_keys.xz``, written by `old_keys` with the code that made the records, says which trial each old key
stood for. A training that was on record twice, once as a trial of a search that read validation images and once with
its test images read, becomes one record. A file that was migrated before is left as it is.
"""

import argparse
import json
import lzma
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from transferlab.errors import check
from transferlab.methods import KNN, L2SP, Distillation
from transferlab.paths import project
from transferlab.specs import Pretrained, Spec, Trial
from transferlab.store import Published, Record

OLD_KEYS = Path(__file__).with_name("old_keys.xz")
RENAMED = {"alike": "cka_old_units"} | {
    f"{old}_{part}": f"{new}_{part}"
    for old, new, parts in (
        ("near", "knn_accuracy", ("before", "after")),
        ("selective", "selectivity", ("before", "after", "old", "new")),
        ("size", "activation_rms", ("old", "new")),
        ("said", "logit_contribution", ("old", "new")),
        ("pace", "weight_change", ("old", "new")),
    )
    for part in parts
}
READ = ("accuracy", "mean_class_accuracy", "n", "accuracy_old", "accuracy_new")  # on the images of the record's split
TIMES = ("source_seconds",)  # what may differ between two trainings that are the same
GONE = ("examine", "watch", "blocks", "grown", "first", "l2_sp", "lwf")  # fields of methods


@dataclass(frozen=True)
class Count:
    """How many records there were, and how many there are: the others were second ones of the same training."""

    old: int
    new: int

    def __str__(self) -> str:
        return f"{self.old} old, {self.old - self.new} merged, {self.new} new"


def old_keys() -> dict[str, dict]:
    """Return what every old key stood for, as plain data."""
    lines = lzma.decompress(OLD_KEYS.read_bytes()).decode().splitlines()
    return {key: json.loads(text) for key, _, text in (line.partition(" ") for line in lines)}


def method_of(old: dict) -> dict:
    """Return a method as it is described now, without what came before it in a chain."""
    new = {name: value for name, value in old.items() if name not in GONE}
    if "l2_sp" in old:
        new["hold"] = L2SP(old["l2_sp"]).to_dict()
    if "lwf" in old:
        new["hold"] = Distillation(old["lwf"]).to_dict()
    return new | ({"kind": KNN.kind} if old["kind"] == "neighbours" else {})


def trial_of(old: dict) -> Trial:
    """Return the trial that an old description stands for."""
    return Spec.from_dict(_trial(old))


def _trial(old: dict) -> dict:
    new = {name: value for name, value in old.items() if name != "split"} | {"method": method_of(old["method"])}
    if step := old["method"].get("first"):
        new["source"] = _trial(old | {"target": step["target"], "method": step["method"]})
    return new


def metrics_of(record: Record, split: str) -> dict:
    """Return the metrics of a record under their present names."""
    names = {name: f"validation_{name}" for name in READ} if split == "validation" else RENAMED
    return {names.get(name, name): value for name, value in record["metrics"].items()}


def migrated(records: Collection[Record], old: dict[str, dict]) -> list[Record]:
    """Return records under their trials' present keys, one a training, with the seconds and provenance of its test.

    Raises
    ------
    UserError
        If two records of a training do not say the same of it: how it ended, or what both measured.
    """
    found: dict[str, Record] = {}
    order = {r["key"]: (old[r["key"]]["split"], len(r["metrics"]), r["key"]) for r in records}
    for record in sorted(records, key=lambda r: order[r["key"]]):  # test before validation, plain before watched
        trial, metrics = trial_of(old[record["key"]]), metrics_of(record, old[record["key"]]["split"])
        record = record | {"key": trial.key, "label": trial.label, "metrics": metrics}
        first = found.setdefault(trial.key, record)
        same = first["status"].partition(":")[0] == record["status"].partition(":")[0]
        rule = "is on record of the same training"
        check(same, f"status of {trial.label}", record["status"], f"{first['status']} {rule}")
        for name in first["metrics"].keys() & metrics.keys() - set(TIMES):
            was = first["metrics"][name]
            check(was == metrics[name], f"{name} of {trial.label}", metrics[name], f"{was} {rule}")
        found[trial.key] = first | {"metrics": first["metrics"] | metrics | first["metrics"]}
    return list(found.values())


def migrate(root: Path, old: dict[str, dict]) -> dict[str, Count]:
    """Rewrite every file of published records that has old keys.

    Returns
    -------
    dict
        What came of each file, by ``SCALE/CHAPTER``; and of ``different trials``, in whatever files.

    Raises
    ------
    UserError
        If a file has keys of both kinds, or two records of one training differ. Then nothing was written.
    """
    published, found = Published(root), {}
    for path in sorted(root.glob("*/*.jsonl")):
        records = published.read(path.parent.name, path.stem)
        if strange := sorted(records.keys() - old.keys()):
            rule = f"have no line in {OLD_KEYS.name}"
            check(len(strange) == len(records), f"records of {path.parent.name}/{path.stem}", strange[:3], rule)
        elif records:
            found[path.parent.name, path.stem] = list(records.values())
    new = {place: migrated(records, old) for place, records in found.items()}
    counts = {"/".join(place): Count(len(records), len(new[place])) for place, records in found.items()}
    if found:
        every = [record for records in found.values() for record in records]
        counts["different trials"] = Count(len({r["key"] for r in every}), len(migrated(every, old)))
    for place, records in new.items():
        published.write(*place, records)
    return counts


def rename_networks(folder: Path, old: dict[str, dict]) -> int:
    """Give published networks the names that their sources have now, and return how many there were under old ones."""
    networks = [path for path in sorted(folder.glob("*.safetensors")) if path.stem in old]
    for path in networks:
        about = old[path.stem]
        made = Pretrained(Spec.from_dict(about["source"]), Spec.from_dict(about["backbone"]), about["seed"])
        path.rename(path.with_stem(made.key))
    return len(networks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="?", type=Path, default=project() / "results")
    root, old = parser.parse_args().results, old_keys()
    counts, networks = migrate(root, old), rename_networks(root / "sources", old)
    told = [f"{name}: {count}" for name, count in counts.items()]
    print("\n".join(told + [f"networks: {networks} renamed"] * bool(networks)) or "nothing to do")


if __name__ == "__main__":
    main()
