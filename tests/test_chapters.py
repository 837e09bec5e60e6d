"""Notebooks as data: parameters, design and claims are asked without executing anything else."""

import json
from dataclasses import replace

import pytest
from interruptions import HEADER
from papermill.translators import PythonTranslator
from test_cli import transferlab

from transferlab import chapters, scales
from transferlab.errors import UserError
from transferlab.lab import Lab
from transferlab.publish import publish
from transferlab.specs import Recipe
from transferlab.store import Published, Store

NOTEBOOK = """# A question?

```{code-cell} ipython3
:tags: [parameters]
scale: str = "cpu"  # how big
seeds: "Union[int, str]" = 8  # how many
rate: float = 0.5
live: bool = True
workers: "Optional[int]" = None
```

```{code-cell} ipython3
:tags: [design]
from transferlab import scales
from transferlab.specs import Trial

def design(scale, seeds):
    s = scales.scale(scale)
    return [({"arm": "scratch"}, Trial(s.target(s.targets[0]), s.scratch, s.backbone, seed)) for seed in seeds]
```

```{code-cell} ipython3
:tags: [rule]
from transferlab.report import Rule, above

RULES = [Rule("I1", {"it learns": above(lambda study: study.arm(arm="scratch"))}, fixed="2026-01-31")]
```

```{code-cell} ipython3
:tags: [short]
from transferlab.report import Short

def short(study):
    return Short(study.verdicts, None, ["So it is."], "do so.", study.reach("nothing else was run."))
```
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of one chapter, at a scale small enough to run."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters:\n  - file: notebooks/question\n")
    (tmp_path / "notebooks" / "question.md").write_text(HEADER + NOTEBOOK)
    monkeypatch.chdir(tmp_path)
    small = replace(scales.scale("smoke"), name="cpu", train=Recipe(steps=2, batch=8, lr=0.05), seeds=3)
    monkeypatch.setitem(scales.SCALES, "cpu", small)
    return tmp_path


def test_parameters_by_name_and_type(project):
    subject = chapters.chapter("question")
    given = ["scale=gpu", "seeds=4", "rate=1", "live=false", "workers=2"]
    assert subject.values(given) == {"scale": "gpu", "seeds": 4, "rate": 1.0, "live": False, "workers": 2}
    assert subject.values(["seeds=0-3", "workers=none"]) == {"seeds": "0-3", "workers": None}
    assert subject.values(["rate=1e-3", "seeds=yes", "live=True"]) == {"rate": 0.001, "seeds": "yes", "live": True}
    assert subject.values(["scale=[1", "workers="]) == {"scale": "[1", "workers": None}
    assert subject.title == "A question?"


@pytest.mark.parametrize(
    ("line", "text", "value"),
    [
        ("x = None", "none", UserError),
        ("x = None", "None", None),
        ("x = 0.5", "0.25", 0.25),
        ("x = [1, 2]", "['a', 3]", ["a", 3]),
        ('x: "list[int]" = [1]', "[2, 3]", [2, 3]),
        ('x: "Optional[float]" = None', "null", None),
        ('x: "Optional[str]" = None', "a b", "a b"),
    ],
)
def test_parameters_of_other_kinds(line, text, value):
    (found,) = PythonTranslator.inspect({"source": line})
    if value is UserError:
        with pytest.raises(UserError, match=r"^x \(=none\): must be written as in Python; by default None$"):
            chapters.value_of(found, text)
    else:
        assert chapters.value_of(found, text) == value


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("seed=8", r"parameter of question \(=seed\): must be one of scale, seeds, .*; did you mean seeds\?"),
        ("rate=fast", r"rate \(=fast\): must be float; by default 0.5"),
        ("live=maybe", r"live \(=maybe\): must be bool; by default True"),
        ("workers=2.5", r"workers \(=2.5\): must be int or none; by default None"),
        ("rate", r"parameter \(=rate\): must be name=value"),
    ],
)
def test_parameters_refused(project, given, message):
    with pytest.raises(UserError, match=message):
        chapters.chapter("question").values([given])


def test_a_chapter_is_a_draft_until_the_table_of_contents_names_it(project):
    assert not chapters.chapter("question").draft
    (project / "_toc.yml").write_text("format: jb-book\nroot: index\n")
    assert chapters.chapter("question").draft
    (project / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters:\n  - file: notebooks/questions\n")
    assert chapters.chapter("question").draft


def test_unknown_chapter(project):
    with pytest.raises(UserError, match=r"chapter \(=questions\): must be one of question; did you mean question\?"):
        chapters.chapter("questions")


@pytest.mark.parametrize("tag", ["design", "rule", "short"])
def test_a_chapter_without_its_cells(project, tag):
    path = project / "notebooks" / "question.md"
    path.write_text(path.read_text().replace(f"[{tag}]", "[other]"))
    with pytest.raises(UserError, match=rf"chapter \(=question\): must have one code cell tagged {tag}, has 0"):
        chapters.chapter("question").rule("I1")


def test_status_from_missing_to_published_to_stale(project, tmp_path):
    subject = chapters.chapter("question")
    found = chapters.status(subject, "cpu")
    assert (found.state, found.missing, found.command) == ("missing", 3, "transferlab run question --scale cpu")

    lab = Lab(tmp_path / "store", workers=1, published=Published())
    lab.run(subject.design("cpu", [0, 2]))
    path = publish(subject, "cpu", lab)
    assert path == project / "results" / "cpu" / "question.jsonl"
    found = chapters.status(subject, "cpu")
    assert (found.state, found.seeds, found.missing, found.stale) == ("partly published", [0, 2], 1, 0)

    lab.run(subject.design("cpu"))
    publish(subject, "cpu", lab)
    found = chapters.status(subject, "cpu")
    assert (found.state, found.seeds, found.missing, found.stale, found.command) == ("published", [0, 1, 2], 0, 0, "")

    scales.SCALES["cpu"] = replace(scales.SCALES["cpu"], train=Recipe(steps=3, batch=8, lr=0.05))
    found = chapters.status(chapters.chapter("question"), "cpu")
    assert (found.state, found.missing, found.stale) == ("stale", 3, 3)
    assert found.command == "transferlab run question --scale cpu"


def test_a_block_of_seeds_is_added_to_what_is_published(project, tmp_path):
    subject = chapters.chapter("question")
    # the second machine has the published records, not the first one's store
    for store, seeds in (("here", [0]), ("elsewhere", [1, 2])):
        lab = Lab(tmp_path / store, workers=1, published=Published())
        lab.run(subject.design("cpu", seeds))
        publish(subject, "cpu", lab)
    assert chapters.status(subject, "cpu").seeds == [0, 1, 2]


def test_what_others_published_meanwhile_stays(project, tmp_path):
    subject = chapters.chapter("question")
    labs = [Lab(tmp_path / store, workers=1, published=Published()) for store in ("here", "elsewhere")]
    for seed, lab in enumerate(labs):
        lab.run(subject.design("cpu", [seed]))
    for lab in labs:
        publish(subject, "cpu", lab)
    assert chapters.status(subject, "cpu").seeds == [0, 1]


def test_what_failed_here_is_not_published(project, tmp_path):
    """It says something of this machine, and nothing of the trial."""
    subject, store = chapters.chapter("question"), Store(tmp_path / "store")
    lab = Lab(store, workers=1, published=Published())
    lab.run(subject.design("cpu", [0]))
    for seed, status in ((1, "failed: out of memory"), (2, "diverged: the loss is nan at step 1")):
        store.put(subject.design("cpu", [seed])[0], status, {}, 1.0, {"day": "2026-01-01"})
    publish(subject, "cpu", lab)
    states = {r["label"][-6:]: r["status"] for r in Published().read("cpu", "question").values()}
    assert states == {"seed 0": "ok", "seed 2": "diverged: the loss is nan at step 1"}


def test_chapters_that_share_a_training_share_what_was_measured(project, tmp_path):
    """What one's record lacks and the other's has is known to both, and published with either."""
    path = project / "notebooks" / "question.md"
    (project / "notebooks" / "again.md").write_text(path.read_text())
    subject, other = chapters.chapter("question"), chapters.chapter("again")
    lab = Lab(tmp_path / "store", workers=1, published=Published())
    lab.run(subject.design("cpu"))
    publish(subject, "cpu", lab)
    known = Published().read("cpu")
    Published().write(
        "cpu", "again", [r | {"metrics": {"accuracy": 0.5, "selectivity_old": 0.75}} for r in known.values()]
    )
    united = Published().read("cpu")
    assert all(united[key]["metrics"] == {"selectivity_old": 0.75} | r["metrics"] for key, r in known.items())
    assert Lab(run="never", published=Published()).missing(other.design("cpu")) == []
    publish(subject, "cpu", Lab(tmp_path / "empty", workers=1, published=Published()))
    assert Published().read("cpu", "question") == united


def test_a_design_names_its_arms(project):
    subject = chapters.chapter("question")
    assert [factors for factors, _ in subject.arms("cpu", [0, 2])] == [{"arm": "scratch"}] * 2
    assert subject.arms("cpu", [2])[0][1] == subject.design("cpu", [2])[0]


TRIED = """
def tried(scale):
    return [({"setting": "longer"}, trial.at_seed(900)) for _, trial in design(scale, [0])]
