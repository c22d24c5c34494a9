"""What a search knows beside the frames: the protocol of language models, lexicons and hotwords, and several as one.

A guide looks at prefixes.  Its view of one is an immutable object that the search keeps with the beam and hands back; so
the guide itself holds no session, and a prefix that is dropped takes its view along.

    bonus   what the prefix is worth, in nats, in all (not what its last token added)
    credit  the part of the bonus that is taken back if the prefix goes on otherwise, such as that of half a phrase.  It may keep
            a prefix in the search, and never drops another one
    label   parts the ways in which one token may be read (the words SEE and SEA); 0 where there is one way
    future  the same for prefixes that end in the same token and that nothing said later can tell apart: whatever follows is
            worth the same behind each; 0 where no other prefix is like this one
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from samba_asr.decoding.hotwords import Hotwords


class Guided(Protocol):
    bonus: float
    credit: float
    label: int
    future: int


class Ways(NamedTuple):
    """What some prefixes, each made longer by a token, may be.  Most ways are dropped at once, so views are made on demand."""

    of: np.ndarray  # (m,) which of the prefixes, never falling; one that is not there has no way to be read
    bonus: np.ndarray  # (m,)
    label: np.ndarray  # (m,)
    future: np.ndarray  # (m,) uint64
    view: Callable[[int], Guided]  # of a way, by its number
    credit: np.ndarray | None = None  # (m,); None: there is none

    @classmethod
    def each(cls, views: Sequence[Guided]) -> Ways:
        """One way for every prefix."""
        bonus = np.array([view.bonus for view in views], dtype=np.float64)
        label = np.array([view.label for view in views], dtype=np.int64)
        future = np.array([view.future for view in views], dtype=np.uint64)
        credit = np.array([view.credit for view in views], dtype=np.float64)
        return cls(np.arange(len(views)), bonus, label, future, views.__getitem__, credit if credit.any() else None)

    def beside(self, other: Ways) -> Ways:
        """Both, in the order of the prefixes; of one prefix these first."""
        order = np.argsort(np.concatenate([self.of, other.of]), kind="stable")
        of, bonus, label, future = (np.concatenate(pair)[order] for pair in zip(self[:4], other[:4], strict=True))
        credit = None
        if self.credit is not None or other.credit is not None:
            credit = np.concatenate([self.credits, other.credits])[order]
        first = len(self.of)

        def view(way: int) -> Guided:
            at = int(order[way])
            return self.view(at) if at < first else other.view(at - first)

        return Ways(of, bonus, label, future, view, credit)

    @property
    def credits(self) -> np.ndarray:
        """(m,)"""
        return np.zeros(len(self.of)) if self.credit is None else self.credit


class Guide(Protocol):
    def start(self, hotwords: Hotwords | None = None) -> Guided | None:
        """The view of the empty prefix, in a session that expects `hotwords`; None if there is nothing to say there."""
        ...

    def extend(self, prefixes: Sequence[Guided], tokens: Sequence[int]) -> Ways:
        """The ways to read each prefix made longer by its token; all extensions of a frame, of all beams and sessions."""
        ...

    def finish(self, prefixes: Sequence[Guided]) -> list[Guided]:
        """The views of prefixes that are whole texts."""
        ...

    def words(self, prefix: Guided) -> tuple[str, ...] | None:
        """The words read so far; None if the tokens spell them."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Together:
    bonus: float
    credit: float
    label: int
    future: int
    views: tuple[Guided, ...]


class Guides:
    """Several guides as one: bonuses add up.  The first has a say in every session; it may forbid prefixes and read tokens in
    several ways, the others not.  In sessions where one of the others has no view, it has no say."""

    def __init__(self, guides: Sequence[Guide]):
        self.guides = tuple(guides)

    def start(self, hotwords: Hotwords | None = None) -> Guided:
        first, *others = (guide.start(hotwords) for guide in self.guides)
        return _together([first, *others]) if any(view is not None for view in others) else first

    def extend(self, prefixes: Sequence[Guided], tokens: Sequence[int]) -> Ways:
        first, *others = self.guides
        shared = [n for n, prefix in enumerate(prefixes) if isinstance(prefix, Together)]
        if not shared:
            return first.extend(prefixes, tokens)
        ways = first.extend([_first(prefix) for prefix in prefixes], tokens)
        there = np.zeros(len(prefixes), dtype=bool)
        there[ways.of] = True
        shared = [n for n in shared if there[n]]
        asked = [tokens[n] for n in shared]
        more = [
            _where(_each(guide), [prefixes[n].views[g] for n in shared], asked) for g, guide in enumerate(others, 1)
        ]
        beside = {n: views for n, *views in zip(shared, *more, strict=True)}
        worth, credit, future = np.zeros(len(prefixes)), np.zeros(len(prefixes)), ways.future.copy()
        for n, views in beside.items():
            worth[n] = sum(view.bonus for view in views if view is not None)
            credit[n] = sum(view.credit for view in views if view is not None)
        for way in np.flatnonzero(np.isin(ways.of, shared)).tolist():
            future[way] = _future(
                [int(future[way]), *(view.future for view in beside[int(ways.of[way])] if view is not None)]
            )

        def view(way: int) -> Guided:
            n = int(ways.of[way])
            return _together([ways.view(way), *beside[n]]) if n in beside else ways.view(way)

        credit = ways.credits + credit[ways.of]
        return Ways(ways.of, ways.bonus + worth[ways.of], ways.label, future, view, credit if credit.any() else None)

    def finish(self, prefixes: Sequence[Guided]) -> list[Guided]:
        first, *others = self.guides
        whole = first.finish([_first(prefix) for prefix in prefixes])
        shared = [n for n, prefix in enumerate(prefixes) if isinstance(prefix, Together)]
        more = [_where(guide.finish, [prefixes[n].views[g] for n in shared]) for g, guide in enumerate(others, 1)]
        for n, *views in zip(shared, *more, strict=True):
            whole[n] = _together([whole[n], *views])
        return whole

    def words(self, prefix: Guided) -> tuple[str, ...] | None:
        return self.guides[0].words(_first(prefix))


def _each(guide: Guide) -> Callable[[Sequence[Guided], Sequence[int]], list[Guided]]:
    """`extend` of a guide that reads every prefix in one way."""

    def extend(prefixes: Sequence[Guided], tokens: Sequence[int]) -> list[Guided]:
        ways = guide.extend(prefixes, tokens)
        return [ways.view(way) for way in range(len(prefixes))]

    return extend


def _first(prefix: Guided) -> Guided:
    return prefix.views[0] if isinstance(prefix, Together) else prefix


def _together(views: Sequence[Guided | None]) -> Together:
    there = [view for view in views if view is not None]
    worth, credit = sum(view.bonus for view in there), sum(view.credit for view in there)
    return Together(worth, credit, views[0].label, _future([view.future for view in there]), tuple(views))


def _future(parts: Sequence[int]) -> int:
    return hash(tuple(parts)) % 2**64 if all(parts) else 0


def _where(ask: Callable[..., list], views: Sequence[Guided | None], *more: Sequence) -> list:
    """What `ask` says of those `views` that there are, None for the others."""
    there = [n for n, view in enumerate(views) if view is not None]
    found: list = [None] * len(views)
    if there:
        answers = ask([views[n] for n in there], *([some[n] for n in there] for some in more))
        for n, answer in zip(there, answers, strict=True):
            found[n] = answer
    return found
