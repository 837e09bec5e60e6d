"""Networks, features and records are made once, in order, and kept where something needs them."""

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest
import torch
from interruptions import BACKBONE, SOURCE, TARGET, weights
from small_world import CPU, trainings
from test_lab import source_task

from transferlab.errors import UserError
from transferlab.lab import Lab
from transferlab.measure import Blocks, Forgetting, UnitTrace
from transferlab.methods import L2SP, Distillation, FineTune, Grow, Probe, Scratch
from transferlab.run import work
from transferlab.run.context import Context
from transferlab.specs import Artefact, Measure, OneOf, Pretrained, Recipe, Trained, Trial
from transferlab.specs.serial import combinations
from transferlab.store import Store
from transferlab.train.checkpoint import Checkpoint
from transferlab.train.fit import fit_together

pytestmark = pytest.mark.usefixtures("one_world")

QUICK = Recipe(steps=6, batch=16, lr=0.05)
SOURCE = replace(SOURCE, recipe=replace(QUICK, steps=8))
LR, HEAD = OneOf(0.02, 0.1, seeds=(0, 1)), OneOf(1.0, 10.0, seeds=(0, 1))


def tune(source=SOURCE, seed: int = 0, measures=(), recipe=None, **method) -> Trial:
    """Fine-tuning of a source, or of what another trial left."""
    return Trial(TARGET, FineTune(replace(QUICK, **recipe or {}), **method), BACKBONE, seed, source, measures)


def probe_then_tune(seed: int = 0, lr: float | OneOf = 0.05, **method) -> Trial:
    """A head alone, whose rate may be searched, and then everything."""
    return tune(tune(seed=seed, freeze="fc7", recipe={"lr": lr}), seed, **method)


def grown(seed: int = 0, measures: tuple[Measure, ...] = ()) -> Trial:
    return Trial(TARGET, Grow(QUICK, "widen", (6,)), BACKBONE, seed, SOURCE, measures)


def run(root, *trials: Trial, **lab):
    return Lab(root, workers=1, device="cpu", quiet=True, **lab).run(trials)


def metrics(table) -> list[dict]:
    """What does not differ between two runs of a study."""
    return json.loads(table.drop(columns=[c for c in table if c.endswith("seconds")]).to_json(orient="records"))


@pytest.fixture
def trained(monkeypatch) -> list[int]:
    """The number of networks of each training."""
    sizes: list[int] = []
    monkeypatch.setattr(
        work, "fit_together", lambda runs, **more: (sizes.append(len(runs)), fit_together(runs, **more))[1]
    )
    return sizes


def behind(made: Artefact) -> Iterator[Artefact]:
    """What is made for an artefact, and itself."""
    yield made.training
    for need in made.training.needs():
        yield from behind(need)


def different(trials: Iterable[Trial]) -> int:
    """The number of trainings that trials need, each counted once."""
    return len({made.key for trial in trials for made in behind(trial) if made.trains})


# -------------------------------------------------------------------------------------------------- one training is one


def study(seeds: Iterable[int] = (0, 3)) -> list[Trial]:
    """A study with searches, chains, measures and sources that stop early."""
    stops = OneOf(None, 0.5, 0.25, seeds=(0, 1))
    return [
        trial
        for seed in seeds
        for trial in (
            tune(seed=seed),
            tune(seed=seed, measures=(Forgetting(),)),
            tune(seed=seed, recipe={"lr": LR}, head_lr=HEAD, measures=(Forgetting(),)),
            grown(seed, (UnitTrace(looks=3),)),
            grown(seed, (Blocks(),)),
            tune(replace(SOURCE, stop=0.5), seed),
            tune(replace(SOURCE, stop=stops), seed),
            probe_then_tune(seed).source,
            probe_then_tune(seed, recipe={"lr": LR}),
            probe_then_tune(seed, LR, recipe={"lr": LR}),
            tune(probe_then_tune(seed, LR), seed, hold=L2SP(0.1)),
            replace(probe_then_tune(seed), method=Probe()),
        )
    ]


@pytest.mark.parametrize("pack", [None, 4])
def test_no_training_is_run_twice(tmp_path, trained, pack):
    lab = Lab(tmp_path, workers=1, quiet=True, pack=pack)
    assert (lab.run(study())["status"] == "ok").all()
    assert sum(trained) == different(lab.closure(study()))
    del trained[:]
    again = Lab(tmp_path, workers=1, quiet=True).run(study())
    assert trained == []
    assert set(Forgetting.columns + UnitTrace.columns + Blocks.columns) <= set(again)


