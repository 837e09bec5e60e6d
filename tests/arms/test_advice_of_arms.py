"""Advice on hand-made tables: what is known beforehand is what comes out."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from scipy.stats import t as student

from transferlab.arms.advice import (
    Cases,
    advise,
    cases,
    constant,
    described,
    expected,
    nearness,
    odds,
    size_of,
    tried_out,
)
from transferlab.errors import UserError
from transferlab.methods import KNN
from transferlab.specs import AlexNet, Subset, Target, Trial

SETTINGS = ["frozen", "slow", "fast"]
FAMILIES = ("flowers102", "caltech101", "pacs", "mnist")
TASKS = {"flowers102": 0.0, "caltech101": 10.0, "pacs/photo": 10.0, "pacs/sketch": 10.0, "mnist": 10.0}


def made(seeds=6, **reached) -> Cases:
    """Tasks of one description and their accuracies by setting, the same on validation as on test."""
    index = pd.MultiIndex.from_product([TASKS, range(seeds)], names=["target", "seed"])
    table = pd.DataFrame([reached.get(t.split("/")[0], [50.0, 60.0, 55.0]) for t, _ in index], index, SETTINGS)
    about = pd.DataFrame({"how": TASKS}, index=pd.Index(TASKS, name="target"))
    return Cases(about, table, table.copy())


def test_a_task_is_described_in_numbers_that_can_be_compared():
    found = described(classes=10, images=1000, leep=-np.log(10) / 2, frozen=50.0)
    assert found == pytest.approx(
        {"classes": np.log(10), "images a class": np.log(100), "labels known": 0.5, "frozen": 0.0}
    )
    assert odds([0.0, 100.0]) == pytest.approx([logit(0.005), logit(0.995)])  # none and all are no infinities


def test_the_nearest_decides_where_the_others_are_far():
    """It alone is better fast; another task, as far from all, would be told what most have."""
    known = made(flowers102=[50.0, 55.0, 70.0])
    assert advise(known, pd.Series({"how": 0.0})).setting == "fast"
    assert advise(known, pd.Series({"how": 10.0})).setting == "slow"
    near = advise(known, pd.Series({"how": 0.0})).near
    assert near.index[0] == "flowers102"
    assert near["distance"].iloc[0] == 0


def test_weights_are_a_gaussian_of_the_distance_and_families_share_theirs():
    about = made().about
    near = nearness(about, pd.Series({"how": 0.0}))
    spread = about["how"].std(ddof=0)
    assert near["distance"]["mnist"] == pytest.approx(10 / spread)
    ratio = np.exp(-((10 / spread) ** 2) / 2)
    assert near["weight"]["mnist"] / near["weight"]["flowers102"] == pytest.approx(ratio)
    assert near["weight"]["pacs/photo"] == near["weight"]["pacs/sketch"] == near["weight"]["mnist"] / 2
    assert near["weight"].sum() == pytest.approx(1)


def test_what_tells_no_task_from_another_counts_nothing():
    about = made().about.assign(same=1.0)
    near = nearness(about, pd.Series({"how": 0.0, "same": 7.0}))
    pd.testing.assert_frame_equal(near, nearness(about[["how"]], pd.Series({"how": 0.0})))


def test_of_equals_the_cheaper_one_is_advised():
    known = made(**{name: [60.0, 60.0, 60.0] for name in FAMILIES})
    found = advise(known, pd.Series({"how": 0.0}))
    assert (found.setting, found.ahead, found.half) == ("frozen", 0.0, 0.0)
    assert expected(found, 80.0) == pytest.approx((80.0, 80.0, 80.0))


def test_the_interval_is_that_of_one_more_family():
    """Where all are as far, by hand: the mean of log odds over families, and their spread."""
    known = made(flowers102=[50, 70, 50], caltech101=[50, 60, 50], pacs=[50, 80, 50], mnist=[50, 90, 50])
    known.about["how"] = [0.0, 1.0, 0.0, 1.0, 0.0]
    found = advise(known, pd.Series({"how": 0.5}))
    ahead = logit([0.7, 0.6, 0.8, 0.9])
    assert (found.setting, found.ahead) == ("slow", pytest.approx(ahead.mean()))
    half = student.ppf(0.975, 3) * ahead.std(ddof=1) * (1 + 1 / 4) ** 0.5
    assert found.half == pytest.approx(half)
    told = 100 * expit(logit(0.4) + ahead.mean() + np.array([0, -half, half]))
    assert expected(found, 40.0) == pytest.approx(tuple(told))


def test_one_family_that_is_all_the_evidence_gives_no_interval():
    known = made()
    known.about["how"] = [0.0, 1000.0, 1000.0, 1000.0, 1000.0]
    known.about["too"] = [0.0, 1000.0, 1000.0, 1000.0, 1000.0]
    found = advise(known, pd.Series({"how": -2000.0, "too": -2000.0}))
    assert found.half == np.inf
    assert expected(found, 50.0)[1:] == (0.0, 100.0)


def test_too_few_families():
    known = made()
    known = Cases(*(table.loc[["pacs/photo", "pacs/sketch", "mnist"]] for table in known))
    words = r"families of measured tasks \(=2\): must be 3 or more to give advice from$"
    with pytest.raises(UserError, match=words):
        advise(known, pd.Series({"how": 0.0}))


def test_the_first_four_repetitions_choose_and_test_images_do_not():
    known = made()
    known.validation.loc[(slice(None), [4, 5]), "fast"] = 99.0
    known.test["fast"] = 99.0
    assert (advise(known, pd.Series({"how": 0.0})).setting, constant(known)) == ("slow", "slow")


def test_the_best_constant_is_a_mean_of_families_not_of_tasks():
    known = made(flowers102=[50, 60, 65], caltech101=[50, 60, 65], pacs=[50, 62, 50], mnist=[50, 60, 65])
    assert constant(known) == "fast"


def test_regret_is_against_the_best_on_validation_and_the_family_is_left_out():
    known = made(pacs=[50, 40, 60])
    found = tried_out(known, default="fast")
    assert len(found) == len(TASKS) * 6
    of = found.groupby("target").first()
    assert list(of.loc["pacs/photo", ["advised", "constant", "best"]]) == ["slow", "slow", "fast"]  # of the others
    regrets = of.loc["pacs/photo", [f"regret of {way}" for way in ("advice", "constant", "default", "frozen")]]
    assert list(regrets) == [20, 20, 0, 10]
    assert (of.loc["mnist", "advised"], of.loc["mnist", "regret of advice"]) == ("fast", 5)  # for what the others have
    assert (of["low"] <= of["expected"]).all()
    assert of.loc["pacs/photo", "reached"] == 40


def test_a_setting_that_some_repetitions_lack():
    known = made(**{name: [50.0, 60.0, 70.0] for name in FAMILIES})
    for table in known[1:]:
        table.loc[(slice(None), [4, 5]), "fast"] = np.nan
    found = tried_out(known, default="slow")
    assert set(found["advised"]) == {"fast"}
    assert found["regret of default"].isna().sum() == 2 * len(TASKS)


def test_cases_come_from_records():
    base = {"classes": 4, "images": 80, "leep": np.nan}
    rows = [
        base | {"target": "mnist", "seed": seed, "setting": setting, "validation_mean_class_accuracy": v}
        for setting, v in (("frozen", 50.0), ("fast", np.nan))
        for seed in range(5)
    ]
    records = pd.DataFrame(rows).assign(mean_class_accuracy=lambda f: f["validation_mean_class_accuracy"] + 1)
    leep = pd.DataFrame([base | {"target": "mnist", "seed": seed, "leep": -0.5} for seed in range(2)])
    known = cases(pd.concat([records, leep]))
    assert list(known.test.columns) == ["frozen", "fast"]
    assert (known.test["fast"] == 0).all()  # it diverged
    assert known.test.loc[("mnist", 4), "frozen"] == 51
    assert dict(known.about.loc["mnist"]) == pytest.approx(described(4, 80, -0.5, 50.0))


@pytest.mark.parametrize(
    ("name", "subset", "size"),
    [
        ("flowers102", Subset(), (102, 2040)),  # with its own validation images
        ("mnist", Subset(), (10, 2500)),
        ("mnist", Subset(per_class=30), (10, 300)),
        ("synthetic:0", Subset(classes=20, per_class=15), (20, 300)),
    ],
)
def test_the_size_of_a_task_is_known_without_its_images(name, subset, size):
    trial = Trial(Target(name, 16, subset), KNN("fc7"), AlexNet((2, 2, 2, 2, 2), (4, 4)), 0)
    assert tuple(size_of(trial).values()) == size