"""


def test_settings_that_were_tried_are_published_and_shown_and_judge_nothing(project, tmp_path):
    """Their seed is no seed of the study."""
    path = project / "notebooks" / "question.md"
    hashes = chapters.chapter("question").fingerprints("cpu")
    path.write_text(
        path.read_text().replace(
            "\n```\n\n```{code-cell} ipython3\n:tags: [rule]",
            f"\n{TRIED}```\n\n```{{code-cell}} ipython3\n:tags: [rule]",
        )
    )
    subject, lab = chapters.chapter("question"), Lab(tmp_path / "store", workers=1)
    assert [trial.seed for _, trial in subject.tried("cpu")] == [900]
    assert subject.fingerprints("cpu") == hashes
    lab.run(subject.design("cpu"))
    publish(subject, "cpu", lab)
    found = chapters.status(subject, "cpu")
    assert (found.state, found.missing, found.seeds) == ("partly published", 1, [0, 1, 2])
    lab.run(subject.shown("cpu"))
    publish(subject, "cpu", lab)
    found = chapters.status(subject, "cpu")
    assert (found.state, found.published, found.seeds) == ("published", 4, [0, 1, 2])
    study = subject.published("cpu")
    assert study.tried()[["setting", "seed", "status"]].to_dict("records") == [
        {"setting": "longer", "seed": 900, "status": "ok"}
    ]
    assert set(study.records["seed"]) == {0, 1, 2}
    assert study.tried()["accuracy"].item() == pytest.approx(
        100 * lab.run([t for _, t in subject.tried("cpu")])["accuracy"].item()
    )


def test_a_rule_is_known_by_its_hash_in_what_is_run_for_it(project, tmp_path, monkeypatch):
    """So the page can tell which seeds were seen before the rule was fixed."""
    subject, path = chapters.chapter("question"), project / "notebooks" / "question.md"
    hashes = subject.fingerprints("cpu")
    lab = Lab(tmp_path / "store", workers=1)
    lab.run(subject.design("cpu", [0]))
    lab.run(subject.design("cpu", [0, 1]), rules=hashes)
    publish(subject, "cpu", lab)
    told = {r["label"][-6:]: r["provenance"].get("rules") for r in Published().read("cpu", "question").values()}
    assert told == {"seed 0": None, "seed 1": hashes}
    (verdict,) = subject.verdicts()
    assert (verdict.seeds, verdict.seen, verdict.fixed_before) == ([0, 1], [0], False)
    with monkeypatch.context() as patch:  # what was run before and not kept, it says itself
        patch.setattr(chapters.Chapter, "rules", {"I1": replace(subject.rules["I1"], seen=(1, 9))})
        (told,) = subject.judge(subject.published("cpu"))
        assert told.seen == [0, 1]
    path.write_text(path.read_text().replace("above(lambda", "above(bar=0.5, of=lambda"))
    (verdict,) = chapters.chapter("question").verdicts()
    assert verdict.seen == [0, 1]
    assert verdict.rule != hashes["I1"]


def test_seeds_that_the_scale_does_not_publish_are_named(project, monkeypatch, capsys):
    code, _, err = transferlab(monkeypatch, capsys, "run", "question", "--seeds", "2-4", "--workers", "1", "--no-page")
    assert code == 0
    assert err.splitlines()[-1] == "not published: seeds 3,4; cpu has 3, from 0"
    assert chapters.status(chapters.chapter("question"), "cpu").seeds == [2]


def test_verdicts_come_from_published_records(project, tmp_path):
    assert chapters.verdicts() == []
    subject = chapters.chapter("question")
    lab = Lab(tmp_path / "store", workers=1)
    lab.run(subject.design("cpu", [0, 1]))
    publish(subject, "cpu", lab)
    (verdict,) = chapters.verdicts()
    assert (verdict.claim, verdict.scale, verdict.parts[0].effect.n) == ("I1", "cpu", 2)
    assert chapters.verdicts("gpu") == []
    assert subject.verdicts() == [verdict]
    assert subject.verdicts(["gpu", "paper"]) == []
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: index\n")
    assert chapters.verdicts() == []  # of a draft


def test_verdicts_of_larger_scales_come_first(project, tmp_path, monkeypatch):
    subject = chapters.chapter("question")
    monkeypatch.setitem(scales.SCALES, "gpu", replace(scales.SCALES["cpu"], name="gpu"))
    lab = Lab(tmp_path / "store", workers=1)
    lab.run(subject.design("cpu", [0, 1]))
    for scale in ("cpu", "gpu"):
        publish(subject, scale, lab)
    assert [v.scale for v in subject.verdicts()] == ["gpu", "cpu"]
    assert [v.scale for v in subject.verdicts(["cpu"])] == ["cpu"]
    assert [v.scale for v in subject.verdicts(but="cpu")] == ["gpu"]


def test_a_set_that_nobody_pinned_is_told(project):
    assert chapters.status(chapters.chapter("question"), "paper").state == "unavailable"


@pytest.mark.parametrize("subject", chapters.chapters().values(), ids=lambda c: c.name)
@pytest.mark.parametrize("scale", ["smoke", "cpu", "gpu"])
def test_every_chapter_has_a_design(subject, scale):
    trials = subject.design(scale, [0, 1])
    assert trials
    assert len({t.key for t in trials}) == len(trials)
    assert {t.seed for t in trials} == {0, 1}
    assert subject.design(scale, [1]) == [t for t in trials if t.seed == 1]  # seeds are blocks
    assert {"scale", "seeds", "run", "device", "live"} <= subject.parameters.keys()
    assert subject.parameters["run"].default == '"never"'  # a plain build never trains at a published scale


@pytest.mark.parametrize("subject", [c for c in chapters.chapters().values() if not c.draft], ids=lambda c: c.name)
def test_every_chapter_of_the_book_has_published_seeds_and_no_stale_records(subject):
    """Seeds are published in blocks; the page says how many it rests on."""
    found = chapters.status(subject, "cpu")
    assert found.stale == 0, f"mend with: {found.command}"
    assert len(found.seeds) > 1, f"mend with: {found.command}"


@pytest.mark.parametrize("path", sorted(Published().root.glob("*/*.jsonl")), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_published_records_are_whole(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    records, batches = [r for r in rows if "key" in r], [r for r in rows if "key" not in r]
    assert sum(b["records"] for b in batches) == len(records)
    assert [r["key"] for r in records] == sorted({r["key"] for r in records})
    stopped = [
        r for r in records if r.get("status", "ok") != "ok"
    ]  # a search may try a rate at which training diverges
    assert all(r["status"].startswith("diverged: ") and "accuracy" not in r for r in stopped)
    assert all({"commit", "torch", "device", "day"} <= b.keys() for b in batches)
    assert path.stat().st_size < 2_500_000
