"""What a chapter's page works with: records of its design with their factors, verdicts, and the pieces of a page."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from IPython.display import Markdown, display

from .. import scales
from ..errors import UserError, check
from ..lab import Lab
from ..specs import OneOf, Trial
from ..specs.serial import filled
from . import charts, theme
from .cards import Short, VerdictCard, effects_table, interval
from .controls import Control, Explorer, Workbench
from .figure import Figure, Table
from .rules import Verdict
from .stats import Effect, by_group, effect

if TYPE_CHECKING:
    from ..chapters import Chapter

MEAN = "mean of targets"
SHARES = ("pool_share", "hard_fraction")  # in percent on pages, as every accuracy is


class Study:
    """The records behind a chapter, one row a trial.

    Parameters
    ----------
    chapter : Chapter
    scale : str
    seeds : list of int
    lab : Lab
        Reads or runs what the design wants.
    **options
        What the design takes beside scale and seeds.

    Attributes
    ----------
    records : DataFrame
        ``seed``, ``target``, the design's factors, then what was measured; accuracies in percent.
    factors : list of str
    targets : list of str
        Those that carry most arms, the source's own images left out: means are over these. Arms with a factor ``aside``
        do not count.
    """

    def __init__(self, chapter: Chapter, scale: str, seeds: Sequence[int], lab: Lab, **options: Any) -> None:
        self.chapter, self.name, self.scale, self.s = chapter, chapter.name, scale, scales.scale(scale)
        self.lab, self.seeds, self.narrowed = lab, list(seeds), False
        self.arms_made = chapter.arms(scale, self.seeds, **options)
        factors, trials = zip(*self.arms_made, strict=True)
        self.trials: list[Trial] = list(trials)
        self.factors = list(dict.fromkeys(name for f in factors for name in f))
        self.records = self._joined(lab.run(self.trials, rules=chapter.fingerprints(scale)), list(factors))
        self.asked: dict[tuple, Any] = {}  # what has been asked of the records
        self.targets = self._carrying_most()

    @staticmethod
    def _percent(table: pd.DataFrame) -> pd.DataFrame:
        for column in [c for c in table if "accuracy" in c or c in SHARES]:
            table[column] = 100 * table[column].astype(float)
        return table

    def _carrying_most(self) -> list[str]:
        others = self.records[self.records["target"] != self.s.source]
        others = others[others["aside"].isna()] if "aside" in others else others  # what only some targets can have
        by_target = others.astype(object).fillna("").groupby("target", sort=False)[self.factors]
        arms = by_target.apply(lambda rows: len(rows.drop_duplicates()))
        return list(arms.index[arms == arms.max()]) if len(arms) else [self.s.source]

    # ------------------------------------------------------------------------------------------ numbers by seed

    def only(self, *targets: str) -> Study:
        """Return the study on some targets: means are over these.

        Raises
        ------
        UserError
            If none of them is there (in a study that has been narrowed already: none of those).
        """
        known = self.targets if self.narrowed else [*self.records["target"].unique()]
        view = copy(self)
        view.targets, view.narrowed = [t for t in targets if t in known], True
        check(bool(view.targets), "target", ", ".join(targets), f"is not one of {', '.join(known)}")
        return view

    @property
    def views(self) -> dict[str, Study]:
        """The study itself under `MEAN`, and on each target alone."""
        return {MEAN: self} | {t: self.only(t) for t in self.targets}

    @property
    def on(self) -> Control:
        """A control that chooses one of `views`."""
        return Control("Target", {theme.names(t): t for t in self.views})

    @property
    def source(self) -> Study:
        """The study on the source's own images."""
        view = copy(self)
        view.targets, view.narrowed = [self.s.source], True
        return view

    def rows(self, **factors: Any) -> pd.DataFrame:
        """Return the records on `targets` of the arms that have these factors (``None``: those without)."""
        return self.records[self._wanted(factors)]

    def _wanted(self, factors: dict[str, Any]) -> np.ndarray:
        """Return which records are on `targets` and of the arms that have these factors."""
        for name in factors:
            check(name in self.records, "factor", name, f"is not one of {', '.join(self.factors)}")
        asked = ("target", tuple(self.targets)), *factors.items()
        return np.logical_and.reduce([self._which(*pair) for pair in asked])

    def _which(self, name: str, value: Any) -> np.ndarray:
        """Return which records have a value, or one of several, in a column: asked again and again, by all views."""
        if (asked := (name, value)) not in self.asked:
            column, several = self.records[name], isinstance(value, tuple)
            found = column.isna() if value is None else column.isin(value) if several else column == value
            self.asked[asked] = found.to_numpy(bool)
        return self.asked[asked]

    def by_target(self, by: str | Sequence[str], value: str = "accuracy", **factors: Any) -> pd.DataFrame:
        """Return a row for each (seed, target) and a column for each level of `by`; one column if it is empty.

        Raises
        ------
        UserError
            If an arm has no or two records of a seed and target.
        """
        by = [by] if isinstance(by, str) else list(by)
        asked = (tuple(self.targets), tuple(by), value, *factors.items())
        if asked not in self.asked:
            self.asked[asked] = self._by_target(by, value, factors)
        return self.asked[asked]

    def _by_target(self, by: list[str], value: str, factors: dict[str, Any]) -> pd.DataFrame:
        rows = self.records.loc[self._wanted(factors), ["seed", "target", *by, value]]
        told = f"{self.name}, {value} of {factors or 'all'}{' by ' * bool(by)}{', '.join(by)}"
        check(len(rows) > 0, "records", told, "there is none")
        index = pd.MultiIndex.from_frame(rows[["seed", "target", *by]])
        check(index.is_unique, "records", told, "an arm has two of a seed and target")
        table = pd.Series(rows[value].to_numpy(), index, name=value)
        table = table.unstack(by) if by else table.to_frame()
        lacking = len(table) < rows["seed"].nunique() * len(self.targets) or table.isna().any(axis=None)
        check(not lacking, "records", told, "an arm lacks a seed and target")
        return table

    def by_seed(self, by: str | Sequence[str], value: str = "accuracy", **factors: Any) -> pd.DataFrame:
        """Return the means over targets: a row for each seed and a column for each level of `by`."""
        return self.by_target(by, value, **factors).groupby("seed").mean()

    def arm(self, value: str = "accuracy", **factors: Any) -> pd.Series:
        """Return one arm, named by its factors: the mean over targets, one number a seed."""
        return self.by_seed((), value, **factors)[value]

    def gaining(self, full: Mapping[str, Any], floor: Mapping[str, Any]) -> Study:
        """Return the study on the targets that gain by the full source: their interval of it less the floor is above 0.

        At `smoke`, where so few pictures may not show it, on all of them if none does.

        Raises
        ------
        UserError
            If none does.
        """
        views = {t: self.only(t) for t in self.targets}
        gains = {t: effect(view.arm(**full) - view.arm(**floor)) for t, view in views.items()}
        found = [t for t, gain in gains.items() if gain.low > 0 or gain.n == 1]
        return self.only(*(found or (self.targets if self.scale == "smoke" else ())))  # a toy decides nothing

    @cached_property
    def uneven(self) -> bool:
        """Whether some arms have more seeds than others."""
        return self.records.groupby(self.factors, dropna=False)["seed"].nunique().nunique() > 1

    def summary(self, by: str | list[str], value: str = "accuracy", **factors: Any) -> pd.DataFrame:
        """Return mean and interval of every arm, a row for each of `views`: ``target``, `by`, value, low, high, n."""
        by = [by] if isinstance(by, str) else by
        tables = [v.by_seed(by, value, **factors) for v in self.views.values()]
        long = [t.stack(by, future_stack=True).dropna().rename(value).reset_index() for t in tables]
        whole = pd.concat([f.assign(target=t) for t, f in zip(self.views, long, strict=True)])
        runs = by_group(self.rows(**factors), ["target", *by], value)
        return by_group(whole, ["target", *by], value).merge(runs[["target", *by, "runs"]], "left")

    def tried(self) -> pd.DataFrame:
        """Return what is on record of the settings that were tried before one was chosen, beside their factors."""
        known = [(f, t) for f, t in self.chapter.tried(self.scale) if not self.lab.missing([t])]
        table, about = self.lab.table(t for _, t in known), pd.DataFrame([f for f, _ in known])
        return self._percent(about.join(table.drop(columns=table.columns.intersection(about.columns))))

    # ------------------------------------------------------------------------------------------ verdicts

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """The verdicts on the chapter's claims that these records support."""
        return self.chapter.judge(self)

    def verdict(self, claim: str) -> Verdict:
        """Return the verdict on one claim."""
        return next(v for v in self.verdicts if v.claim == claim)

    def at_rates(self) -> dict[float, Study]:
        """Return the study at each single learning rate that its arms searched, on the seeds that have it.

        What is called accuracy in these is that on validation images, by which a search chooses.
        """
        rates: dict[float, list[tuple[dict, Trial]]] = {}
        for factors, trial in self.arms_made:
            for path, options in trial.options.items():
                if path[-1] == "lr":
                    later = {p: of.options[0] for p, of in trial.options.items() if of.later}
                    for rate in options.options:
                        rates.setdefault(rate, []).append((factors, filled(trial, {**later, path: rate})))
        fixed = [(f, t) for f, t in self.arms_made if not t.options]
        found = {}
        for rate, arms in sorted(rates.items()):
            gone = {
                t.seed
                for _, t in arms
                if t.open or not (r := self.lab.record(t)) or "validation_accuracy" not in r["metrics"]
            }
            both = [(f, t) for f, t in [*arms, *fixed] if t.seed not in gone]
            if any(not t.open and t.seed not in gone for _, t in arms):
                found[rate] = self._holding(both, sorted({t.seed for _, t in both}))
        return found

    def _holding(self, arms: list[tuple[dict, Trial]], seeds: list[int]) -> Study:
        """Return the study with trials of a search in place of its own."""
        view = copy(self)
        for found in ("verdicts", "uneven"):
            view.__dict__.pop(found, None)
        view.arms_made, view.trials, view.seeds = arms, [t for _, t in arms], seeds
        table = self.lab.table(view.trials)
        for name in ("accuracy", "mean_class_accuracy"):
            if f"validation_{name}" in table:
                table[name] = table[f"validation_{name}"].fillna(table[name] if name in table else float("nan"))
        view.records, view.asked = self._joined(table, [f for f, _ in arms]), {}
        return view

    def _joined(self, table: pd.DataFrame, factors: list[dict]) -> pd.DataFrame:
        """Return measurements beside their factors, accuracies in percent."""
        table = table.drop(columns=[c for c in self.factors if c in table])
        return self._percent(table.join(pd.DataFrame(factors, columns=self.factors)))

    # ------------------------------------------------------------------------------------------ pieces of a page

    def short(self) -> Short:
        """Return the box *In short*, as the chapter's cell `short` says it."""
        return self.chapter.short(self)

    def cards(self) -> None:
        """Show every verdict in full."""
        others, rates = self.chapter.verdicts(but=self.scale), self.at_rates()
        trained = any(trial.recipe for trial in self.trials)
        for verdict in self.verdicts:
            at = {}
            for rate, view in rates.items():
                try:
                    at[rate] = [p.estimate(view) for p in self.chapter.rule(verdict.claim).parts.values()]
                except UserError:  # not every arm has been run at this rate
                    continue
            at = at if len({tuple(e.mean for e in found) for found in at.values()}) > 1 else {}  # nothing has a rate
            display(VerdictCard(verdict, [o for o in others if o.claim == verdict.claim], at, trained=trained))

    def reach(self, limits: str) -> str:
        """Return on what the chapter stands: network, pixels, targets, repetitions; and what was not run."""
        targets = ", ".join(map(theme.names, self.targets))
        network = {"alexnet": "a small AlexNet"}.get(self.s.backbone.kind, self.s.backbone.kind)
        return f"{network} at {self.s.size} px; {targets}; {len(self.seeds)} repetitions; {limits}"

    def basis(self, **rows: str) -> Table:
        """Return what the page rests on, as a table; `rows` are added, or take the place of those of their name."""
        about = {"source": f"{theme.names(self.s.source)} at {self.s.size} px, {self.s.classes} classes"}
        about |= dict(self.chapter.basis(self.lab, self.trials, self.scale)) | rows
        frame = pd.DataFrame(about.items(), columns=["what", "here"])
        return Table(frame, "What this page rests on.", f"{self.name}-basis")

    def contrasts(self, of: Callable[[Study], Mapping[str, pd.Series]], unit: str = "points") -> Table:
        """Return every contrast on every target with its interval, as a folded table."""
        rows = [
            {"target": theme.names(t), "contrast": words, "effect": effect(values)}
            for t, view in self.views.items()
            for words, values in of(view).items()
        ]
        heads = {"target": "target", "contrast": "contrast"}
        return effects_table(rows, heads, "Every contrast on every target.", f"{self.name}-contrasts", unit)

    def searched(self) -> str:
        """Return in a sentence how many choices of a rate lie at an end of their grid."""
        chosen = ends = 0
        for (_, trial), row in zip(self.arms_made, self.records.to_dict("records"), strict=True):
            grid = next((o for path, o in trial.options.items() if path[-1] == "lr"), None)
            if isinstance(grid, OneOf) and trial.seed == self.seeds[0]:
                chosen, ends = chosen + 1, ends + (row["lr"] in (min(grid.options), max(grid.options)))
        if not chosen:
            return ""
        beyond = ": a rate beyond might have suited these better." if ends else "."
        return f"Of {chosen} choices of a learning rate, {ends} lie at an end of the rates that were tried{beyond}"

    def live(
        self, draw: Callable[[Study], Any], distances: Sequence[str], on: bool, caption: str = "", **options: Any
    ) -> None:
        """Show the same design at smoke scale, trained where the page is built; with a kernel, a workbench, where each
        training adds its point to those before.
        """
        made: dict[str, pd.DataFrame] = {}

        def small(distance: str = distances[0], count: int = 1) -> Figure:
            given = {"targets": [f"synthetic:{distance}"]} if distance else {}
            toy = self.chapter.study("smoke", count, "missing", self.lab.device, self.lab.workers, **given, **options)
            where = f" on a drawn target at distance {distance}" if distance else ""
            repeated = "one repetition" if count == 1 else f"{count} repetitions"
            words = f"{caption} Toy run: drawn pictures, {repeated}, trained where this page was built{where}."
            shown = toy.records[[*toy.factors, "target", "seed", "accuracy"]]
            arms = toy.records[toy.factors].apply(lambda row: ", ".join(map(str, row.dropna())), axis=1)
            mean = toy.records.groupby(arms.rename("arm"), sort=False)[["accuracy"]].mean().reset_index()
            name = f"{distance} {repeated}".strip()
            made[name] = mean.assign(run=name)
            tones, drawn = dict(zip(made, itertools.cycle(theme.SERIES))), draw(toy)
            points = charts.dots(pd.concat(made.values()), "arm", "accuracy", "run", tones, title="accuracy, %")
            drawn = [*(drawn if isinstance(drawn, list) else [drawn]), *[points] * (len(made) > 1)]
            told = f"{words.strip()} {self._agrees(toy)}".strip()
            return Figure(drawn, told, shown, f"{self.name}-live", tones if len(made) > 1 else None, toy=True)

        display(small() if on else Markdown("(Not trained: `live` is off.)"))
        many = {"distance": Control("Distance of the target", {d: d for d in distances})} if distances[0] else {}
        choices = many | {"count": Control("Repetitions", {str(n): n for n in (1, 2, 4)})}
        display(Workbench(small, choices, f"notebooks/{self.name}.md"))

    def _agrees(self, toy: Study) -> str:
        """Return a sentence if the toy's first contrast has the opposite sign of the published one."""
        for verdict in self.verdicts:
            for name, part in self.chapter.rule(verdict.claim).parts.items():
                try:
                    here, there = part.estimate(toy).mean, part.estimate(self).mean
                except UserError:
                    continue
                turned = (here - part.bar) * (there - part.bar) < 0
                return (
                    f"It says the opposite of the study above ({name}): too small to decide anything." if turned else ""
                )
        return ""

    def again(self) -> Markdown:
        """Return how to make the records again, and what they cost."""
        return Markdown(self.chapter.again(self.lab, self.trials, self.scale))

    def table(self, *columns: str) -> Table:
        """Return all records behind the page, folded."""
        about = [c for c in ("lr", "seed", "accuracy", *columns, "status", "key") if c in self.records]
        shown = self.records[list(dict.fromkeys([*self.factors, "target", *about]))]
        words = f"All {len(self.records)} records behind this page; the runs of the searches are in the file."
        return Table(shown, words, f"{self.name}-records", folded=True)

    def panels(self, over: str, title: str, floor: Mapping[str, Any] | None = None, log=True, **arm: Any) -> list:
        """Return a chart for each target: accuracy of an arm over a factor, the level of another as a dashed line."""
        found = self.summary(over, **arm).assign(arm="accuracy")
        look = {"titles": (title, "accuracy, %"), "log": log, "ends": False, "height": 170}
        return [
            charts.lines(
                found[found["target"] == target],
                over,
                "accuracy",
                "arm",
                {"accuracy": theme.TRANSFER},
                level=view.arm(**floor).mean() if floor else None,
                name=theme.names(target),
                **look,
            )
            for target, view in self.views.items()
            if target != MEAN
        ]

    def explore(
        self, draw: Callable[..., Any], controls: Mapping[str, Control], say: Callable[..., Any], *figure: Any
    ) -> Explorer:
        """Return an `Explorer`: `say` gives a sentence and an `Effect`, or a second sentence, for each choice."""

        def told(**choice: Any) -> tuple[str, str]:
            text, found = say(**choice)
            return text, f"Difference: {interval(found)}." if isinstance(found, Effect) else found

        return Explorer(draw, controls, told, *figure)
