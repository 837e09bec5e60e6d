"""Chapters: notebooks as text, their parameters, and the design and claims that they state. Nothing here imports torch.

A chapter is ``notebooks/NAME.md`` (MyST, read by jupytext). Four of its code cells carry tags that the package asks:
``parameters`` (papermill's); ``design``, which defines ``design(scale, seeds)`` and returns pairs of what tells an arm
from others, by name, and a trial, and may define ``tried(scale)``, settings that came into question before it;
``rule``, which defines ``RULES``, how its claims are judged; and ``short``, which defines ``short(study)`` and returns
the box at the top of its page.
"""

import ast
import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import scales
from .errors import UserError, check, choose
from .lab import Lab
from .paths import project
from .report.cards import Short
from .report.fingerprint import fingerprint
from .report.rules import Rule, Verdict, judge
from .report.study import Study
from .report.theme import names
from .run.progress import duration
from .specs import Pretrained, Source, Trial
from .specs.serial import canonical
from .store import Published

if TYPE_CHECKING:
    from papermill.models import Parameter

PUBLISHED_SCALES = ("cpu", "gpu", "paper")
READERS = {  # of a parameter's text, by the word for a type in annotations; the first that can read it does
    "int": int,
    "float": float,
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "Optional": lambda text: {"none": None, "null": None, "": None}[text.lower()],
    "str": str,
}


def value_of(parameter: "Parameter", text: str) -> Any:
    """Return the value that `text` means for a parameter of a notebook, as papermill describes it.

    Raises
    ------
    UserError
        If it is none of the parameter's types.
    """
    named = parameter.inferred_type_name
    types = [word for word in READERS if re.search(rf"\b{word}\b", named) and not re.match("list|dict|tuple", named)]
    if not types:  # no type is named, or another one: it is written as in Python
        with suppress(ValueError, SyntaxError):
            return ast.literal_eval(text)
    for word in types:
        with suppress(ValueError, KeyError):
            return READERS[word](text)
    wanted = " or ".join(types).replace("Optional", "none") or "written as in Python"
    raise UserError(f"{parameter.name} (={text}): must be {wanted}; by default {parameter.default}")


class Chapter:
    """A notebook that answers one research question.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.stem
        self._arms: dict[tuple, list] = {}
        self._labs: dict[tuple, Lab] = {}
        self._studies: dict[Lab, Study | None] = {}

    @cached_property
    def notebook(self):
        """The notebook, as jupytext reads it."""
        import jupytext

        return jupytext.read(self.path)

    @property
    def title(self) -> str:
        """The first heading."""
        found = re.search(r"^# (.+)$", self.path.read_text("utf-8"), re.MULTILINE)
        return found[1].strip() if found else self.name

    @property
    def draft(self) -> bool:
        """Whether the table of contents does not name it (yet): it enters the book with its first published block."""
        return not re.search(rf"notebooks/{re.escape(self.name)}\s*$", contents(), re.MULTILINE)

    def cell(self, tag: str) -> str:
        """Return the source of the one code cell with a tag.

        Raises
        ------
        UserError
            If there is none, or more than one.
        """
        cells = [c.source for c in self.notebook.cells if c.cell_type == "code" and tag in c.metadata.get("tags", [])]
        check(len(cells) == 1, "chapter", self.name, f"must have one code cell tagged {tag}, has {len(cells)}")
        return cells[0]

    @cached_property
    def parameters(self) -> dict[str, "Parameter"]:
        """The parameters by name, as papermill describes them."""
        from papermill.translators import PythonTranslator

        found = PythonTranslator.inspect({"source": self.cell("parameters")})
        return {parameter.name: parameter for parameter in found}

    def values(self, given: Iterable[str]) -> dict[str, Any]:
        """Return the values that ``name=value`` texts mean, checked by name and type.

        Raises
        ------
        UserError
            For a text without ``=``, an unknown name (did you mean) or a value of another type.
        """
        found = {}
        for text in given:
            name, equals, value = text.partition("=")
            check(bool(equals), "parameter", text, "must be name=value")
            choose(f"parameter of {self.name}", name, self.parameters)
            found[name] = value_of(self.parameters[name], value)
        return found

    @cached_property
    def _designed(self) -> dict[str, Any]:
        """What the cell `design` defines."""
        return self._executed({"__name__": f"transferlab.chapter.{self.name}"}, design="design")

    @cached_property
    def _space(self) -> dict[str, Any]:
        """What the cells `design`, `rule` and `short` define, one after another in a namespace of their own."""
        return self._executed(dict(self._designed), rule="RULES", short="short")

    def _executed(self, space: dict[str, Any], **cells: str) -> dict[str, Any]:
        for tag, name in cells.items():
            exec(compile(self.cell(tag), f"{self.path.name}[{tag}]", "exec"), space)
            check(name in space, "chapter", self.name, f"its cell {tag} must define {name}")
        return space

    def defined(self, name: str) -> Any:
        """Return what the cells `design`, `rule` and `short` define under a name."""
        return self._space[choose("name", name, self._space)]

    def arms(
        self, scale: str, seeds: Iterable[int] | None = None, **options: Any
    ) -> list[tuple[dict[str, Any], Trial]]:
        """Return the chapter's trials at a scale, by default for all its seeds, each behind the factors of its arm."""
        known = scales.scale(scale)
        chosen = tuple(range(known.seeds) if seeds is None else seeds)
        asked = known, chosen, canonical(options)
        if asked not in self._arms:
            self._arms[asked] = self._designed["design"](scale, list(chosen), **options)
        return self._arms[asked]

    def design(self, scale: str, seeds: Iterable[int] | None = None) -> list[Trial]:
        """Return the chapter's trials at a scale, by default for all its seeds."""
        return [trial for _, trial in self.arms(scale, seeds)]

    def tried(self, scale: str) -> list[tuple[dict[str, Any], Trial]]:
        """Return the settings that were tried before one was chosen: what `tried` of the cell `design` returns.

        Their seeds are no study's, so they are part of no arm and of no rule.
        """
        return self._designed.get("tried", lambda scale: [])(scale)

    def shown(self, scale: str, seeds: Iterable[int] | None = None) -> list[Trial]:
        """Return the trials that the chapter's page shows: of its design, and of the settings that were tried."""
        return [*self.design(scale, seeds), *(trial for _, trial in self.tried(scale))]

    @property
    def rules(self) -> dict[str, Rule]:
        """How each of its claims is judged, by the claim's id."""
        return {rule.claim: rule for rule in self._space["RULES"]}

    def rule(self, claim: str) -> Rule:
        """Return the rule of a claim."""
        return self.rules[choose("claim", claim, self.rules)]

    @cache  # noqa: B019 (of few values, which are kept anyway)
    def fingerprints(self, scale: str) -> dict[str, str]:
        """Return the hash of each claim's rule at a scale."""
        cells = self.cell("design"), self.cell("rule")
        arms = [(factors, trial.target.label) for factors, trial in self.arms(scale, [0])]
        return {claim: fingerprint(claim, cells, arms) for claim in self.rules}

    def study(
        self,
        scale: str,
        seeds: int | str | list[int],
        run: str = "never",
        device: str = "auto",
        workers: int | None = None,
        **options: Any,
    ) -> Study:
        """Return the study at a scale: with ``run`` `never` from published records, with `missing` trained where not on
        record. `options` go to the design.
        """
        chosen = seeds if isinstance(seeds, list) else scales.seed_list(seeds)
        published = {} if scale == "smoke" else Published()
        return Study(self, scale, chosen, Lab(None, run, device, workers, published=published), **options)

    def judge(self, study: Study) -> list[Verdict]:
        """Return the verdicts on the chapter's claims that a study's records support."""
        hashes, found = self.fingerprints(study.scale), []
        records = [study.lab.known.get(key, {}) for key in study.records["key"]]
        known = [record.get("provenance", {}).get("rules", {}) for record in records]  # when it was run
        by_seed = list(zip(study.records["seed"], known, strict=True))
        for claim, rule in self.rules.items():
            seen = {int(seed) for seed, rules in by_seed if rules.get(claim) != hashes[claim]}
            seen = sorted(seen | {*rule.seen} & {*study.seeds})
            try:
                found.append(judge(rule, study, rule=hashes[claim], seen=seen))
            except UserError:
                if study.scale in PUBLISHED_SCALES:
                    raise
                continue  # the small copy of a design need not have every arm
        return found

    def short(self, study: Study) -> Short:
        """Return the box *In short* of a study's records."""
        return self._space["short"](study)

    def lab(self, scale: str) -> Lab:
        """Return the lab that knows the published records at a scale: one, which remembers what searches chose."""
        file = Published().path(scale, self.name)
        asked = scales.scale(scale), file, file.stat().st_mtime_ns if file.is_file() else None
        if asked not in self._labs:
            self._labs[asked] = Lab(run="never", published=Published().read(scale, self.name))
        return self._labs[asked]

    def published(self, scale: str) -> Study | None:
        """Return the study of the published records of all seeds that are complete at a scale; none without any."""
        if (lab := self.lab(scale)) not in self._studies:
            seeds = lab.seeds(self.design(scale)) if lab.published else []
            self._studies[lab] = Study(self, scale, seeds, lab) if seeds else None
        return self._studies[lab]

    def verdicts(self, at: Collection[str] = PUBLISHED_SCALES, but: str = "") -> list[Verdict]:
        """Return the verdicts that the published records support at some scales, `but` for one, larger ones first."""
        wanted = (scale for scale in reversed(PUBLISHED_SCALES) if scale in at and scale != but)
        return [verdict for scale in wanted if (study := self.published(scale)) for verdict in study.verdicts]

    def basis(self, lab: Lab, trials: list[Trial], scale: str) -> list[tuple[str, str]]:
        """Return what the chapter's page rests on, as pairs of what and how much."""
        s, seeds, sources = scales.scale(scale), {t.seed for t in trials}, _sources(trials)
        elsewhere = (t.target for t in trials if t.target.images != getattr(t.root, "images", None))
        targets = dict.fromkeys(target.images.name for target in elsewhere if target.images.name != s.source)
        lengths = sorted({(made.steps, made.source.recipe.batch) for made in sources})
        pretrained = [f"{steps:,} steps of {batch} images" for steps, batch in lengths]
        place = {True: "the source", False: "a target"}
        on: dict[tuple, set[float]] = {}
        for target, r in ((t.target, t.recipe) for t in trials if t.recipe):
            on.setdefault((place[target.images.name == s.source], r.steps, r.batch), set()).update(r.rates)
        rates = lambda of: ", ".join(f"{x:f}".rstrip("0").rstrip(".") for x in sorted(of))  # noqa: E731
        recipes = [(f"on {at}", f"{n} steps of {b}; learning rates {rates(of)}") for (at, n, b), of in on.items()]
        nets = dict.fromkeys(getattr(t.backbone, "name", t.backbone.kind) for t in trials)
        arithmetic = f"{s.backbone.multiply_adds(s.size) / 1e6:.1f} million multiply-adds an image"
        runs = lab.closure([*trials, *(trial for _, trial in self.tried(scale))])
        return [
            ("targets", ", ".join(map(names, targets))),
            ("networks" if len(nets) > 1 else "network", f"{', '.join(nets)}; {s.backbone.kind}: {arithmetic}"),
            ("pretraining", " or ".join(pretrained) + ", the same for every source" * (len(pretrained) == 1)),
            *recipes,
            ("repetitions", f"{len(seeds)}: each with its own images, initialisation and order"),
            ("in all", f"{len(sources)} sources, " * bool(sources) + f"{len(runs)} runs"),
        ]

    def again(self, lab: Lab, trials: list[Trial], scale: str) -> str:
        """Return how to make the chapter's records again, and what they cost, as Markdown."""
        shown = [*trials, *(trial for _, trial in self.tried(scale))]
        found = {t: r for t in lab.closure(shown) if (r := lab.record(t))}
        spent = sum(r["seconds"] for r in found.values())
        pretraining = sum(r["metrics"].get("source_seconds", 0.0) for r in found.values())
        sources = len(_sources(trials))
        notebook = f"papermill _build/notebooks/{self.name}.ipynb out.ipynb \\\n    -p scale {scale} -p run missing"
        made = f"{duration(pretraining)} for {sources} sources, " if pretraining else ""
        kept = "" if pretraining or not sources else f" Pretraining the {sources} sources is not counted."
        took, runs = f"{duration(spent + pretraining)} of one worker", f"{duration(spent)} for {len(found)} runs"
        how = f"```bash\n{self.command(scale)}\nmake notebooks\n{notebook}\n```\n\n"
        days = sorted({r["provenance"].get("day", "today") for r in found.values()})
        when = " to ".join(dict.fromkeys((*days[:1], *days[-1:])))
        cost = (
            f"These records ({when}) took {took}: {made}{runs} on targets.{kept} What is on record is not run again; "
        )
        return how + cost + f"the records are in `results/{scale}/{self.name}.jsonl`."

    def command(self, scale: str, seeds: str = "") -> str:
        """Return the command that makes the chapter's records."""
        return f"transferlab run {self.name} --scale {scale}" + (f" --seeds {seeds}" if seeds else "")


def _sources(trials: Iterable[Trial]) -> set[Pretrained]:
    """Return the networks that are pretrained for trials."""
    return {Pretrained(t.root, t.backbone, t.seed).training for t in trials if isinstance(t.root, Source)}


def contents() -> str:
    """Return the table of contents as text, empty if there is none."""
    path = project() / "_toc.yml"
    return path.read_text("utf-8") if path.is_file() else ""


def chapters() -> dict[str, Chapter]:
    """Return every chapter by name, in the order of the table of contents where it is named there."""
    toc = contents()
    paths = sorted((project() / "notebooks").glob("*.md"))
    place = {p: toc.find(f"notebooks/{p.stem}") % (len(toc) + 1) for p in paths}
    return {p.stem: _chapter(p, p.stat().st_mtime_ns) for p in sorted(place, key=place.get)}


@lru_cache(maxsize=64)
def _chapter(path: Path, modified: int) -> Chapter:
    return Chapter(path)


def chapter(name: str) -> Chapter:
    """Return a chapter by name.

    Raises
    ------
    UserError
        If there is none (did you mean).
    """
    known = chapters()
    return known[choose("chapter", name, known)]


def train_toys(names: Iterable[str]) -> None:
    """Put a repetition of chapters at smoke on record, of which their pages show a part: these need no torch then."""
    Lab(workers=1, quiet=True).run(trial for name in names for trial in chapter(name).design("smoke", [0]))


@dataclass(frozen=True)
class Status:
    """Where a chapter stands at a scale.

    Attributes
    ----------
    state : {"published", "partly published", "missing", "stale", "unavailable"}
    seeds : list of int
        Complete in the published records.
    published, missing, stale : int
        Records: published and wanted, wanted and not there, there and not wanted by the present design.
    command : str
        That mends it; empty if nothing is wrong.
    """

    chapter: str
    scale: str
    state: str
    seeds: list[int]
    published: int
    missing: int
    stale: int
    command: str


def status(subject: Chapter, scale: str, published: Published | None = None) -> Status:
    """Compare a chapter's published records with its design."""
    records = (published or Published()).read(scale, subject.name)
    try:
        trials, designed = subject.shown(scale), subject.design(scale)
    except UserError as e:  # a data set that nobody pinned here
        return Status(subject.name, scale, "unavailable", [], 0, 0, len(records), str(e))
    lab = Lab(run="never", published=records) if published else subject.lab(scale)
    wanted = {t.key for t in lab.closure(trials)}
    missing, stale, seeds = len(lab.missing(trials)), len(records.keys() - wanted), lab.seeds(designed)
    state = "stale" if stale else "published" if not missing else "partly published" if records else "missing"
    command = subject.command(scale) if missing or stale else ""
    return Status(subject.name, scale, state, seeds, len(records.keys() & wanted), missing, stale, command)


def verdicts(scale: str | None = None) -> list[Verdict]:
    """Return every verdict of the book that counts and that published records support, larger scales first: a draft has
    none yet.
    """
    at = (scale,) if scale else PUBLISHED_SCALES
    shown = [subject for subject in chapters().values() if not subject.draft]
    return [v for subject in shown for v in subject.verdicts(at) if not subject.rule(v.claim).aside]
