"""Arms of the growing chapters: what is kept, and the chart over what is trained."""

import pandas as pd
import pytest

from transferlab.arms.growing import GROWTH_TONES, SCOPE_WORDS, growing, over_scopes
from transferlab.errors import UserError
from transferlab.methods.grow import NUMBERS
from transferlab.scales import SCALES
from transferlab.specs.networks import GROWTH_SCOPES

MEANS = pd.DataFrame(
    {"scope": ["new", "all"] * 2, "arm": ["wider"] * 2 + ["deeper"] * 2, "accuracy": [50.0, 55, 48, 54]}
)


def test_every_scope_and_way_to_grow_has_a_name_and_a_colour():
    assert tuple(SCOPE_WORDS) == tuple(GROWTH_SCOPES)
    assert GROWTH_TONES.keys() == NUMBERS.keys() - {"normalise"}
    assert len(set(GROWTH_TONES.values())) == len(GROWTH_TONES)


@pytest.mark.parametrize("scale", SCALES)
def test_a_record_tells_what_was_trained(scale):
    arms = growing(scale)
    assert arms.scopes.keys() <= set(SCOPE_WORDS)
    for scope, kept in arms.scopes.items():
        assert arms.fixed(scope).freeze == kept
        assert arms.trained([(scope, None), (float("nan"), kept or float("nan"))]) == [scope, scope]
    with pytest.raises(UserError, match=r"scope \(=fc5\): must be one of"):
        arms.fixed("fc5")


@pytest.mark.parametrize("intervals", [{}, {"low": [49.0, 53, 47, 53], "high": [51.0, 57, 49, 55]}])
def test_a_chart_over_scopes(intervals):
    tones = {"wider": GROWTH_TONES["widen"], "deeper": GROWTH_TONES["deepen"]}
    spec = over_scopes(MEANS.assign(**intervals), "arm", tones).to_dict()
    marks = [layer["mark"]["type"] for layer in spec["layer"]]
    assert marks == (["rule"] if intervals else []) + ["line"]
    x, colour = (spec["layer"][-1]["encoding"][channel] for channel in ("x", "color"))
    assert x["sort"] == ["new layers", "all layers"]
    assert colour["scale"] == {"domain": list(tones), "range": list(tones.values())}
