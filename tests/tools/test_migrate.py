"""Keys of published records, given anew: one small record of each kind."""

import json
import lzma
from dataclasses import replace

import migrate_keys
import pytest
from migrate_keys import Count, migrate, migrated, old_keys, rename_networks, trial_of

from transferlab import scales
from transferlab.arms.growing import growing
from transferlab.errors import UserError
from transferlab.methods import KNN, L2SP, Concepts, Distillation, Probe, SourceTask
from transferlab.specs import Pretrained, Trial, Weights
from transferlab.store import Published

S = scales.scale("cpu")
G = growing("cpu")
TARGET, SOURCE = S.target("flowers102"), S.source_of()
HERE = {"commit": "abc", "torch": "2.14.1", "device": "a processor", "threads": 1, "day": "2026-01-01"}


def at(method, rate=0.016):
    return replace(method, recipe=replace(method.recipe, lr=rate))


FIXED, WIDER = at(G.fixed()), at(G.grown("widen", (128,)))


def trial(method=FIXED, seed=0, source=SOURCE, **given):
    return Trial(given.get("target", TARGET), method, S.backbone, seed, source)


def own(method):
    return Trial.of_source(SOURCE, method, S.backbone, 0)


def as_before(made: Trial, split="test", **fields) -> dict:
    """Describe a trial as it was described, `fields` being those of the method that are gone."""
    old = made.to_dict() | {"split": split}
    old["method"] = old["method"] | fields
    return json.loads(json.dumps(old))


def step(made: Trial, **fields) -> dict:
    """Describe a task of a chain as it was described."""
    return {"kind": "step", **{name: as_before(made, **fields)[name] for name in ("method", "target")}}


STEP, GROWN_STEP = (trial(method, target=S.target("cifar100")) for method in (FIXED, WIDER))
OTHER = trial(target=S.target("scene15"))
CASES = {
    "scratch": (as_before(trial(at(S.scratch), source=None)), trial(at(S.scratch), source=None)),
    "probe": (as_before(trial(Probe())), trial(Probe())),
    "neighbours": (as_before(trial(KNN()), kind="neighbours"), trial(KNN())),
    "concepts": (as_before(own(Concepts())), own(Concepts())),
    "source task": (as_before(own(SourceTask())), own(SourceTask())),
    "pull": (as_before(trial(FIXED), l2_sp=0.1, examine=True), trial(replace(FIXED, hold=L2SP(0.1)))),
    "answers": (as_before(trial(FIXED), "validation", lwf=1.0), trial(replace(FIXED, hold=Distillation(1.0)))),
    "watched": (as_before(trial(WIDER), watch=True), trial(WIDER)),
    "wide from the start": (as_before(trial(FIXED), blocks=[256, 128]), trial(FIXED)),
    "chain": (as_before(trial(), first=step(STEP)), trial(source=STEP)),
    "growing chain": (as_before(trial(WIDER), grown=1, first=step(GROWN_STEP)), trial(WIDER, source=GROWN_STEP)),
    "three tasks": (as_before(trial(), first=step(STEP, first=step(OTHER))), trial(source=replace(STEP, source=OTHER))),
}


@pytest.mark.parametrize("case", list(CASES))
def test_what_an_old_description_stands_for(case):
    old, wanted = CASES[case]
    assert trial_of(old) == wanted
    assert trial_of(old).key == wanted.key


def test_weights_are_known_by_what_they_are():
    given = {"kind": "weights", "name": "file:somewhere/net.safetensors", "fingerprint": "0123456789abcdef"}
    old = as_before(trial(Probe()), first=None) | {"source": given}
    del old["method"]["first"]
    assert trial_of(old).source == Weights(**{k: given[k] for k in ("name", "fingerprint")})
    assert trial_of(old).label.startswith("file:somewhere/net.safetensors > ")
    assert trial_of(old).key == trial_of(old | {"source": given | {"name": "file:elsewhere.safetensors"}}).key


def record(key, accuracy, seconds=1.0, status="ok", **metrics):
    found = {} if status != "ok" else {"accuracy": accuracy, "mean_class_accuracy": accuracy, "n": 10, **metrics}
    return {
        "key": key,
        "label": "old",
        "status": status,
        "metrics": found,
        "seconds": seconds,
        "provenance": HERE | {"commit": key},
    }


OLD = {
    "a": as_before(trial(FIXED)),
    "b": as_before(trial(FIXED), "validation"),
    "c": as_before(trial(WIDER)),
    "d": as_before(trial(WIDER), watch=True),
    "e": as_before(trial(WIDER), "validation"),
    "f": as_before(trial(WIDER, seed=1), "validation"),
}
BLOCKS = {"accuracy_old": 0.2, "accuracy_new": 0.1}
TRACE = {"at": [0, 3], "size_old": [1.0, 2.0], "said_new": [3.0, 4.0], "pace_new": [5.0]}
RECORDS = {
    "a": record("a", 0.5, 1.5, train_loss=2.0, alike=0.9, selective_old=0.1, near_before=0.3),
    "b": record("b", 0.4, 9.0, train_loss=2.0),
    "c": record("c", 0.5, train_loss=1.0, **BLOCKS),
    "d": record(
        "d", 0.5, train_loss=1.0, at=[0, 3], size_old=[1.0, 2.0], said_new=[3.0, 4.0], pace_new=[5.0], **BLOCKS
    ),
    "e": record("e", 0.3, train_loss=1.0, **BLOCKS),
    "f": record("f", 0.3, status="diverged: at step 3"),
}


