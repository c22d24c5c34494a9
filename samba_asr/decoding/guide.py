"""Guides: the protocol of scorers beside the CTC head (language models, lexicons, hotwords), and several guides as one.

A guide is what ESPnet calls a scorer.  It scores prefixes.  Its view of a prefix is an immutable object: the search keeps it with
the beam and hands it back.  So the guide itself holds no session, and the view of a dropped prefix is dropped with it.

    bonus          score of the whole prefix, in nats (not only of its last token)
    credit         part of the bonus that is taken back if the prefix continues otherwise, such as that of half a phrase.
                   Credit may keep a prefix in the search; it never drops another prefix
    label          tells apart several readings of one token (the words SEE and SEA); 0 where there is one reading
    recombination  key that is equal for prefixes which end in the same token and which nothing said later can tell apart:
                   every continuation has the same score after each of them.  0: no other prefix is equal
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import numpy as np

if TYPE_CHECKING:
    from samba_asr.decoding.hotwords import Hotwords


View = TypeVar("View")  # a guide's `GuidedPrefix`
Tokens = Sequence[int] | np.ndarray  # (n,) one for each prefix


class GuidedPrefix(Protocol):
    """A guide's view of a prefix; the head of this file explains the fields."""

    @property
    def bonus(self) -> float: ...

    @property
    def credit(self) -> float: ...

    @property
    def label(self) -> int: ...

    @property
    def recombination(self) -> int: ...


class Extensions(NamedTuple):
    """Candidate extensions of a list of prefixes by one token each.  Most are dropped at once, so views are made on demand."""

    of: np.ndarray  # (m,) index of the prefix, ascending; a prefix that is missing has no extension
    bonus: np.ndarray  # (m,)
    label: np.ndarray  # (m,)
    recombination: np.ndarray  # (m,) uint64
    view: Callable[[int], Any]  # the `GuidedPrefix` of an extension, by its index
    credit: np.ndarray | None = None  # (m,); None: there is none

    @classmethod
    def each(cls, views: Sequence[GuidedPrefix]) -> Extensions:
        """Make one extension for every prefix."""
        bonus = np.array([view.bonus for view in views], dtype=np.float64)
        label = np.array([view.label for view in views], dtype=np.int64)
        recombination = np.array([view.recombination for view in views], dtype=np.uint64)
        credit = np.array([view.credit for view in views], dtype=np.float64)
        return cls(
            np.arange(len(views)), bonus, label, recombination, views.__getitem__, credit if credit.any() else None
        )

    def merge(self, other: Extensions) -> Extensions:
        """Combine both in the order of the prefixes; those of `self` come first for one prefix."""
        order = np.argsort(np.concatenate([self.of, other.of]), kind="stable")
        of, bonus, label, recombination = (
            np.concatenate(pair)[order] for pair in zip(self[:4], other[:4], strict=True)
        )
        credit = None
        if self.credit is not None or other.credit is not None:
            credit = np.concatenate([self.credits, other.credits])[order]
        first = len(self.of)

        def view(i: int) -> GuidedPrefix:
            at = int(order[i])
            return self.view(at) if at < first else other.view(at - first)

        return Extensions(of, bonus, label, recombination, view, credit)

    @property
    def credits(self) -> np.ndarray:
        """(m,)"""
        return np.zeros(len(self.of)) if self.credit is None else self.credit


