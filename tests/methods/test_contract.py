"""What every method, measure and regulariser must do, found by registration: a new one is in here by being there.

Examples are made by one rule, of the fields' types and of the choices that docstrings name: all that a class needs, and
then each other field alone. One of which none can be made fails.
"""

import itertools
import json
import math
import re
import tempfile
from contextlib import suppress
from dataclasses import MISSING, fields, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import get_type_hints

import pytest
import torch
from small_world import context, give, killed_at, run, small_world, trainings  # noqa: F401  (a fixture for the whole module)

from transferlab import measure, methods
from transferlab.data import images
from transferlab.errors import UserError
from transferlab.lab import Lab
from transferlab.methods.joint import Selected
from transferlab.nets.build import build
from transferlab.nets.taps import taps
from transferlab.run import work
from transferlab.specs import (
    AlexNet,
    Artefact,
    Gabor,
    ImageSet,
    Measure,
    Method,
    OneOf,
    Recipe,
    Regulariser,
    Source,
    Spec,
    Subset,
    Target,
    Trial,
)
from transferlab.store import Store

RECIPE = Recipe(steps=6, batch=8, lr=0.003, augment="none")
BACKBONE = AlexNet((8, 8, 8, 8, 8), (24, 16))
SOURCE = Source("synthetic:source", 24, RECIPE, Subset(classes=6))
TARGET = Target("synthetic:0.5", 24, Subset(classes=5, per_class=4))
BY_TYPE = {
    "Recipe": [RECIPE],
    "bool": [True],
    "int": [2],
    "float | str": [2, 0.5, "all"],
    "float": [0.5],
    "str": ["fc7"],  # a layer, where the docstring names no choices
    "tuple[int, ...]": [(), (10, 6), (6,), (5, 6)],
    "tuple[float, ...]": [(0.5, 2.0), (0.25, 0.5)],
    "tuple[transferlab.specs.data.ImageSet, ...]": ["synthetic:0.2"],
    "ImageSet": [ImageSet("synthetic:0.2")],
    "Subset": [Subset(per_class=3)],
    "Selected": [Selected(Gabor(2, 2, lowest=0.2, bins=8), 2, 300)],
}
BY_NAME = {("Similarity", "images"): [200], ("Similarity", "batch"): [100]}  # more than a few
MADE_BY_HAND = (  # by test_joint, say
    *("recipe", "strength", "tap", "pool", "whiten", "reference"),
    *("more_neighbours", "oversample", "entropy", "keep_head", "entrance"),
)
for package in (methods, measure):
    for module in walk_packages(package.__path__, f"{package.__name__}."):
        import_module(module.name)


def registered(base: type) -> list[type[Spec]]:
    """All of the package, and of no test."""
    own = [cls for cls in Spec.kinds.values() if issubclass(cls, base) and cls.__module__.startswith("transferlab.")]
    return sorted(own, key=lambda cls: cls.kind)


def values(cls: type[Spec], name: str) -> list:
    """What a field may be: its documented choices, or some values of its type."""
    if chosen := re.search(rf"^    {name} : \{{(.*?)\}}", cls.__doc__, re.MULTILINE | re.DOTALL):
        return re.findall(r'"([^"]+)"', chosen[1])
    hint = get_type_hints(cls)[name]
    text = str(getattr(hint, "__name__", hint) if not hasattr(hint, "__args__") else hint).removesuffix(" | None")
    plain = text.rpartition(".")[2] if "[" not in text else text
    if plain in ("Regulariser", "Measure", "Method"):
        return [one for kind in registered(globals()[plain]) for one in examples(kind)]
    return BY_TYPE[plain] + BY_NAME.get((cls.__name__, name), [])


@cache
def examples(cls: type[Spec]) -> tuple[Spec, ...]:
    """All that a class needs, in every documented choice; and of the first of these each other field alone."""
    needed = [f.name for f in fields(cls) if f.default is f.default_factory is MISSING]
    optional = [f.name for f in fields(cls) if f.name not in needed]

    def made(**given) -> Spec | None:
        try:
            one = cls(**given)
            return one if not isinstance(one, Method) or trial(one) else None  # of which there can be a trial
        except UserError:
            return None

    found: dict[str, Spec] = {}
    bases = [dict(zip(needed, each, strict=True)) for each in itertools.product(*(values(cls, n) for n in needed))]
    for base in bases:
        if not (one := made(**base)):  # then with one more field
            more = ({name: value} for name in optional for value in values(cls, name))
            one = next(filter(None, (made(**base, **each) for each in more)), None)
        if one:
            found.setdefault(one.canonical, one)
    if found:
        first = next(iter(found.values()))
        for name in optional:
            for value in values(cls, name):
                if one := made(**{f.name: getattr(first, f.name) for f in fields(cls)} | {name: value}):
                    found.setdefault(one.canonical, one)
    return tuple(found.values())