# ---------------------------------------------------------------------------------------------------- sources that stop


def test_a_source_that_stops_is_the_full_one_on_its_way(tmp_path):
    stops = [replace(SOURCE, stop=share) for share in (None, 0.5, 0.25)]
    with trainings() as found:
        run(tmp_path / "all", *(tune(source) for source in stops))
    assert [seen.run.last for seen in found if seen.job.trial is None] == [8]
    with trainings() as found:
        run(tmp_path / "half", tune(stops[1]))
    assert [len(seen.fitted.losses) for seen in found if seen.job.trial is None] == [4]
    made = [Store(tmp_path / "all").file(Pretrained(source, BACKBONE, 0)) for source in stops]
    assert len({weights(path) for path in made}) == 3
    (alone,) = (tmp_path / "half" / "networks").iterdir()
    assert weights(alone) == weights(made[1])
    assert alone.name == made[1].name


# --------------------------------------------------------------------------------------------------------------- chains


def test_a_chain_starts_from_what_the_trial_before_left(tmp_path):
    chain = probe_then_tune()
    with trainings() as found:
        table = run(tmp_path, chain, chain.source)
    first = next(seen for seen in found if seen.job.key == chain.source.key)
    start = Context(CPU, Store(tmp_path)).network(chain)
    left = first.run.trained.state_dict()
    assert all(torch.equal(value, left[name]) for name, value in start.state_dict().items())
    assert all(p.requires_grad for p in start.parameters())
    assert not any(getattr(module, "frozen", False) for module in start.modules())
    assert list(table["trained"]) == [table["parameters"][0], BACKBONE.hidden[-1] * 5 + 5]
    assert table["via"][0].endswith("fine-tune lr 0.05")


def test_a_network_is_kept_only_where_something_needs_it(tmp_path, trained):
    chain = probe_then_tune()
    run(tmp_path / "all", chain, chain.source)
    kept = {path.stem for path in (tmp_path / "all" / "networks").iterdir()}
    assert kept == {chain.source.start.key, Trained(chain.source).key}
    assert trained == [1, 1, 1]
    run(tmp_path / "one", chain.source)
    record = Store(tmp_path / "one").path(chain.source.key).read_bytes()
    assert [path.stem for path in (tmp_path / "one" / "networks").iterdir()] == [chain.source.start.key]
    run(tmp_path / "one", chain)
    assert {path.stem for path in (tmp_path / "one" / "networks").iterdir()} == kept
    assert Store(tmp_path / "one").path(chain.source.key).read_bytes() == record
    for path in (tmp_path / "one" / "networks").iterdir():
        assert weights(path) == weights(tmp_path / "all" / "networks" / path.name)


def test_what_a_diverged_trial_was_to_leave_is_told_by_all_that_need_it(tmp_path, trained):
    wild = tune(recipe={"lr": 99.0, "steps": 60})
    second = tune(wild)
    trials = [tune(second), second, replace(second, method=Probe()), wild]
    for _ in range(2):
        *needing, own = run(tmp_path, *trials)["status"]
        assert own.startswith("diverged: the loss was no longer finite by step")
        assert set(needing) == {own.replace("diverged: ", "diverged: source: ")}
        assert trained == [1, 1]


# ------------------------------------------------------------------------------------------------------------- searches


def test_a_search_tries_every_choice_and_the_first_wins_ties():
    trial = tune(replace(SOURCE, stop=OneOf(None, 0.5, seeds=(0, 1))), 5, recipe={"lr": LR}, head_lr=HEAD)
    trial = replace(trial, method=replace(trial.method, hold=OneOf(None, L2SP(0.1), seeds=(0, 1))))
    choices = trial.choices
    assert len(choices) == 2**4
    assert [[t.seed for t in seeds] for seeds in choices] == [[0, 1]] * 16
    made = [(c[0].source.stop, c[0].recipe.lr, c[0].method.head_lr, c[0].method.hold) for c in choices]
    assert set(made) == {*itertools.product((None, 0.5), (0.02, 0.1), (1.0, 10.0), (None, L2SP(0.1)))}
    equal = {t.key: 0.5 for t in trial.searches()}
    assert trial.resolve(equal) == choices[0][0].at_seed(5)
    assert trial.resolve(equal | {choices[7][1].key: 0.6}) == choices[7][0].at_seed(5)
    del equal[choices[7][1].key]
    assert trial.resolve(equal) is None
    assert len(combinations(trial.options)) == 16


