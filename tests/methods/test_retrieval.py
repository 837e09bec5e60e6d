"""Retrieval: against loops in float64 and scikit-learn, known answers, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from small_world import context, run, small_world  # noqa: F401  (a fixture for the whole module)
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d

from transferlab.data.images import target_sample
from transferlab.errors import UserError
from transferlab.methods import Retrieval
from transferlab.methods.retrieval import ASKING, SHOWN, average_precision, distances, drawn, scores
from transferlab.nets.build import build
from transferlab.run.context import Context
from transferlab.specs import AlexNet, ImageSet, Recipe, Source, Subset, Target, Trial
from transferlab.train.read import read

BACKBONE = AlexNet((8, 8, 8, 8, 8), (24, 16))
SOURCE = Source("synthetic:source", 24, Recipe(steps=1, batch=8, lr=0.1), Subset(classes=7))
TARGET = Target("synthetic:0", 24, Subset(classes=9, per_class=5))
TRIAL = Trial(TARGET, Retrieval(), BACKBONE, 0, SOURCE)


def network() -> nn.Module:
    return build(BACKBONE, 24, 7, seed=0)


def of(method: Retrieval) -> Trial:
    return replace(TRIAL, method=method)


def part(split: str, target: Target = TARGET):
    return drawn(target_sample(target, split, 0), 0)


@pytest.fixture
def found(tmp_path, monkeypatch):
    """A function: what is measured where the features of a sample are what another one makes of it."""

    def measured(features, method: Retrieval | None = None) -> dict:
        monkeypatch.setattr(Context, "features", lambda self, trial, sample, *rest: features(sample))
        return run(tmp_path, of(method or Retrieval()), network())

    return measured


def one_hot(sample) -> torch.Tensor:
    return nn.functional.one_hot(sample.labels, 9).float()


# ------------------------------------------------------------------------------------------------- average precision


def by_loops(away, right) -> float:
    """Average precision of one query; of equals each stands last."""
    ranked = [(d, hit) for d, hit in zip(away, right, strict=True) if np.isfinite(d)]
    each = []
    for distance, hit in ranked:
        if hit:
            before = [other for d, other in ranked if d <= distance]
            each.append(sum(before) / len(before))
    return sum(each) / len(each)


@pytest.mark.parametrize("values", [None, 4])
def test_average_precision_is_that_of_loops_and_of_scikit_learn(values):
    """With ties too: scikit-learn treats them so as well."""
    rng = np.random.default_rng(0)
    away = rng.random((30, 40)) if values is None else rng.integers(0, values, (30, 40)).astype(float)
    right = rng.random((30, 40)) < 0.2
    right[:, 3] = True
    precision, order = average_precision(torch.tensor(away), torch.tensor(right))
    expected = [by_loops(*pair) for pair in zip(away, right, strict=True)]
    assert precision.tolist() == pytest.approx(expected, abs=1e-12)
    oracle = [average_precision_score(r, -a) for r, a in zip(right, away, strict=True)]
    assert precision.tolist() == pytest.approx(oracle, abs=1e-12)
    assert order.tolist() == np.argsort(away, 1, kind="stable").tolist()


def test_the_order_of_equals_does_not_matter():
    right = torch.tensor([[True, False, False, True]])
    one, _ = average_precision(torch.ones(1, 4), right)
    other, _ = average_precision(torch.ones(1, 4), right.flip(1))
    assert one.item() == other.item() == 0.5


# ---------------------------------------------------------------------------------------------------------- distances


def parts_by_loops(maps: np.ndarray, levels: int) -> list[list[np.ndarray]]:
    """The parts of every image, by hand: windows as adaptive pooling has them."""
    side, found = maps.shape[2], []
    for image in maps:
        vectors = []
        for n in range(1, levels + 1):
            ends = [(i * side // n, -(-(i + 1) * side // n)) for i in range(n)]
            vectors += [image[:, a:b, c:d].mean((1, 2)) for a, b in ends for c, d in ends]
        found.append([v / np.linalg.norm(v) for v in vectors])
    return found


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_spatial_search_is_that_of_nested_loops(levels, found, monkeypatch):
    """Of maps by hand, on all that is put on record; in tiles of few queries."""
    monkeypatch.setattr("transferlab.methods.retrieval.ROOM", 900)
    maps = {s: torch.rand(500, 6, 5, 5, generator=torch.Generator().manual_seed(i)) for i, s in enumerate("abc", 7)}
    names = dict(zip(("train", "validation", "test"), maps, strict=True))
    read = {s: maps[name].double().numpy() for s, name in names.items()}

    def features(sample):
        value = maps[names[sample.split]][sample.rows]
        return value if levels > 1 else value.mean((2, 3))

    got = found(features, Retrieval(levels=levels))
    for before, asks, answers in (("", "test", "test"), ("validation_", "validation", "train")):
        q, r = part(asks), part(answers)
        x, y = (parts_by_loops(read[s.split][s.rows], levels) for s in (q, r))
        away = np.array([[np.mean([min(np.linalg.norm(a - b) for b in j) for a in i]) for j in y] for i in x])
        right = (q.labels[:, None] == r.labels).numpy()
        if asks == answers:
            np.fill_diagonal(away, np.inf)
            np.fill_diagonal(right, False)
        some = right.any(1)
        precision = [by_loops(a, hits) for a, hits in zip(away[some], right[some], strict=True)]
        assert got[f"{before}map"] == pytest.approx(np.mean(precision), abs=2e-5)
        first = right[some][np.arange(some.sum()), away[some].argmin(1)]
        assert got[f"{before}accuracy"] == pytest.approx(first.mean(), abs=1e-5)
        assert got[f"{before}n"] == some.sum()
        if not before:
            asked = [q.rows.tolist().index(row) for row in got["asked"]]
            near = away[asked].argsort(1)[:, :SHOWN]
            assert got["answered"] == r.rows.numpy()[near].tolist()
            np.testing.assert_allclose(got["answered_distances"], np.take_along_axis(away[asked], near, 1), atol=2e-4)


def test_one_level_is_plain_retrieval_by_mean_features():
    x, y = torch.rand(7, 1, 5), torch.rand(9, 1, 5)
    torch.testing.assert_close(distances(x, y), torch.cdist(x[:, 0], y[:, 0]))


def test_a_distance_is_not_symmetric_but_none_to_itself():
    x = torch.rand(4, 5, 3)
    there = distances(x, x)
    assert there.diagonal().max() < 1e-3
    assert (there - there.T).abs().max() > 1e-3


def test_parts_are_those_of_adaptive_pooling(tmp_path):
    """Of a real network, through the features that are kept, as from the network itself."""
    got = run(tmp_path, of(Retrieval("conv3", levels=2)), network())

    def vectors(split):
        maps = read(network(), part(split), ["conv3"], None)["conv3"]
        each = [adaptive_avg_pool2d(maps, n).flatten(2) for n in (1, 2)]
        return nn.functional.normalize(torch.cat(each, 2).transpose(1, 2), dim=2)

    x = vectors("test")
    assert scores(part("test"), part("test"), distances(x, x))["map"] == pytest.approx(got["map"], abs=2e-5)


# --------------------------------------------------------------------------------------------------------- components


def test_all_components_without_whitening_only_centre(found):
    """Distances are those of features less the mean of the training images."""
    values = torch.rand(500, 6, generator=torch.Generator().manual_seed(3))
    known = nn.functional.normalize(values[part("train").rows])
    centred = lambda sample: nn.functional.normalize(values[sample.rows]) - known.mean(0)  # noqa: E731
    got = found(lambda sample: values[sample.rows], Retrieval(components="all"))
    expected = found(centred, Retrieval("fc7"))
    assert got["map"] == pytest.approx(expected["map"], abs=2e-5)
    assert got["answered"] == expected["answered"]


@pytest.mark.parametrize("whiten", [None, True])
def test_components_are_those_of_scikit_learn(whiten, found):
    from sklearn.decomposition import PCA

    values = torch.rand(500, 6, generator=torch.Generator().manual_seed(4)) ** torch.arange(1, 7)
    unit = nn.functional.normalize(values.double()).numpy()
    made = PCA(3, whiten=bool(whiten)).fit(unit[part("train").rows])
    mapped = torch.from_numpy(made.transform(unit)).float()
    got = found(lambda sample: values[sample.rows], Retrieval(components=3, whiten=whiten))
    expected = found(lambda sample: mapped[sample.rows], Retrieval("fc7"))
    assert got["map"] == pytest.approx(expected["map"], abs=1e-4)


# ------------------------------------------------------------------------------------------------------ known answers


def test_features_that_are_the_class_find_all_of_it(found):
    got = found(lambda sample: 3 * one_hot(sample))  # lengths do not matter
    assert got["map"] == got["accuracy"] == got["validation_map"] == got["validation_accuracy"] == 1
    assert got["answered_classes"][0][0] == got["asked_classes"][0]
    assert len(got["asked"]) == ASKING
    assert 0 < got["chance"] < 0.2


def test_features_that_say_nothing_are_chance(found):
    """All images are equals: every precision is the share of right answers."""
    got = found(lambda sample: torch.ones(len(sample.labels), 4))
    assert got["map"] == got["chance"]
    assert got["validation_map"] == got["validation_chance"]


def test_an_image_is_never_its_own_answer(found):
    """Each image has features of its own, so it would be the nearest to itself."""
    got = found(lambda sample: nn.functional.one_hot(sample.rows, 500).float())
    for asked, answers in zip(got["asked"], got["answered"], strict=True):
        assert asked not in answers
    assert min(min(row) for row in got["answered_distances"]) == pytest.approx(2**0.5, abs=1e-4)


def test_a_query_that_nothing_answers_is_left_out():
    sample = part("test")
    labels = torch.tensor([0, 0, 1, *[2] * (len(sample.labels) - 3)])
    sample = replace(sample, labels=labels)
    got = scores(sample, sample, torch.rand(len(labels), len(labels)))
    assert got["n"] == len(labels) - 1


def test_another_set_asks_in_the_target(tmp_path):
    other = Target("synthetic:0.6", 24, TARGET.subset)
    got = run(tmp_path, of(Retrieval("fc7", queries=ImageSet("synthetic:0.6"))), network())
    x = {
        name: nn.functional.normalize(read(network(), sample, ["fc7"])["fc7"])
        for name, sample in {"asked": part("test", other), "known": part("test")}.items()
    }
    away = torch.cdist(x["asked"], x["known"])
    right = part("test", other).labels[:, None] == part("test").labels
    some = right.any(1)
    assert got["map"] == pytest.approx(average_precision(away[some], right[some])[0].mean().item(), abs=2e-5)
    assert got["n"] == some.sum()


def test_what_a_seed_draws_is_a_share_in_order():
    sample = target_sample(TARGET, "train", 0)
    one, other = drawn(sample, 0), drawn(sample, 1)
    assert len(one.rows) == round(0.8 * len(sample.rows))
    at = [sample.rows.tolist().index(row) for row in one.rows]
    assert at == sorted(at)
    assert one.labels.tolist() == sample.labels[at].tolist()
    assert one.rows.tolist() != other.rows.tolist()


def test_no_more_than_so_many_are_drawn(monkeypatch):
    monkeypatch.setattr("transferlab.methods.retrieval.DRAWN", 3)
    assert len(part("train").rows) == 3


def test_maps_are_kept_once_for_all_levels(tmp_path):
    run(tmp_path, of(Retrieval(levels=2)), network())
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "features").iterdir()}
    assert {context(tmp_path).store.file(made) for made in of(Retrieval(levels=2)).needs()} == files.keys()
    run(tmp_path, of(Retrieval(levels=3)))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "features").iterdir()} == files


# ------------------------------------------------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("method", "told"),
    [
        (Retrieval("pool6"), r"layer \(=pool6\): .*did you mean pool5\?"),
        (Retrieval("fc7", components=99), r"components \(=99\): must be at most 16 \(36 images, 16 features\)"),
        (Retrieval("fc7", levels=2), r"levels \(=2\): must be at most 1, the side of the maps at fc7"),
        (Retrieval("pool5", levels=4), r"levels \(=4\): must be at most 3, the side of the maps at pool5"),
    ],
)
def test_what_a_network_cannot_give_is_refused(method, told, tmp_path):
    with pytest.raises(UserError, match=told) as e:
        run(tmp_path, of(method), network())
    assert "\n" not in str(e.value)


def test_a_set_with_other_classes_is_refused():
    sample = part("test")
    other = replace(sample, images=ImageSet("synthetic:0.6"), names=(*sample.names[:-1], "something else"))
    with pytest.raises(UserError, match=r"queries \(=synthetic:0.6\): must have the classes of synthetic:0$"):
        scores(other, sample, torch.rand(len(sample.rows), len(sample.rows)))


def test_classes_of_one_image_each_are_refused():
    sample = part("test")
    sample = replace(sample, labels=torch.arange(len(sample.rows)))
    with pytest.raises(
        UserError, match=r"queries \(=synthetic:0\): none has another image of its class in synthetic:0"
    ):
        scores(sample, sample, torch.rand(len(sample.rows), len(sample.rows)))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"levels": 0}, r"levels \(=0\): must be a whole number above 0"),
        ({"whiten": True}, r"whiten \(=True\): asks for a number of components"),
        ({"components": 4, "whiten": False}, r"whiten \(=False\): must be True or left out"),
        ({"pool": "mean"}, r"pool \(=mean\): must be max, or left out for the mean"),
    ],
)
def test_fields_are_checked(given, told):
    with pytest.raises(UserError, match=told):
        Retrieval(**given)