def named(one: Spec) -> str:
    """A method's kind and what is special about it, for the test's name."""
    given = {f.name: getattr(one, f.name) for f in fields(one) if getattr(one, f.name) != f.default}
    given.pop("recipe", None)
    return f"{one.kind} {' '.join(f'{k}={v.kind if isinstance(v, Spec) else v}' for k, v in given.items())}".strip()


def each(base: type) -> list:
    """Examples of everything that is registered."""
    return [pytest.param(one, id=named(one)) for cls in registered(base) for one in examples(cls)]


def asking(target: Target, method: type[Method] | Method) -> Target:
    """The target, under the task that a method does, where it takes no single labels."""
    return target if "single-label" in method.tasks else replace(target, task=Spec.kinds[method.tasks[0]]())


def trial(method: Method, seed: int = 1, target: Target = TARGET, source: Source | None = SOURCE) -> Trial:
    target = asking(target, method)
    if method.own_task:
        return Trial.of_source(source, method, BACKBONE, seed)
    return Trial(target, method, BACKBONE, seed, None if method.starts is False else source)


def network(seed: int = 3) -> torch.nn.Module:
    return build(BACKBONE, 24, 6, seed)


def put_source(root: Path, asked: Trial, net: torch.nn.Module | None = None) -> Path | None:
    """Put a source's network where the trial finds it; return its file."""
    if not asked.start:
        return None
    give(root, asked.start, net or build(BACKBONE, 24, 5 if asked.before else 6, seed=3))
    return context(root).store.file(asked.start)


def plain(value: object) -> bool:
    """Whether a record or a table may hold it: numbers that are numbers, words, lists of these."""
    if isinstance(value, list):
        return all(map(plain, value))
    return isinstance(value, str | int | None) or (isinstance(value, float) and math.isfinite(value))


def status(root: Path, asked: Trial) -> str:
    """What came of a trial: nothing may be raised but a refusal."""
    try:
        return Lab(root, workers=1, device="cpu", quiet=True).run([asked])["status"][0]
    except UserError as e:
        return f"refused: {e}"


# ------------------------------------------------------------------------------------------------------- registration


@pytest.mark.parametrize("base", [Method, Measure, Regulariser])
def test_everything_that_is_registered_has_examples_and_a_version(base):
    assert registered(base)
    for cls in registered(base):
        assert examples(cls), f"no example of {cls.__name__} could be made: name its choices in the docstring"
        assert cls.version, f"{cls.__name__} has no version: its results could not be told from later ones"
        assert cls.__dataclass_params__.frozen
        assert cls.__name__ in vars(measure if base is Measure else methods), f"{cls.__name__} cannot be imported"


def test_examples_try_every_field():
    """The rule that makes them is not blind."""
    for cls in (*registered(Method), *registered(Measure), *registered(Regulariser)):
        tried = {f.name: {str(getattr(one, f.name)) for one in examples(cls)} for f in fields(cls)}
        assert all(len(seen) > 1 for name, seen in tried.items() if name not in MADE_BY_HAND), tried


# -------------------------------------------------------------------------------------------------------------- specs


@pytest.mark.parametrize("one", [*each(Method), *each(Measure), *each(Regulariser)])
def test_a_spec_goes_to_json_and_back(one):
    again = Spec.from_dict(json.loads(json.dumps(one.to_dict())))
    assert (again, again.key, hash(again)) == (one, one.key, hash(one))
    assert repr(one).startswith(type(one).__name__)