class Guide(Protocol[View]):
    """Scorer of prefixes; see the head of this file."""

    def start(self, hotwords: Hotwords | None = None) -> View | None:
        """Make the view of the empty prefix in a session with `hotwords`; None if this guide scores nothing there."""
        ...

    def extend(self, prefixes: Sequence[View], tokens: Tokens) -> Extensions:
        """Extend each prefix by its token.  One call has all extensions of a frame, of all beams and sessions."""
        ...

    def finish(self, prefixes: Sequence[View]) -> list[View]:
        """Make the views of prefixes that are whole texts."""
        ...

    def words(self, prefix: View) -> tuple[str, ...] | None:
        """Return the words read so far; None if the tokens spell them."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class JointPrefix:
    """View of several guides: sums of theirs, and the views themselves (None where a guide has none)."""

    bonus: float
    credit: float
    label: int
    recombination: int
    views: tuple[Any, ...]


class Guides:
    """Several guides as one: their bonuses add up.

    The first guide scores every session; it alone may forbid prefixes and give a token several readings.  Another guide is
    ignored in sessions where it has no view.
    """

    def __init__(self, guides: Sequence[Guide]):
        self.guides = tuple(guides)

    def start(self, hotwords: Hotwords | None = None) -> GuidedPrefix | None:
        first, *others = (guide.start(hotwords) for guide in self.guides)
        return _joint([first, *others]) if any(view is not None for view in others) else first

    def extend(self, prefixes: Sequence[GuidedPrefix], tokens: Tokens) -> Extensions:
        first, *others = self.guides
        shared = {n: prefix for n, prefix in enumerate(prefixes) if isinstance(prefix, JointPrefix)}
        if not shared:
            return first.extend(prefixes, tokens)
        extensions = first.extend([first_view(prefix) for prefix in prefixes], tokens)
        there = np.zeros(len(prefixes), dtype=bool)
        there[extensions.of] = True
        shared = {n: prefix for n, prefix in shared.items() if there[n]}
        asked = [tokens[n] for n in shared]
        more = [
            _map_present(_views_of(guide), [prefix.views[g] for prefix in shared.values()], asked)
            for g, guide in enumerate(others, 1)
        ]
        other_views = {n: views for n, *views in zip(shared, *more, strict=True)}
        bonus, credit, recombination = np.zeros(len(prefixes)), np.zeros(len(prefixes)), extensions.recombination.copy()
        for n, views in other_views.items():
            bonus[n] = sum(view.bonus for view in views if view is not None)
            credit[n] = sum(view.credit for view in views if view is not None)
        for i in np.flatnonzero(np.isin(extensions.of, list(shared))).tolist():
            recombination[i] = _recombination_key(
                [
                    int(recombination[i]),
                    *(view.recombination for view in other_views[int(extensions.of[i])] if view is not None),
                ]
            )

        def view(i: int) -> GuidedPrefix:
            n = int(extensions.of[i])
            return _joint([extensions.view(i), *other_views[n]]) if n in other_views else extensions.view(i)

        credit = extensions.credits + credit[extensions.of]
        return Extensions(
            extensions.of,
            extensions.bonus + bonus[extensions.of],
            extensions.label,
            recombination,
            view,
            credit if credit.any() else None,
        )

    def finish(self, prefixes: Sequence[GuidedPrefix]) -> list[GuidedPrefix]:
        first, *others = self.guides
        whole = first.finish([first_view(prefix) for prefix in prefixes])
        shared = {n: prefix for n, prefix in enumerate(prefixes) if isinstance(prefix, JointPrefix)}
        more = [
            _map_present(guide.finish, [prefix.views[g] for prefix in shared.values()])
            for g, guide in enumerate(others, 1)
        ]
        for n, *views in zip(shared, *more, strict=True):
            whole[n] = _joint([whole[n], *views])
        return whole

    def words(self, prefix: GuidedPrefix) -> tuple[str, ...] | None:
        return self.guides[0].words(first_view(prefix))


def _views_of(guide: Guide) -> Callable[[Sequence[Any], Tokens], list[Any]]:
    """Make a function that gives the views of a guide with one extension for every prefix."""

    def extend(prefixes: Sequence[Any], tokens: Tokens) -> list[Any]:
        extensions = guide.extend(prefixes, tokens)
        return [extensions.view(i) for i in range(len(prefixes))]

    return extend


def first_view(prefix: GuidedPrefix) -> GuidedPrefix:
    """Return the view of the first guide, which may be that of words."""
    return prefix.views[0] if isinstance(prefix, JointPrefix) else prefix


def _joint(views: Sequence[Any]) -> JointPrefix:
    there = [view for view in views if view is not None]
    bonus, credit = sum(view.bonus for view in there), sum(view.credit for view in there)
    return JointPrefix(
        bonus, credit, views[0].label, _recombination_key([view.recombination for view in there]), tuple(views)
    )


def _recombination_key(parts: Sequence[int]) -> int:
    return hash(tuple(parts)) % 2**64 if all(parts) else 0


def _map_present(ask: Callable[..., list], views: Sequence[GuidedPrefix | None], *more: Sequence) -> list:
    """Call `ask` with those `views` that are not None; the result has None for the others."""
    there = [n for n, view in enumerate(views) if view is not None]
    found: list = [None] * len(views)
    if there:
        answers = ask([views[n] for n in there], *([some[n] for n in there] for some in more))
        for n, answer in zip(there, answers, strict=True):
            found[n] = answer
    return found
