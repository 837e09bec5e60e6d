"""Every published record has an address, which says what it is of and which command makes it again."""

import json

import pytest
from test_cli import transferlab

from transferlab import chapters, records
from transferlab.errors import UserError
from transferlab.specs import Spec
from transferlab.store import Published


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> dict:
    """What the scripts bring, by name."""
    folder = tmp_path_factory.mktemp("records")
    records.write(folder)
    sizes = {path.stem: path.stat().st_size for path in folder.iterdir()}
    assert max(size for name, size in sizes.items() if name != "shared") < 64_000
    assert sizes["shared"] < 400_000
    found = {}
    for name in sizes:
        text = (folder / f"{name}.js").read_text()
        head = f'tlRecords("{name}", '
        assert text.startswith(head)
        found[name] = json.loads(text.removeprefix(head).removesuffix(");\n"))
    return found


def test_no_published_record_is_without_an_address(shards):
    rows = {key: row for name, rows in shards.items() if name != "shared" for key, row in rows.items()}
    known = Published().read()
    assert rows.keys() == known.keys()
    shared = shards["shared"]
    for key, (label, status, _, numbers, left, provenance, places, trial) in sorted(rows.items())[::200]:
        spec = {k: v if k in records.AS_IT_IS else shared["parts"][v] for k, v in trial.items()}
        assert Spec.from_dict(spec).key == key
        found = known[key]
        assert (label, status) == (found["label"], found["status"])
        assert bool(len(numbers) + left) or status != "ok"  # one that diverged measured nothing
        assert numbers.items() <= found["metrics"].items() or len(places) > 1
        assert "day" in shared["provenance"][provenance]
        for scale, name in (shared["places"][place].split("/") for place in places):
            assert key in Published().read(scale, name)


def test_a_record_is_told_with_its_command(monkeypatch, capsys):
    key = next(iter(Published().read("cpu", "images_per_class")))
    code, out, _ = transferlab(monkeypatch, capsys, "record", key)
    told = json.loads(out)
    assert code == 0
    assert Spec.from_dict(told["trial"]).key == key
    assert told["command"] == f"transferlab run images_per_class --scale cpu --key {key}"


def test_an_unknown_key_is_named():
    key = next(iter(Published().read()))
    with pytest.raises(UserError, match=rf"^key \(=x{key[1:]}\): must be one of .* more; did you mean {key}\?$"):
        records.record(f"x{key[1:]}")


def test_one_trial_is_made_again(one_world, monkeypatch, capsys):
    """Only it is run, by its key, and nothing is published."""
    subject = chapters.chapter("images_per_class")
    trial = min(subject.design("smoke", [0]), key=lambda t: t.cost())
    words = "run", "images_per_class", "--scale", "smoke", "--workers", "1", "--key", trial.key
    code, out, err = transferlab(monkeypatch, capsys, *words)
    assert code == 0
    assert "1 runs to make" in err
    assert out.startswith(f"{trial.label}: accuracy 0.")
    assert out.endswith("(published: None)\n")
    assert "published results" not in err
