"""What is to be done, in an order in which everything finds what it needs. Nothing here imports torch."""

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from graphlib import TopologicalSorter

from ..specs import Artefact, Trial
from ..specs.serial import digest

PATIENCE = 5, 20  # times that workers may be killed in a row: before the first job is done, and later


@dataclass(frozen=True)
class Job:
    """A training, or a reading, and everything that is wanted of it.

    Attributes
    ----------
    training : Artefact
        What is done; its key is the job's.
    wanted : tuple of Artefact
        What is kept of it: a record, networks, arrays.
    columns : tuple of str
        What the record must have.
    """

    training: Artefact
    wanted: tuple[Artefact, ...]
    columns: tuple[str, ...] = ()

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def key(self) -> str:
        """The key of what is done."""
        return self.training.key

    @property
    def name(self) -> str:
        """What an interrupted training is found under: it goes on only for the same wants."""
        measures = self.trial.measures if self.trial else ()
        return digest("|".join((self.key, *(m.canonical for m in measures), *(w.key for w in self.wanted))))

    @cached_property
    def shape(self) -> str:
        """What jobs have in common that can train together."""
        return self.training.shape

    @property
    def trial(self) -> Trial | None:
        """The trial whose record is wanted, with all its measures."""
        return next((made for made in self.wanted if isinstance(made, Trial)), None)


Asked = tuple[Trial, tuple[str, ...]]  # a trial, and the columns that its record must have


class Queue:
    """Jobs in order: what an artefact needs when its first user comes up, then at once what waited for it.

    Parameters
    ----------
    asked : iterable of (Trial, tuple of str)
        Trials and the columns that their records must have.
    lacks : callable
        Whether an artefact that something needs is still to be made.
    later : iterable of Artefact
        What is kept of what is done anyway.
    """

    def __init__(self, asked: Iterable[Asked], lacks: Callable[[Artefact], bool], later: Iterable = ()) -> None:
        self.lacks = lacks
        self.jobs: dict[str, Job] = {}
        self.order = TopologicalSorter()
        for trial, columns in asked:
            self._add(trial, columns)
        for made in later:
            if made.training.key in self.jobs and lacks(made):
                self._add(made)
        self.order.prepare()
        self.ready = deque(self._freed())
        self.busy: list[Job] = []
        self.kills: Counter[Job] = Counter()
        self.alone: set[Job] = set()  # those that may kill what runs beside them
        self.patience = PATIENCE[0]

    def _add(self, made: Artefact, columns: tuple[str, ...] = ()) -> str:
        """Put what makes an artefact, and before it what that needs, and return its key."""
        key = (training := made.training).key
        if key not in self.jobs:
            self.order.add(key, *(self._add(need) for need in training.needs() if self.lacks(need)))
            self.jobs[key] = Job(training, (made,), columns)
            return key
        job = self.jobs[key]
        wanted = {w.key: w for w in job.wanted}
        if isinstance(made, Trial) and key in wanted:
            made = replace(made, measures=tuple(dict.fromkeys((*wanted[key].measures, *made.measures))))
        asked = tuple(dict.fromkeys((*job.columns, *columns)))
        self.jobs[key] = Job(training, tuple((wanted | {made.key: made}).values()), asked)
        return key

    def __bool__(self) -> bool:
        return bool(self.ready or self.busy)

    def take(self, limit: int, slots: int = 1) -> list[Job]:
        """Return the next job, and up to `limit` in all of those behind it of its shape, shared over free `slots`."""
        if limit == 1 or self.alone:
            return [self.ready.popleft()]
        same = [j for j in self.ready if j.shape == self.ready[0].shape]
        pack = same[: min(limit, -(-len(same) // slots))]
        taken = set(pack)
        self.ready = deque(j for j in self.ready if j not in taken)
        return pack

    def finish(self, jobs: Collection[Job]) -> None:
        """Let what waited for these go first, so that seeds are completed one after another."""
        self.alone.difference_update(jobs)
        self.order.done(*(job.key for job in jobs))
        self.ready.extendleft(reversed(self._freed()))

    def _freed(self) -> list[Job]:
        """Return the jobs that now have all that they need."""
        return [self.jobs[key] for key in self.order.get_ready()]

    def requeue(self, packs: Iterable[list[Job]], kills: int = 1) -> None:
        """Let jobs whose worker was killed go first, and alone if that happened to them before."""
        jobs = [job for pack in packs for job in pack]
        self.kills.update(jobs * kills)
        self.alone |= {job for job in jobs if self.kills[job] > 1}
        self.ready.extendleft(reversed(jobs))
        self.patience -= 1

    def wake(self) -> None:
        """Ask again for what others were doing."""
        self.ready.extend(self.busy)
        self.busy.clear()