def test_a_search_reads_validation_alone_and_its_training_is_what_is_reported(tmp_path, trained):
    trial = tune(seed=1, recipe={"lr": LR})
    lab, store = Lab(tmp_path, workers=1, quiet=True), Store(tmp_path)
    lab.run([trial])
    assert sum(trained) == 2 + 2 * 2
    for chosen in trial.choices:
        for other in trial.searches():
            known = store.get(other.key)
            better = {"validation_accuracy": float(other in chosen), "accuracy": float(other not in chosen)}
            store.put(other, "ok", known["metrics"] | better, 1.0, {})
        assert Lab(tmp_path).resolve(trial) == chosen[1]
        assert Lab(tmp_path, workers=1).run([trial])["accuracy"][0] == 0.0
    assert sum(trained) == 2 + 2 * 2


def test_a_chain_whose_first_step_is_searched(tmp_path, trained):
    trial = probe_then_tune(3, LR, recipe={"lr": LR})
    lab = Lab(tmp_path, workers=1, quiet=True)
    assert lab.resolve(trial) is None
    assert [t.seed for t in lab.plan([trial]).runs] == [0, 1, 0, 1, 3]  # the first step's search, and what comes then
    table = lab.run([trial])
    chosen = lab.resolve(trial)
    assert (chosen.source.recipe.lr, chosen.recipe.lr) == (lab.resolve(trial.source).recipe.lr, table["lr"][0])
    assert table["key"][0] == chosen.key
    assert sum(trained) == 3 + 4 + 4 + 2  # sources; a rate of each step, for two seeds; and the chosen ones
    closure = lab.closure([trial])
    assert len(closure) == 4 + 4 + 1
    published = {t.key: lab.record(t) for t in closure}
    assert metrics(Lab(tmp_path / "none", run="never", published=published).run([trial])) == metrics(table)


def test_a_search_of_a_chain_that_failed_is_told(tmp_path):
    wild = tune(recipe={"lr": OneOf(98.0, 99.0, seeds=(0,)), "steps": 60})
    assert run(tmp_path, tune(wild, recipe={"lr": LR}))["status"][0].startswith("diverged: source: ")


# -------------------------------------------------------------------------------------------------- columns of a record


def test_a_measure_that_a_record_lacks_is_taken_and_what_was_there_stays(tmp_path, trained):
    plain = grown()
    before = run(tmp_path, plain).loc[0]
    store = Store(tmp_path)
    store.put(plain, "ok", {"measured_by_another": 1.5}, 1.0, {})
    measured = grown(measures=(Blocks(),))
    assert [t.key for t in Lab(tmp_path).missing([measured])] == [plain.key]
    table = run(tmp_path, measured)
    assert sum(trained) == 3
    assert table.loc[0, "measured_by_another"] == 1.5
    assert {"accuracy_old", "accuracy_new"} <= set(table)
    assert table.loc[0, "train_loss"] == before["train_loss"]
    run(tmp_path, measured, plain)
    assert sum(trained) == 3


def test_a_published_record_is_united_with_what_was_measured_since(tmp_path, trained):
    run(tmp_path / "there", grown())
    record = Store(tmp_path / "there").get(grown().key)
    record["metrics"]["measured_by_another"] = 1.5
    lab = Lab(tmp_path / "here", workers=1, published={record["key"]: record})
    table = lab.run([grown(measures=(Blocks(),))])
    assert table.loc[0, "measured_by_another"] == 1.5
    assert "accuracy_old" in table
    assert sum(trained) == 4
    assert "measured_by_another" not in Store(tmp_path / "here").get(record["key"])["metrics"]


def test_a_metric_that_a_record_lacks_is_measured_where_it_is_asked_for(tmp_path, trained):
    """As migrated records do, which have no log loss."""
    lab = Lab(tmp_path, workers=1, device="cpu", quiet=True)
    (whole,) = metrics(lab.run([tune()]))
    path = lab.store.path(tune().key)
    record = json.loads(path.read_text())
    loss = record["metrics"].pop("log_loss")
    path.write_text(json.dumps(record))
    trained.clear()
    assert "log_loss" not in run(tmp_path, tune())
    assert trained == []
    again = Lab(tmp_path, workers=1, device="cpu", quiet=True).run([tune()], ("log_loss",))
    assert again["log_loss"].tolist() == [loss]
    assert metrics(again) == [whole]
    assert trained == [1]