@pytest.mark.parametrize("method", each(Method))
def test_what_a_method_says_about_itself(method):
    asked = trial(method)
    assert hasattr(method, "prepare") != hasattr(method, "evaluate"), "exactly one of the two"
    assert Trial.from_dict(json.loads(json.dumps(asked.to_dict()))) == asked
    about = method.columns()
    assert all(plain(value) and not isinstance(value, list) for value in about.values())
    assert not about.keys() & (asked.columns().keys() - about.keys()), "a column of the trial would be covered"
    assert 0 < asked.cost() < 3600
    assert all(isinstance(need, Artefact) and need.cost() > 0 for need in asked.needs())
    assert "\n" not in asked.label
    assert f", {method.kind}" in asked.label
    assert len({trial(method, seed).key for seed in range(3)}) == 3
    if asked.recipe and method.packable:
        rate = replace(method, recipe=replace(RECIPE, lr=0.1, weight_decay=0.1, momentum=0.5))
        assert trial(rate).shape == trial(method, seed=2).shape == asked.shape
    else:
        assert asked.shape == asked.key


@pytest.mark.parametrize("cls", registered(Method))
def test_any_field_of_a_method_may_be_searched(cls):
    """Of all examples that differ in it alone."""
    first, *_ = examples(cls)
    for name in (f.name for f in fields(cls) if f.name != "recipe"):
        others = [f.name for f in fields(cls) if f.name != name]
        rest = [one for one in examples(cls) if all(getattr(one, n) == getattr(first, n) for n in others)]
        options = tuple(dict.fromkeys(getattr(one, name) for one in rest))
        if len(options) < 2:
            continue
        method = replace(first, **{name: OneOf(*options, seeds=(0, 1))})
        asked = trial(method)
        assert {t.method for t in asked.searches()} == set(rest)
        assert asked.columns()[name] is None
        assert asked.cost() > 0
        accuracy = {t.key: float(t.method == rest[-1]) for t in asked.searches()}
        assert asked.resolve(accuracy) == trial(rest[-1])
        assert Trial.from_dict(asked.to_dict()) == asked


# ------------------------------------------------------------------------------------------------------------ running


def pixels_of(asked: Trial) -> dict[str, bytes]:
    parts = {(p.images, p.size) for p in (asked.target, asked.source) if p}
    return {
        f"{one.name} {split}": part.pixels.numpy().tobytes() + part.labels.tobytes()
        for one, size in parts
        for split, part in images.load(one, size).splits.items()
    }


@pytest.mark.parametrize("method", each(Method))
def test_a_trial_of_it(method, tmp_path):
    """Test and validation on record, plain; the same bits twice; what it was given is as it was."""
    asked, found, losses = trial(method), [], []
    before = pixels_of(asked)
    for root in (tmp_path / "one", tmp_path / "two"):
        file = put_source(root, asked)
        kept = file and file.read_bytes()
        with trainings() as seen:
            found.append(run(root, asked))
        assert (file and file.read_bytes()) == kept, "the source's network was written over"
        losses.append([one.fitted.losses for one in seen])
        assert len(seen) == asked.trains
    assert found[0] == found[1]
    assert all(torch.equal(*pair) for pair in zip(*losses, strict=True))
    assert pixels_of(asked) == before
    metrics = found[0]
    assert plain([*metrics.values()]), metrics
    assert json.loads(json.dumps(metrics)) == metrics
    splits = ("",) if method.own_task else ("", "validation_")
    score = asked.target.asks.score
    assert all(0 <= metrics[f"{split}{score}"] <= 1 and metrics[f"{split}n"] > 0 for split in splits)
    if asked.target.task:
        assert f"validation_{score}" == asked.target.asks.chosen_by
    elif asked.trains or "log_loss" in metrics:  # where there are logits
        assert all(f"{split}{name}" in metrics for split in splits for name in ("mean_class_accuracy", "log_loss"))
    if asked.trains:
        assert 0 < metrics["trained"] <= metrics["parameters"]
    row = Lab(tmp_path / "one", run="missing", workers=1, device="cpu", quiet=True).run([asked]).iloc[0]
    assert row["status"] == "ok"
    assert row["key"] == asked.key


@pytest.mark.parametrize("method", each(Method))
def test_another_seed_is_another_draw(method, tmp_path):
    drawn = []
    for seed in (1, 2):
        asked = trial(method, seed)
        put_source(tmp_path, asked, network(seed))
        drawn.append(run(tmp_path, asked))
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("method", each(Method))
def test_one_image_a_class(method, tmp_path):
    asked = trial(method, target=replace(TARGET, subset=Subset(classes=5, per_class=1)), source=SOURCE)
    put_source(tmp_path, asked)
    assert plain([*run(tmp_path, asked).values()])


