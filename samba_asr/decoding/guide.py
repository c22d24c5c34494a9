"""What a search knows beside the frames: the protocol of language models, lexicons and hotwords, and several as one.

A guide looks at prefixes.  Its view of one is an immutable object that the search keeps with the beam and hands back; so
the guide itself holds no session, and a prefix that is dropped takes its view along.

    bonus   what the prefix is worth, in nats, in all (not what its last token added)
    label   parts the ways in which one token may be read (the words SEE and SEA); 0 where there is one way
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Guided(Protocol):
    bonus: float
    label: int


class Guide(Protocol):
    def start(self) -> Guided:
        """The view of the empty prefix."""
        ...

    def extend(self, prefixes: Sequence[Guided], tokens: Sequence[int]) -> list[Sequence[Guided]]:
        """For each prefix made longer by its token: none if there is no such prefix, else a view for each way to read it.

        All extensions of a frame, of all beams and sessions, come in one call.
        """
        ...

    def finish(self, prefixes: Sequence[Guided]) -> list[Guided]:
        """The views of prefixes that are whole texts."""
        ...

    def words(self, prefix: Guided) -> tuple[str, ...] | None:
        """The words read so far; None if the tokens spell them."""
        ...


@dataclass(frozen=True, slots=True)
class Together:
    bonus: float
    label: int
    views: tuple[Guided, ...]


class Guides:
    """Several guides as one: bonuses add up.  The first may forbid prefixes and read tokens in several ways, the others not."""

    def __init__(self, guides: Sequence[Guide]):
        self.guides = tuple(guides)

    def start(self) -> Together:
        return _together([guide.start() for guide in self.guides])

    def extend(self, prefixes: Sequence[Together], tokens: Sequence[int]) -> list[list[Together]]:
        first, *others = self.guides
        ways = first.extend([prefix.views[0] for prefix in prefixes], tokens)
        allowed = [n for n, some in enumerate(ways) if some]
        asked = [tokens[n] for n in allowed]
        more = [guide.extend([prefixes[n].views[g] for n in allowed], asked) for g, guide in enumerate(others, 1)]
        found: list[list[Together]] = [[] for _ in prefixes]
        for n, *views in zip(allowed, *more, strict=True):
            found[n] = [_together([way, *(one for (one,) in views)]) for way in ways[n]]
        return found

    def finish(self, prefixes: Sequence[Together]) -> list[Together]:
        whole = [guide.finish([prefix.views[g] for prefix in prefixes]) for g, guide in enumerate(self.guides)]
        return [_together(views) for views in zip(*whole, strict=True)]

    def words(self, prefix: Together) -> tuple[str, ...] | None:
        return self.guides[0].words(prefix.views[0])


def _together(views: Sequence[Guided]) -> Together:
    return Together(sum(view.bonus for view in views), views[0].label, tuple(views))