@pytest.mark.parametrize("column", ["accuracy", "validation_accuracy"])
def test_a_training_that_is_run_again_must_agree_with_its_record(tmp_path, column):
    run(tmp_path, grown())
    store = Store(tmp_path)
    was = store.get(grown().key)["metrics"][column]
    store.put(grown(), "ok", {column: was + 0.2}, 1.0, {})
    rule = rf"{column} of .*grow.* \(={was}\): {was + 0.2} is on record; if the code has changed, raise a version"
    with pytest.raises(UserError, match=rule):
        run(tmp_path, grown(measures=(Blocks(),)))


def test_an_attempt_that_comes_to_nothing_takes_no_record_away(tmp_path, monkeypatch):
    """A measure that does not fit is refused, one that fails is told; what was measured before stays on record."""
    before = run(tmp_path, tune())
    path = Store(tmp_path).path(tune().key)
    kept = path.read_bytes()
    with pytest.raises(UserError, match=r"^blocks \(=\[16\]\): must be two"):
        run(tmp_path, tune(measures=(Blocks(),)))
    monkeypatch.setattr(Forgetting, "measure", lambda *a: 1 / 0)
    table = run(tmp_path, tune(measures=(Forgetting(),)))
    assert list(table["status"]) == ["failed: ZeroDivisionError: division by zero"]
    assert path.read_bytes() == kept
    assert run(tmp_path, tune()).equals(before)


# ---------------------------------------------------------------------------------------------- packed, and interrupted


def kinds(seed: int) -> list[Trial]:
    """Chains, regularisers and measures."""
    return [
        probe_then_tune(seed),
        tune(seed=seed, hold=L2SP(0.5)),
        tune(seed=seed, hold=Distillation(1.0)),
        grown(seed, (UnitTrace(looks=3), Blocks())),
        tune(seed=seed, measures=(Forgetting(),)),
        Trial(TARGET, Scratch(QUICK), BACKBONE, seed),
    ]


def test_packed_equals_alone(tmp_path, trained):
    trials = [trial for seed in range(3) for trial in kinds(seed)]
    together, alone = (run(tmp_path / str(pack), *trials, pack=pack) for pack in (4, 1))
    assert (together["status"] == "ok").all()
    assert trained == [3] * 8 + [1] * 24  # sources, heads, and what is in `kinds`
    for name in ("train_loss", "log_loss", "validation_log_loss", "cka_old_units"):
        apart = (together[name] - alone[name]).abs().max()
        assert apart < 0.02, (name, apart)
    for columns in UnitTrace.columns[1:]:
        pairs = zip(together[columns].dropna(), alone[columns].dropna(), strict=True)
        assert all(torch.allclose(torch.tensor(a), torch.tensor(b), rtol=0.02, atol=1e-4) for a, b in pairs)


@pytest.mark.parametrize("trial", [probe_then_tune(), tune(hold=L2SP(0.5)), grown(measures=(UnitTrace(looks=4),))])
@pytest.mark.parametrize("at", [3, 8, 12])
def test_killed_and_gone_on_with_equals_uninterrupted(tmp_path, monkeypatch, trial, at):
    """With a state kept after every step; it is killed in the source, at its end or in the trial."""
    whole = metrics(run(tmp_path / "whole", trial))
    keep, kept = Checkpoint.keep, []

    def killed(self, state) -> None:
        keep(self, state)
        kept.append(state["step"])
        if len(kept) == at:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "due", lambda self: True)
    monkeypatch.setattr(Checkpoint, "keep", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", trial)
    (left,) = (tmp_path / "killed" / "checkpoints").glob("*.pt")
    assert metrics(run(tmp_path / "killed", trial)) == whole
    steps = [*range(1, 9), *[*range(1, 7)] * (2 if isinstance(trial.source, Trial) else 1)]
    assert kept == steps  # of the source, and of one or two trials: none is taken twice
    assert not left.exists()
    networks = [sorted((tmp_path / which / "networks").iterdir()) for which in ("whole", "killed")]
    assert [(a.name, weights(a)) for a in networks[0]] == [(b.name, weights(b)) for b in networks[1]]


def test_the_source_task_of_a_chain_has_no_network_of_its_own():
    with pytest.raises(UserError, match=r"source \(=.*source-task.*\): trains no network"):
        tune(source_task())
