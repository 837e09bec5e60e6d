"""Which folders of an image set are splits, and which classes. No torch here."""

import re
from collections import Counter, defaultdict
from functools import partial
from typing import NoReturn

from ..errors import UserError
from ..specs.catalog import passed_over
from .files import Found, Parts
from .opened import counted

WORDS = {
    "train": "train", "training": "train", "test": "test", "testing": "test",
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "eval", "evaluation"), "validation"),
}  # fmt: skip
THINGS = "set|data|dataset|split|folder|files?|images?|imgs?|pictures?|photos?"


def split_of(name: str) -> tuple[str, Parts] | None:
    """Return which split a folder's name means, and what else it says: ``seg_train`` is training, and of ``seg``."""
    words = re.findall(r"[^\W\d_]+", name.casefold())
    words = [re.sub(f"^({'|'.join(WORDS)})(?:{THINGS})$", r"\1", w) for w in words]
    said = [WORDS[w] for w in words if w in WORDS]
    return (
        (said[0], tuple(w for w in words if w not in WORDS and not re.fullmatch(THINGS, w))) if len(said) == 1 else None
    )


class Shape:
    """Where below a folder pictures lie, and which folders are splits and classes.

    Attributes
    ----------
    roots : dict
        The folder of each split, below which a folder is a class; the key is empty for a set without splits.
    """

    def __init__(self, name: str, found: Found):
        self.found, self.held, self.loose = found, defaultdict(set), set()
        for file in found.pictures:
            self.loose.add(file.parts[:-1])
            for depth in range(len(file.parts) - 1):
                self.held[file.parts[:depth]].add(file.parts[depth])
        self.refuse = partial(refuse, name, found)
        base = self._unwrapped(())
        self.roots: dict[str, Parts] = self._splits(base) or {"": base}
        while "" not in self.roots and len(inner := set().union(*map(self.classes, self.roots.values()))) == 1:
            if self.loose & {*self.roots.values()} or any(not self.held[(*r, *inner)] for r in self.roots.values()):
                break
            self.roots = {split: (*root, *inner) for split, root in self.roots.items()}
        held = {split: self.classes(root) for split, root in self.roots.items() if split}
        for split, inner in held.items():  # val/images, beside train/CLASS
            elsewhere = set().union(*(held[other] for other in held if len(held[other]) > 1))
            called = len(inner) == 1 and re.fullmatch(THINGS, min(inner).casefold())
            if called and not inner & elsewhere and self.roots[split] not in self.loose:
                self.roots[split] += (*inner,)

    def classes(self, root: Parts) -> set[str]:
        """Return the folders with pictures below a split's."""
        return self.held.get(root, set())

    def _unwrapped(self, base: Parts) -> Parts:
        """Return the folder that holds the set: while all pictures lie in one folder of folders, that is meant."""
        while base not in self.loose and len(self.classes(base)) == 1:
            only = (*base, *self.held[base])
            beside = {f for f in self.found.folders if f[:-1] == base} - {only}
            seen = {tuple(n.split("/"))[: len(only)] for names in self.found.passed.values() for n in names}
            meant = split_of(only[-1])
            if only in self.loose or (meant and not meant[1]) or beside - seen:
                break
            base = only
        return base

    def _splits(self, base: Parts) -> dict[str, Parts] | None:
        """Return the folders of splits; None where folders are classes.

        Raises
        ------
        UserError
            Where both can be meant, or two folders are one split.
        """
        groups: dict[Parts, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for child in sorted(self.classes(base)):
            if meant := split_of(child):
                groups[meant[1]][meant[0]].append(child)
        whole = [g for rest, g in groups.items() if "train" in g and (len(g) > 1 or not rest)]
        group = groups.get(()) or next(iter(whole), None)
        if not group:
            return None
        if len(whole) > 1 or (whole and group not in whole):
            sets = sorted(n for g in (group, *whole) for names in g.values() for n in names)
            self.refuse(f"holds several sets ({', '.join(dict.fromkeys(sets))}); name one")
        named = sorted(n for names in group.values() for n in names)
        others = sorted(self.classes(base) - {*named})
        if others and not self._are_splits(base, group, named, others):
            return None
        if "train" not in group:
            self.refuse(f"has {' and '.join(s for s in sorted(group))} but no train folder")
        for split, names in group.items():
            if len(names) > 1:
                self.refuse(f"{' and '.join(names)} are both {split}; keep one, or merge them")
        return {split: self._inner((*base, child), split) for split, (child,) in group.items()}

    def _are_splits(self, base: Parts, group: dict[str, list[str]], named: list[str], others: list[str]) -> bool:
        """Return whether folders called like splits are splits though there are others beside them."""
        inside = set().union(*(self.classes((*base, n)) for n in group.get("train", named)))
        flat = [n for n in named if (*base, n) in self.loose]
        if "train" in group and len(group) > 1:
            if len(inside) > 1:
                return True
            both = True
        elif "train" in group:
            elsewhere = set().union(*(self.classes((*base, o)) for o in others))
            both = not flat and len(inside) > 1 and bool(len(others) == 1 or inside & elsewhere)
        else:
            both = bool(inside & {*others}) or ("test" in group and bool(flat))
        if both:
            names, more = " and ".join(named), ", ".join(others[:3]) + " ..." * (len(others) > 3)
            self.refuse(
                f"{names} can be a split, or a class beside {more}; rename {names} if it is a class, else move "
                f"{more} {'elsewhere' if 'train' in group else 'into a folder called train'}"
            )
        return False

    def _inner(self, root: Parts, split: str) -> Parts:
        """Return a split's folder: the inner one where it lies in another one of its name, train/train."""
        while root not in self.loose and len(self.classes(root)) == 1:
            (only,) = self.held[root]
            if only != root[-1] and (split_of(only) or ("",))[0] != split:
                break
            root = (*root, only)
        return root

    def sides(self) -> dict[tuple[str, str], str]:
        """Return for (class, folder in it) of a set of the shape ``CLASS/SPLIT/image`` which split that is."""
        (base,) = self.roots.values()
        inner = {(c, s): split_of(s) for c in self.classes(base) for s in self.classes((*base, c))}
        plain = all(meant and not meant[1] for meant in inner.values()) and "train" in {
            m[0] for m in inner.values() if m
        }
        if not plain or any((*base, c) in self.loose for c in self.classes(base)):
            return {}
        for (cls, split), count in Counter((c, m[0]) for (c, _), m in inner.items()).items():
            if count > 1:
                self.refuse(f"{cls} has two folders for {split}; keep one, or merge them")
        return {key: meant[0] for key, meant in inner.items()}


def refuse(name: str, found: Found, rule: str) -> NoReturn:
    """Raise an error with the rule that a set breaks, and what was passed over in it."""
    raise UserError("; ".join(filter(None, (f"data set (={name}): {rule}", passed_over(counted(found.passed))))))
