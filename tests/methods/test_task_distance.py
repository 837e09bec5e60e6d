"""Distances and scores of a trial: of which images, through which network, and against the functions themselves."""

from dataclasses import replace

import pytest
import torch
from small_world import context, run, small_world  # noqa: F401  (a fixture for the whole module)
from torch import nn
from torch.nn import functional as F

from transferlab.data.images import target_sample
from transferlab.errors import UserError
from transferlab.measure import distances, transferability
from transferlab.methods import KNN, TaskDistance
from transferlab.methods.distance import _some
from transferlab.nets.build import build
from transferlab.paths import file_fingerprint, weights_root
from transferlab.specs import AlexNet, ImageSet, Recipe, Source, Subset, Target, Trial, Weights
from transferlab.train.read import predict, read

BACKBONE = AlexNet((8, 8, 8, 8, 8), (16, 12))
SOURCE = Source("synthetic:source", 24, Recipe(steps=1, batch=8, lr=0.1), Subset(classes=7))
TARGET = Target("synthetic:0.6", 24, Subset(classes=5))
TRIAL = Trial(TARGET, TaskDistance("fc7", "synthetic:source", images=14, task2vec=True), BACKBONE, 0, SOURCE)
SCORES = ("logme", "h_score", "regularised_h_score", "transrate")


def network() -> nn.Module:
    return build(BACKBONE, 24, 7, seed=0)


def parts(seed: int = 0, target: Target = TARGET) -> list:
    return [target_sample(target, split, seed) for split in ("train", "validation")]


def source_images(seed: int = 0):
    """Held out of the source's training, two of each of the classes that the network was taught."""
    return target_sample(Target("synthetic:source", 24, Subset(classes=7)), "test", seed)


def test_what_is_on_record_is_what_the_functions_give(tmp_path):
    """All 14 of the source's images, and 14 of the target's."""
    found, target, source = run(tmp_path, TRIAL, network()), _some(parts(), 14, None, 0), source_images()
    assert [found["compared"], len(target.rows), len(source.rows), found["n"]] == [14, 14, 14, 10]
    x, y = (read(network(), sample, ["fc7"])["fc7"] for sample in (target, source))
    chances, labels = predict(network(), target).softmax(1), target.labels
    wanted = {"frechet": distances.frechet(x, y), "mmd": distances.mmd(x, y)}
    wanted["proxy_a_distance"] = distances.proxy_a_distance(x, y, 0)
    wanted["emd_similarity"] = distances.emd_similarity(x, labels, y, source.labels)
    wanted |= {name: getattr(transferability, name)(chances, labels) for name in ("leep", "nce")}
    wanted |= {name: getattr(transferability, name)(x, labels) for name in SCORES}
    about = [distances.task2vec(network(), sample, "fc7", 0) for sample in (target, source)]
    wanted["task2vec_distance"] = distances.task2vec_distance(*about)
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


def test_the_nearest_image_is_that_of_the_method_of_neighbours(tmp_path):
    """Of all images as they are, whatever is compared."""
    small = run(tmp_path, replace(TRIAL, method=replace(TRIAL.method, images=6, pixels=8)), network())
    other = run(tmp_path, replace(TRIAL, method=KNN("fc7")), network())
    for name in ("accuracy", "n", "validation_accuracy", "validation_n"):
        assert small[name] == other[name]
    shares = torch.tensor(other["right"]) / counts()
    assert small["mean_class_accuracy"] == pytest.approx(shares.mean().item(), abs=1e-5)


def counts() -> torch.Tensor:
    return target_sample(TARGET, "test", 0).labels.bincount().double()


def test_images_are_spread_over_classes_and_differ_by_seed():
    """From training and validation images; the same ones again; more of them hold the fewer."""
    both = parts()
    few, more = (_some(both, count, None, 3) for count in (12, 20))
    assert set(few.labels.bincount(minlength=5).tolist()) <= {2, 3}
    assert torch.equal(few.pixels, _some(both, 12, None, 3).pixels)
    assert not torch.equal(few.pixels, _some(both, 12, None, 4).pixels)
    known = {one.numpy().tobytes(): int(label) for one, label in zip(more.pixels, more.labels, strict=True)}
    assert all(known[one.numpy().tobytes()] == label for one, label in zip(few.pixels, few.labels, strict=True))
    every = [part.pixels[part.rows] for part in both]
    images, labels = torch.cat(every), torch.cat([part.labels for part in both])
    pool = {one.numpy().tobytes(): int(label) for one, label in zip(images, labels, strict=True)}
    assert known.items() <= pool.items()
    held = {one.numpy().tobytes() for one in every[1]}
    assert 0 < len(held & known.keys()) < len(known)


def test_images_are_reduced_and_enlarged():
    """An average of whole blocks, and nothing of what was finer is left."""
    whole, small = (_some(parts(), 9, pixels, 0) for pixels in (None, 6))
    assert small.pixels.shape == whole.pixels.shape
    assert small.pixels.dtype == torch.uint8
    blocks = whole.pixels.double().unflatten(1, (6, 4)).unflatten(3, (6, 4)).mean((2, 4))
    wanted = F.interpolate(blocks.permute(0, 3, 1, 2), 24, mode="bilinear").permute(0, 2, 3, 1)
    assert (small.pixels.double() - wanted).abs().max() <= 0.5 + 1e-4
    same = _some(parts(), 9, 24, 0)
    assert torch.equal(same.pixels, whole.pixels)


def test_resolution_counts_unless_it_is_made_the_same(tmp_path):
    found = [run(tmp_path, replace(TRIAL, method=replace(TRIAL.method, pixels=p)), network()) for p in (None, 6)]
    assert found[0]["frechet"] != found[1]["frechet"]


def test_a_source_with_one_image_a_class_has_no_class_means(tmp_path):
    """And so no distance between them; the rest is measured."""
    found = run(tmp_path, replace(TRIAL, method=replace(TRIAL.method, images=8)), network())
    assert found["compared"] == 8
    assert found["emd_similarity"] is found["task2vec_distance"] is None
    assert found["frechet"] > 0 > found["leep"]


def test_no_more_images_are_compared_than_either_set_has(tmp_path):
    few = replace(TARGET, subset=Subset(classes=5, per_class=1))
    found = run(tmp_path, replace(TRIAL, target=few, method=replace(TRIAL.method, images=400)), network())
    assert found["compared"] == 10  # five training and five validation images


def test_labels_of_another_source_set_are_its_own(tmp_path):
    """The source's part is that of its own set only."""
    own = TRIAL.method.reads(TRIAL)
    assert own == (Target("synthetic:source", 24, Subset(classes=7)),)
    other = replace(TRIAL, method=replace(TRIAL.method, reference=ImageSet("synthetic:0.2")))
    assert other.method.reads(other) == (Target("synthetic:0.2", 24),)
    assert run(tmp_path, other, network())["frechet"] != run(tmp_path, TRIAL, network())["frechet"]


def test_what_is_needed_is_the_network_and_the_features_of_the_target(tmp_path):
    assert TRIAL.needs() == (TRIAL.start, *TRIAL.features())
    run(tmp_path, TRIAL, network())
    assert {context(tmp_path).store.file(made) for made in TRIAL.features()} == {*(tmp_path / "features").iterdir()}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"images": 0}, r"images \(=0\): must be a whole number above 0"),
        ({"images": 1}, r"images \(=1\): must be 2 or more"),
        ({"pixels": 1.5}, r"pixels \(=1.5\): must be a whole number above 0"),
        ({"pixels": 32}, r"pixels \(=32\): the images have 24 a side"),
        ({"task2vec": False}, r"task2vec \(=False\): must be True or left out"),
        ({"reference": "imagenet-sample"}, r"imagenet-sample.*did you mean imagenet-samples\?"),
    ],
)
def test_what_makes_no_sense_is_named(fields, words):
    with pytest.raises(UserError, match=words):
        replace(TRIAL, method=replace(TRIAL.method, **fields))


def test_it_needs_a_source():
    with pytest.raises(UserError, match=r"source \(=None\): task-distance needs one"):
        replace(TRIAL, source=None)


def test_scores_ask_for_the_head_of_the_weights(tmp_path):
    body = {name: value for name, value in network().state_dict().items() if not name.startswith("head.")}
    file = weights_root() / "body.pth"
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(body, file)
    given = replace(TRIAL, source=Weights("file:body.pth", file_fingerprint(file)))
    with pytest.raises(UserError, match=r"network \(=AlexNetModule\): its weights came without a head"):
        run(tmp_path, given)