@pytest.mark.parametrize("method", [one for one in each(Method) if one.values[0].tasks != ("detection",)])
def test_one_class_is_refused(method, tmp_path):
    one = Subset(classes=("lobed-0-0",))
    asked = trial(method, target=replace(TARGET, subset=one), source=replace(SOURCE, subset=one))
    put_source(tmp_path, asked)
    assert status(tmp_path, asked) == "refused: classes (=1): at least two must be left"
    assert Store(tmp_path).get(asked.key)["status"].startswith("refused: ")


@pytest.mark.parametrize("cls", registered(Method))
def test_with_a_source_where_none_is_needed_and_without_one_where_one_is(cls):
    own = asking(Target(SOURCE.images, 24, SOURCE.subset), cls)
    for source in (None, SOURCE):
        if cls.starts in (None, source is not None):
            assert bool(Trial(own, examples(cls)[0], BACKBONE, 1, source).start) == bool(source)
            continue
        word = "one" if cls.starts else "none"
        with pytest.raises(UserError, match=rf"source \(=.*\): {cls.kind} needs {word}"):
            Trial(own, examples(cls)[0], BACKBONE, 1, source)


@pytest.mark.parametrize("method", each(Method))
def test_a_wrong_layer_is_named(method, tmp_path):
    """Any field that names one."""
    known = taps(network())
    layers = [f.name for f in fields(method) if getattr(method, f.name) in known]
    for name in layers:
        layer = getattr(method, name)
        asked = trial(replace(method, **{name: f"{layer}7"}))
        put_source(tmp_path, asked)
        found = status(tmp_path, asked)
        rule = rf"refused: (refused: )?layer \(={layer}7\): must be one of .*did you mean {layer}\?"
        assert re.match(rule, found), found


@pytest.mark.parametrize("method", [one for one in each(Method) if one.values[0].starts is not False])
def test_weights_that_are_no_numbers_are_refused(method, tmp_path):
    asked, net = trial(method), network()
    net.conv3.conv.weight.data[0] = torch.nan
    put_source(tmp_path, asked, net)
    found = status(tmp_path, asked)
    assert re.match(
        r"(refused: )+(source: )?weights \(=.*\): hold what is no finite number \(conv3.conv.weight\)", found
    )
    assert Store(tmp_path).get(asked.key)["status"].startswith("refused: ")


@pytest.mark.parametrize("method", [one for one in each(Method) if hasattr(one.values[0], "recipe")])
def test_a_training_that_diverges_is_a_record(method, tmp_path):
    asked = trial(replace(method, recipe=replace(RECIPE, steps=40, lr=99.0, warmup=0.0)))
    put_source(tmp_path, asked)
    if (found := status(tmp_path, asked)) != "ok":  # normalisation, and little that is trained, hold much
        assert found.startswith("diverged: the loss was no longer finite by step ")
        assert Store(tmp_path).get(asked.key)["metrics"] == {}


# ------------------------------------------------------------------------------------------ measures and regularisers


def started(asked: Trial) -> bool:
    """Whether nothing is said against a trial, with its measures, before it is trained."""
    with tempfile.TemporaryDirectory() as root:
        put_source(Path(root), asked)
        try:
            ready = asked.prepare(context(Path(root)))
            for one in asked.measures:
                one.watch(asked, ready, context(Path(root)))
        except UserError:
            return False
    return True


def measured(one: Trial, by: Measure) -> Trial | None:
    """A trial with a measure, where it has what that looks at."""
    with suppress(UserError):
        return replace(one, measures=(by,))


@cache
def hosted(cls: type[Measure]) -> list[Trial]:
    """Trials with a measure that have what it looks at: for each example of it the first of all examples of methods."""
    training = [trial(m) for kind in registered(Method) for m in examples(kind) if hasattr(m, "prepare")]
    head = trial(methods.FineTune(RECIPE, freeze="representation"))
    training.append(replace(head, method=methods.FineTune(RECIPE, keep_head=True), source=head))  # a chain
    found = []
    for one in examples(cls):
        try:
            found.append(
                next(t for before in training if before.source and (t := measured(before, one)) and started(t))
            )
        except StopIteration:
            continue
    assert found, f"no example of a method has what {cls.__name__} looks at"
    return found