def test_a_training_that_was_run_twice_becomes_one_record():
    found = {r["key"]: r for r in migrated([RECORDS["b"], RECORDS["a"]], OLD)}
    (one,) = found.values()
    assert one["key"] == trial(FIXED).key
    assert one["label"] == trial(FIXED).label
    validated = {"validation_accuracy": 0.4, "validation_mean_class_accuracy": 0.4, "validation_n": 10}
    renamed = {"cka_old_units": 0.9, "selectivity_old": 0.1, "knn_accuracy_before": 0.3}
    assert one["metrics"] == {
        "accuracy": 0.5,
        "mean_class_accuracy": 0.5,
        "n": 10,
        "train_loss": 2.0,
        **renamed,
        **validated,
    }
    assert (one["seconds"], one["provenance"]["commit"]) == (1.5, "a")  # those of the test


def test_what_was_looked_at_is_united_with_what_was_not():
    (one,) = migrated([RECORDS[key] for key in "ced"], OLD)
    assert one["provenance"]["commit"] == "c"  # the plain one's
    assert one["metrics"]["activation_rms_old"] == [1.0, 2.0]
    assert one["metrics"]["logit_contribution_new"] == [3.0, 4.0]
    assert one["metrics"]["weight_change_new"] == [5.0]
    assert {one["metrics"][name] for name in BLOCKS} == {0.2, 0.1}
    assert one["metrics"]["validation_accuracy_old"] == 0.2  # what it reaches on validation images is another number


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        (record("d", 0.6, train_loss=1.0), "accuracy"),
        (record("e", 0.3, train_loss=1.1), "train_loss"),
        (record("e", 0.3, status="diverged: at step 3"), "status"),
    ],
)
def test_trainings_that_differ_are_no_one_training(changed, name):
    with pytest.raises(UserError, match=rf"{name} of tiny-imagenet > flowers102, grow lr 0.016, seed 0 .*is on record"):
        migrated([RECORDS["c"], changed], OLD)


def test_files_are_rewritten_once(tmp_path):
    published = Published(tmp_path)
    published.write("cpu", "one", [RECORDS[key] for key in "abf"])
    published.write("gpu", "two", [RECORDS[key] for key in "ce"])
    counts = {"cpu/one": Count(3, 2), "gpu/two": Count(2, 1), "different trials": Count(5, 3)}
    assert migrate(tmp_path, OLD) == counts
    assert published.read("cpu", "one").keys() == {trial(FIXED).key, trial(WIDER, seed=1).key}
    assert published.read("cpu")[trial(WIDER, seed=1).key]["status"] == "diverged: at step 3"
    text = {path: path.read_text() for path in tmp_path.rglob("*.jsonl")}
    assert migrate(tmp_path, OLD) == {}
    assert {path: path.read_text() for path in tmp_path.rglob("*.jsonl")} == text


def test_nothing_is_written_if_a_record_is_of_nobody(tmp_path):
    Published(tmp_path).write("cpu", "one", [RECORDS["a"]])
    Published(tmp_path).write("cpu", "two", [RECORDS["b"], record("z", 0.5)])
    with pytest.raises(UserError, match=r"records of cpu/two \(=\['z'\]\): have no line in old_keys.xz"):
        migrate(tmp_path, OLD)
    assert Published(tmp_path).read("cpu", "one").keys() == {"a"}


def test_what_two_chapters_share_agrees(tmp_path):
    """Only how long it took may differ."""
    timed = [record("a", 0.5, source_seconds=1.0), record("a", 0.5, source_seconds=2.0), record("a", 0.6)]
    assert len(migrated(timed[:2], OLD)) == 1
    Published(tmp_path).write("cpu", "one", timed[:1])
    Published(tmp_path).write("cpu", "two", timed[2:])
    with pytest.raises(UserError, match=r"0\.5 is on record of the same training"):
        migrate(tmp_path, OLD)


def test_networks_keep_their_content_under_a_new_name(tmp_path):
    made = Pretrained(SOURCE, S.backbone, 3)
    old = {"abc": {"source": SOURCE.to_dict(), "backbone": S.backbone.to_dict(), "seed": 3}}
    (tmp_path / "abc.safetensors").write_bytes(b"weights")
    assert rename_networks(tmp_path, old) == 1
    assert (tmp_path / f"{made.key}.safetensors").read_bytes() == b"weights"
    assert rename_networks(tmp_path, old) == 0


def test_nothing_published_has_an_old_key_still():
    old = old_keys()
    assert (len(old), sum("method" in one for one in old.values())) == (7964, 7956)
    assert old.keys().isdisjoint(Published().read())
    assert old.keys().isdisjoint(path.stem for path in (Published().root / "sources").glob("*.safetensors"))


def test_the_tool_says_what_it_did(tmp_path, monkeypatch, capsys):
    table = tmp_path / "old_keys.xz"
    table.write_bytes(lzma.compress("".join(f"{key} {json.dumps(old)}\n" for key, old in OLD.items()).encode()))
    monkeypatch.setattr(migrate_keys, "OLD_KEYS", table)
    Published(tmp_path / "results").write("cpu", "one", [RECORDS[key] for key in "abf"])
    monkeypatch.setattr("sys.argv", ["migrate_keys.py", str(tmp_path / "results")])
    migrate_keys.main()
    assert capsys.readouterr().out.splitlines() == [
        "cpu/one: 3 old, 1 merged, 2 new",
        "different trials: 3 old, 1 merged, 2 new",
    ]
    migrate_keys.main()
    assert capsys.readouterr().out == "nothing to do\n"
