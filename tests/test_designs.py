"""The designs of the book's chapters, against what they say of themselves."""

from dataclasses import replace
from itertools import pairwise

import pytest

from transferlab import chapters, scales
from transferlab.arms.factors import family, networks
from transferlab.arms.growing import growing
from transferlab.arms.tuning import rates
from transferlab.data.subsets import relabel
from transferlab.data.tree import source_tree
from transferlab.specs import OneOf, Trial, Weights
from transferlab.specs.catalog import pinned

TREE = source_tree()
LEAVES = sorted(TREE.paths)
SIX = ("flowers102", "caltech101", "cifar100", "scene15", "PACS", "mnist")  # families


def source_classes(trial) -> int:
    return len(relabel(LEAVES, trial.source.subset, trial.seed, TREE).names)


@pytest.mark.parametrize("scale", ["cpu", "gpu"])
def test_scales_know_how_large_their_source_is(scale):
    s = scales.scale(scale)
    about = pinned(s.source)
    assert s.classes == about["classes"] == len(LEAVES)
    assert s.classes * s.per_class == about["splits"]["train"]


@pytest.mark.parametrize("scale", ["cpu", "gpu"])
def test_cuts_leave_the_classes_that_the_chapter_names(scale):
    subject = chapters.chapter("how_many_classes")
    stated = subject.defined("CUTS")[scale]
    tuned = [t for t in subject.design(scale, [0]) if t.method.kind == "fine-tune"]
    for trial in tuned:
        part = trial.source.subset
        if part.depth is not None:
            assert source_classes(trial) == stated[part.depth]
        if part.lift is not None:
            assert source_classes(trial) == subject.defined("LIFTS")[scale][part.lift]
    merged = {source_classes(t) for t in tuned if t.source.subset.depth}
    drawn = {t.source.subset.classes for t in tuned if t.source.subset.classes}
    assert merged == drawn == set(stated.values())


def test_coarse_labels_are_those_of_the_chapter_on_classes():
    """So that both chapters share their networks."""
    classes, coarse = (
        chapters.chapter(name).design("cpu", range(8)) for name in ("how_many_classes", "coarse_or_fine")
    )
    sources = [{t.source.canonical for t in trials if t.source} for trials in (classes, coarse)]
    assert sources[1] < sources[0]


BORROWING = ("does_borrowing_help", "what_to_borrow")
TUNING = ("what_does_finetuning_change", "how_fast", "how_much", "everything_together")  # whose rates are compared
ADVISING = ("how_good_is_our_advice",)  # from what others have on record
READING = ("which_layer", "how_far_is_a_task", "finding_alike")  # frozen networks, some of them given