@pytest.mark.parametrize("cls", registered(Measure))
def test_a_measure_puts_its_columns_on_record_and_changes_nothing(cls, tmp_path):
    for number, asked in enumerate(hosted(cls)):
        plain_trial = replace(asked, measures=())
        assert asked.key == plain_trial.key
        found, losses, after = [], [], []
        for name, one in (("plain", plain_trial), ("seen", asked), ("again", asked)):
            put_source(tmp_path / f"{name}{number}", asked)
            with trainings() as seen:
                found.append(run(tmp_path / f"{name}{number}", one))
            losses.append(seen[0].fitted.losses)
            after.append(seen[0].run.trained.state_dict())
        assert found[0].items() <= found[1].items()
        assert found[1] == found[2]
        assert torch.equal(losses[0], losses[1])
        assert all(torch.equal(v, after[1][n]) for n, v in after[0].items()), "the network was changed"
        new = found[1].keys() - found[0].keys()
        assert cls.columns
        assert set(cls.columns) <= new
        assert plain([*found[1].values()])
        assert not new & asked.columns().keys()


@pytest.mark.parametrize("cls", registered(Measure))
def test_a_measure_that_is_asked_later_is_added(cls, tmp_path):
    """The training is done again, and agrees with what is on record."""
    asked = hosted(cls)[0]
    put_source(tmp_path, asked)
    before = run(tmp_path, replace(asked, measures=()))
    lab = Lab(tmp_path, workers=1, device="cpu", quiet=True)
    assert [t.key for t in lab.missing([asked])] == [asked.key]
    after = run(tmp_path, asked)
    assert before.items() <= after.items()
    assert set(cls.columns) <= after.keys()
    assert not lab.missing([asked])
    with trainings() as seen:
        run(tmp_path, replace(asked, measures=()))
    assert not seen


@pytest.mark.parametrize("cls", registered(Measure))
def test_a_measure_of_one_image_a_class(cls, tmp_path):
    few = replace(hosted(cls)[0], target=replace(TARGET, subset=Subset(classes=5, per_class=1)))
    put_source(tmp_path, few)
    assert plain([*run(tmp_path, few).values()])


@pytest.mark.parametrize("cls", registered(Measure))
def test_a_measure_killed_and_gone_on_has_seen_the_same(cls, tmp_path, monkeypatch):
    asked = hosted(cls)[0]
    for name in ("whole", "killed"):
        put_source(tmp_path / name, asked)
    whole = run(tmp_path / "whole", asked)
    begun = killed_at(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", asked)
    assert run(tmp_path / "killed", asked) == whole
    assert begun == [0, 1, 2, 3, 3, 4, 5]


@pytest.mark.parametrize("one", each(Regulariser))
def test_a_regulariser_changes_training_alone_and_packed_alike(one, tmp_path):
    """It is bound to each network that is really trained."""
    (holder, *_) = [cls for cls in registered(Method) if "hold" in get_type_hints(cls)]
    free = next(m for m in examples(holder) if m.hold is None)
    found = {}
    for name, hold, pack in (("free", None, 1), ("alone", one, 1), ("packed", one, 2)):
        method = replace(free, hold=hold, recipe=replace(RECIPE, lr=0.03, steps=15))
        asked = [trial(method, seed) for seed in (1, 2)]
        for each_trial in asked:
            put_source(tmp_path / name, each_trial, network(each_trial.seed))
        with trainings() as seen:
            Lab(tmp_path / name, workers=1, device="cpu", quiet=True, pack=pack).run(asked)
        together = Store(tmp_path / name).get(asked[0].key)["provenance"].get("together", 1)
        assert together == pack
        found[name] = torch.stack([s.fitted.losses for s in sorted(seen, key=lambda s: s.job.training.seed)])
    apart = (found["free"] - found["alone"]).abs().max()
    assert apart > 1e-4
    assert (found["packed"] - found["alone"]).abs().max() < 0.1 * apart


def test_what_is_refused_is_refused_before_any_training(tmp_path, monkeypatch):
    """By any measure, of any method that has not what it looks at."""
    monkeypatch.setattr(work, "fit_together", lambda *a, **k: pytest.fail("it was trained"))
    refused = 0
    for one, method in itertools.product(
        *([examples(cls)[0] for cls in registered(base)] for base in (Measure, Method))
    ):
        if not hasattr(method, "prepare"):
            with pytest.raises(UserError, match=rf"measures \(=1\): {method.kind} trains nothing"):
                replace(trial(method), measures=(one,))
        elif not (asked := measured(trial(method), one)):
            refused += 1
        elif method.starts and not started(asked):
            put_source(tmp_path, asked)
            assert status(tmp_path, asked).startswith("refused: ")
            refused += 1
    assert refused
