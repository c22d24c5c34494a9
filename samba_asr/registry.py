"""A registry of interchangeable parts by name: one dict and a decorator.

mixers = Registry("mixer")

@mixers.register("my_mixer")
class MyMixer(StreamingModule): ...

mixers.build("my_mixer", d_model=144, config=MyMixerConfig())
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from samba_asr.errors import UserError

T = TypeVar("T")


class Registry:
    """Map from a name in the configuration to a class or function."""

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, Any] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorate a class or function to register it under `name`.  ValueError if the name is taken."""

        def enter(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice: {self._entries[name]} and {entry}")
            self._entries[name] = entry
            return entry

        return enter

    def __getitem__(self, name: str) -> Any:
        if name not in self._entries:
            near = difflib.get_close_matches(name, self._entries, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise UserError(f"unknown {self.kind} {name!r}{hint}; there are: {', '.join(sorted(self))}")
        return self._entries[name]

    def build(self, name: str, *args: Any, **options: Any) -> Any:
        """Call the entry: `registry[name](*args, **options)`."""
        return self[name](*args, **options)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries
