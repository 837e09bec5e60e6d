"""Arms of the growing chapters: what is kept, what grows by how much, and what was watched, a row a number."""

import pandas as pd
import pytest

from transferlab.arms.growing import GROWTH_TONES, SCOPE_WORDS, WAY_TONES, WAYS, growing, traces
from transferlab.errors import UserError
from transferlab.measure import UnitTrace
from transferlab.methods.grow import NUMBERS
from transferlab.scales import SCALES
from transferlab.specs.networks import GROWTH_SCOPES


def test_every_scope_and_way_to_grow_has_a_name_and_a_colour():
    assert tuple(SCOPE_WORDS) == tuple(GROWTH_SCOPES)
    assert GROWTH_TONES.keys() == NUMBERS.keys() - {"normalise"} == set(WAYS.values())
    assert len(set(GROWTH_TONES.values())) == len(GROWTH_TONES)
    assert WAYS["wider in two layers"] == "widen-twice"
    assert WAY_TONES["wider"] == GROWTH_TONES["widen"]


@pytest.mark.parametrize("scale", SCALES)
def test_a_fixed_network_keeps_what_its_scope_says(scale):
    arms = growing(scale)
    assert arms.scopes.keys() <= set(SCOPE_WORDS)
    for scope, kept in arms.scopes.items():
        assert arms.fixed(scope).freeze == kept
    with pytest.raises(UserError, match=r"scope \(=fc5\): must be one of"):
        arms.fixed("fc5")


@pytest.mark.parametrize(
    ("way", "units"),
    [("wider", (128,)), ("deeper", (128,)), ("wider and deeper", (128, 128)), ("wider in two layers", (64, 128))],
)
def test_a_way_to_grow_by_half_of_fc7(way, units):
    arms = growing("cpu")
    assert arms.width == 256
    assert arms.by(way, 1 / 2, scope="new") == arms.grown(WAYS[way], units, scope="new")
    with pytest.raises(UserError, match=r"way \(=widest\): must be one of"):
        arms.by("widest", 1 / 2)


def test_what_was_watched_has_a_row_for_each_number():
    looked = {name: [1.0, 2.0, 3.0] for name in UnitTrace.columns} | {"at": [0, 5, 9]}
    looked |= {name: [0.5, 0.25] for name in UnitTrace.columns if name.startswith("weight_change")}  # one look fewer
    found = traces(pd.DataFrame([{"seed": 3, **looked}, {"seed": 4, "at": None}]), "seed")
    assert list(found) == ["seed", "look", "units", "step", "value"]
    assert len(found) == 2 * (3 + 3 + 2)
    assert set(found["seed"]) == {3}
    pace = found[(found["look"] == "weight_change") & (found["units"] == "new units")]
    assert dict(zip(pace["step"], pace["value"], strict=True)) == {5: 0.5, 9: 0.25}
    size = found[(found["look"] == "activation_rms") & (found["units"] == "old units")]
    assert dict(zip(size["step"], size["value"], strict=True)) == {0: 1.0, 5: 2.0, 9: 3.0}