@pytest.mark.parametrize(
    "name", [name for name in chapters.chapters() if name not in (*BORROWING, *READING, *TUNING, *ADVISING)]
)
@pytest.mark.parametrize("scale", ["smoke", "cpu", "gpu"])
def test_designs_are_paired_and_fair(name, scale):
    """Every seed has the same trials, and every arm that trains searches the same rates in the same number of steps."""
    trials = chapters.chapter(name).design(scale, range(3))
    assert len({t.key for t in trials}) == len(trials)
    arms = [{t.at_seed(0).key for t in trials if t.seed == seed} for seed in range(3)]
    assert arms[0] == arms[1] == arms[2]
    s, g = scales.scale(scale), growing(scale)
    quick = (name, scale) == ("more_data", "smoke")  # whose eleven sources must each be quick, and what follows them
    (recipe,) = {t.recipe for t in trials if t.recipe and t.target.images.name != s.source}
    # on the source itself, where it was trained long
    longer = replace(g.recipe, steps=s.pretrain.steps // 4, batch=s.pretrain.batch)
    assert {t.recipe for t in trials if t.recipe and t.target.images.name == s.source} <= {recipe, longer}
    elsewhere = isinstance(trials[0].root, Weights)  # trained by others: such networks want rates of their own
    usual = replace(s.train, steps=40) if quick else s.train
    assert (replace(recipe, lr=g.recipe.lr) if elsewhere else recipe) in (usual, g.recipe)
    if elsewhere:
        return
    assert len({replace(t.root.recipe, steps=1) for t in trials if t.root}) == 1
    steps = {t.root.recipe.steps for t in trials if t.root}
    assert min(steps) == (30 if quick else scales.scale(scale).pretrain.steps)
    assert len(steps) == (2 if name == "more_data" else 1)  # one arm there has equal epochs instead


@pytest.mark.parametrize("name", BORROWING)
@pytest.mark.parametrize("scale", ["smoke", "cpu", "gpu"])
def test_borrowing_is_compared_with_a_baseline_that_is_searched_as_widely(name, scale):
    """Seeds of the main arms have the same trials; rates, steps and the width of the search are the same."""
    arms = chapters.chapter(name).arms(scale, range(6))
    main = [(factors, trial) for factors, trial in arms if factors["part"] == "main"]
    by_seed = [{t.at_seed(0).key for _, t in main if t.seed == seed} for seed in range(6)]
    assert all(keys == by_seed[0] for keys in by_seed)
    assert len({t.recipe for _, t in main}) == 1
    assert len({tuple(len(of.options) for of in t.options.values()) for _, t in main}) == 1
    assert len(main[0][1].options) == (0 if scale == "smoke" else 2)
    lengths = {t.recipe.steps for factors, t in arms if factors["part"] == "longer"}
    assert lengths == {4 * main[0][1].recipe.steps}
    assert len({replace(t.recipe, steps=1) for _, t in arms}) == 1
    assert all(t.seed < 4 for factors, t in arms if factors["part"] not in ("main", "rounds"))


@pytest.mark.parametrize("name", READING)
@pytest.mark.parametrize("scale", ["smoke", "cpu", "gpu"])
def test_every_network_is_read_alike_on_every_target(name, scale):
    """By every seed; the first four have the same trials, but at smoke, where one has all."""
    arms = chapters.chapter(name).arms(scale, range(6))
    of = {network: [(f, t) for f, t in arms if f["network"] == network] for network in networks(scale)}
    assert sum(map(len, of.values())) == len(arms)
    for network, its in of.items():
        by_seed = {s: {t.at_seed(0).key for _, t in its if t.seed == s} for s in {t.seed for _, t in its}}
        assert set(by_seed) == set(range(6))
        assert scale == "smoke" or by_seed[0] == by_seed[1] == by_seed[2] == by_seed[3]
        assert all(by_seed[0] >= keys for keys in by_seed.values())
        assert {t.root.canonical for _, t in its if t.root} == {networks(scale)[network].source.canonical}
    main = {(f["arm"], t.target.images.name) for f, t in arms if f["part"] == "main"}
    assert len(main) == len({arm for arm, _ in main}) * len({target for _, target in main})


@pytest.mark.parametrize("scale", ["smoke", "cpu", "gpu"])
def test_chains_share_their_first_step_and_do_not_search_it(scale):
    trials = chapters.chapter("growing_along_a_chain").design(scale, [3])
    chains = [t for t in trials if isinstance(t.source, Trial)]
    assert 2 * len(chains) == len(trials)
    assert len({t.source.key for t in chains}) == 2  # of fixed size, and grown; whatever the last target is
    assert not any(t.source.options for t in chains)
    plain = {(t.target, t.method) for t in trials if not isinstance(t.source, Trial)}
    assert {(t.target, t.method) for t in chains} == plain


def test_what_is_held_out_and_left_out_is_as_the_chapter_says():
    arms = chapters.chapter("more_data").arms("cpu", [3])
    parts = {factors["arm"]: trial for factors, trial in arms if factors["question"] == "related"}
    counts = {arm: source_classes(trial) for arm, trial in parts.items()}
    held = set(parts["artifacts"].target.subset.classes)
    artifacts = {leaf for leaf in LEAVES if "n00021939" in TREE.paths[leaf]}
    assert artifacts > held
    half, both = len(artifacts - held), len(LEAVES) - len(held)
    assert list(counts.values()) == [half, half, both, both]
    epochs = {arm: parts[arm].source.recipe.steps / counts[arm] for arm in counts}
    assert epochs["artifacts and the rest, longer"] == pytest.approx(epochs["artifacts"], rel=1e-3)
    assert epochs["artifacts and the rest"] < epochs["artifacts"]
    left = {(t.target.label, f["arm"]): source_classes(t) for f, t in arms if f["question"] == "overlap"}
    for target in ("caltech101", "cifar100"):
        assert left[target, "without its classes"] == left[target, "without as many others"] < len(LEAVES)


@pytest.mark.parametrize("scale", ["smoke", "cpu", "gpu"])
def test_what_finetuning_changes_is_read_at_fair_rates(scale):
    """Main arms have every repetition and target; all search the same rates, whose ends and middle are arms too."""
    subject = chapters.chapter("what_does_finetuning_change")
    arms, rates = subject.arms(scale, range(6)), subject.defined("RATES")[scale]
    main = [(f, t) for f, t in arms if "aside" not in f]
    by_seed = [{t.at_seed(0).key for _, t in main if t.seed == seed} for seed in range(6)]
    assert all(keys == by_seed[0] for keys in by_seed)
    targets = {t.target.images.name for _, t in main}
    assert len(main) == 6 * len(targets) * 5
    assert set(map(family, targets)) >= ({"synthetic:0"} if scale == "smoke" else {*SIX})
    searched = {t.recipe.lr for f, t in arms if f["rate"] == "chosen" or f["arm"] == "head alone"}
    (searched,) = searched
    assert searched == (scales.scale(scale).train.lr if scale == "smoke" else OneOf(*rates.values()))
    assert max(b / a for a, b in pairwise(sorted(rates.values()))) <= 4
    fixed = {(f["rate"], t.recipe.lr) for f, t in arms if f["rate"] in rates}
    assert fixed == set(rates.items())
    assert all(t.seed < 4 and t.target.images.name in scales.scale(scale).core_targets for f, t in arms if "aside" in f)
    first = [t for f, t in arms if f["arm"] == "head first"]
    heads = {t.key for f, t in arms if f["arm"] == "head alone"}
    assert first
    assert all(t.before.key in heads and t.method.keep_head for t in first)


@pytest.mark.parametrize("name", ["how_fast", "how_much"])
@pytest.mark.parametrize("scale", ["smoke", "cpu", "gpu"])
def test_every_repetition_is_tuned_alike_and_every_variant_searched_as_widely(name, scale):
    """Main arms of all seeds have the same trials; a search has four rates and four seeds, wherever there is one."""
    arms = chapters.chapter(name).arms(scale, range(6))
    assert len({t.key for _, t in arms}) == len(arms)
    main = [(f, t) for f, t in arms if not f.get("aside")]
    by_seed = [{t.at_seed(0).key for _, t in main if t.seed == seed} for seed in range(6)]
    assert all(keys == by_seed[0] for keys in by_seed)
    assert len({t.root.canonical for _, t in arms}) == 1
    searches = {options for _, t in arms for options in t.options.values()}
    assert len(searches) == (name == "how_much" and scale != "smoke")
    assert all(len(options.options) == len(options.seeds) == 4 for options in searches)


@pytest.mark.parametrize("scale", ["smoke", "cpu", "gpu"])
def test_every_task_chooses_among_the_same_settings(scale):
    """One network is chosen for; every repetition has every setting once; what is longer stands aside."""
    subject = chapters.chapter("everything_together")
    arms = subject.arms(scale, range(6))
    assert len({t.key for _, t in arms}) == len(arms)
    main = [(f, t) for f, t in arms if not f.get("aside")]
    found = {(t.target.images.name, t.seed): set() for _, t in main}
    for factors, trial in main:
        found[trial.target.images.name, trial.seed].add((factors["factor"], factors["setting"]))
    (settings,) = {frozenset(each) for each in found.values()}
    assert len(main) == len(found) * len(settings)
    assert {factor for factor, _ in settings} >= {"standard", "control", *subject.defined("FACTORS")}
    assert len([s for _, s in settings if s.startswith("trained at ")]) == len(rates(scale))
    assert len({t.root.canonical for _, t in main}) == 1
    longer = [t for f, t in arms if f["factor"] == subject.defined("LONGER")]
    assert bool(longer) == (scale != "smoke")
    assert all(t.seed < 4 and t.recipe.steps == 4 * scales.scale(scale).train.steps for t in longer)


@pytest.mark.parametrize("scale", ["smoke", "cpu", "gpu"])
def test_advice_is_judged_on_what_other_chapters_have_on_record(scale):
    """It runs nothing of its own; every target has every setting, and a look at it."""
    arms = chapters.chapter("how_good_is_our_advice").arms(scale, range(4))
    others = (chapters.chapter(name).design(scale, range(4)) for name in ("how_fast", "how_far_is_a_task"))
    assert {t.key for _, t in arms} <= {t.key for trials in others for t in trials}
    by_target = {t.target.images.name: set() for _, t in arms}
    for factors, trial in arms:
        by_target[trial.target.images.name].add(factors.get("setting", factors["part"]))
    settings = {factors.get("setting", factors["part"]) for factors, _ in arms}
    assert all(found == settings for found in by_target.values())
    assert {"frozen", "from scratch", "described"} < settings
    assert len([setting for setting in settings if setting.startswith("fine-tuned at ")]) == len(rates(scale))
