"""Names for interchangeable parts: one dict and a decorator.

mixers = Registry("mixer")

@mixers.register("mamba2")
class Mamba2(StreamingModule): ...

mixers.build("mamba2", d_model=144, config=Mamba2Config())
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from samba_asr.errors import UserError

T = TypeVar("T")


class Registry:
    """Maps a name, as configuration spells it, to a class or function."""

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, Callable[..., Any]] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: enter the class or function under `name`.  A name can be taken only once."""

        def enter(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice: {self._entries[name]} and {entry}")
            self._entries[name] = entry
            return entry

        return enter

    def __getitem__(self, name: str) -> Callable[..., Any]:
        if name not in self._entries:
            near = difflib.get_close_matches(name, self._entries, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise UserError(f"unknown {self.kind} {name!r}{hint}; there are: {', '.join(sorted(self))}")
        return self._entries[name]

    def build(self, name: str, *args: Any, **options: Any) -> Any:
        """Make one: `registry[name](*args, **options)`."""
        return self[name](*args, **options)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries
