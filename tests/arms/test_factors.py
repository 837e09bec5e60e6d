"""Networks and targets of the chapters on factors: all there, in one order, and alike for every target."""

import pandas as pd
import pytest

from transferlab.arms.factors import DOMAINS, families, family, networks, over_families, targets
from transferlab.errors import UserError
from transferlab.specs import catalog


@pytest.mark.parametrize("scale", ["cpu", "gpu"])
def test_targets_come_from_the_nearest_family_to_the_farthest(scale):
    found = list(targets(scale))
    assert families(found) == ["caltech101", "cifar100", "scene15", "flowers102", "PACS", "mnist", "bccd"]
    assert [f for f in found if family(f) == "PACS"] == list(DOMAINS)
    assert all(catalog.pinned(name)["splits"]["train"] for name in found)


@pytest.mark.parametrize("scale", ["smoke", "cpu", "gpu", "paper"])
def test_networks_have_five_layers_and_maps(scale):
    for name, network in networks(scale).items():
        assert len(network.taps) == 5, name
        assert network.maps in network.taps
        assert network.last == network.taps[-1]


def test_a_family_is_a_target_but_for_the_domains_of_pacs():
    folders = ["folder:/pictures/birds", "folder:/pictures/trees"]
    assert [family(name) for name in (*folders, "mnist", "pacs/sketch")] == [*folders, "mnist", "PACS"]


def test_sets_whose_classes_differ_in_size_are_balanced():
    network = networks("cpu")["SqueezeNet"]
    assert network.target("bccd", "cpu").subset.per_class == 140
    assert network.target("bccd", "cpu", per_class=10).subset.per_class == 10
    assert network.target("mnist", "cpu").subset.per_class is None


def test_numbers_over_families_are_means_in_the_order_of_distance():
    of = pd.Series({"mnist": 5.0, "pacs/sketch": 1.0, "pacs/photo": 3.0, "caltech101": 7.0})
    found = over_families(of)
    assert found["y"].to_dict() == {"caltech101": 7.0, "PACS": 2.0, "mnist": 5.0}
    assert list(found["x"]) == sorted(found["x"])
    with pytest.raises(UserError, match=r"family \(=cifar10\): must be one of .*; did you mean cifar100\?"):
        families(["cifar10"])
