"""Compilation by numba, with its cache in the user's cache folder.

The first use on a machine compiles for ten seconds and more, which the log says; later ones load the result.  Where the folder
cannot be written, or what is in it is damaged, every process compiles for itself.  `NUMBA_CACHE_DIR` and `NUMBA_DISABLE_JIT` are
heeded.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numba
import numba.core.caching
import numba.core.config
import numba.core.event

from samba_asr.cache import cache_folder

logger = logging.getLogger(__name__)

KERNELS = (
    "ending", "extend", "frame", "jit", "joins", "keep", "kernel", "layout", "links", "lookup", "order", "paths", "states",
)  # fmt: skip
"""Files with compiled functions."""
F = TypeVar("F", bound=Callable[..., Any])
_compiled: list[Any] = []  # numba's dispatchers


def _sources() -> str:
    """Return a name for the present sources: numba itself notices changes of the file of a function only."""
    digest = hashlib.sha256()
    for name in KERNELS:
        digest.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return digest.hexdigest()[:16]


config: Any = numba.core.config  # its settings are set when numba is imported
_FOLDER = config.CACHE_DIR or str(cache_folder() / "kernels" / _sources())
_called = False  # whether a first call has succeeded


def jit(function: F) -> F:
    """Compile a function when it is first called."""
    return _jit(function)


def jit_fast(function: F) -> F:
    """Like `jit`; sums of floats may be taken in any order, eight or more numbers at once."""
    return _jit(function, fastmath={"contract", "nsz", "reassoc"})


def _jit(function: F, **options: Any) -> F:
    own = config.CACHE_DIR
    try:
        config.CACHE_DIR = _FOLDER
        compiled = numba.njit(cache=True, nogil=True, **options)(function)
        # Where that folder cannot be written numba takes its own, where it would miss changes of the other files.
        if not _path(compiled).startswith(_FOLDER):
            _drop_caches([compiled])
    except (RuntimeError, OSError):  # no folder that can be written
        compiled = numba.njit(nogil=True, **options)(function)
    finally:
        config.CACHE_DIR = own
    _compiled.append(compiled)
    return compiled  # pyright: ignore[reportReturnType]


def _path(compiled: Any) -> str:
    """Return the folder of a function's cache; of one that is not compiled (NUMBA_DISABLE_JIT), what it would be."""
    return str(compiled._cache.cache_path) if hasattr(compiled, "_cache") else _FOLDER


def call_first(call: Callable[[], Any]) -> Any:
    """Call compiled functions.  If the first call fails, it is made again without the cache of compiled functions."""
    global _called
    if _called:
        return call()
    try:
        found = call()
    except Exception as error:
        if not _drop_caches(_compiled):
            raise
        logger.warning("the cache of compiled functions in %s fails (%s): compiling without it", _FOLDER, error)
        found = call()
    _called = True
    return found


class _Notice(numba.core.event.Listener):
    """Logs one line when a function of this package begins to be compiled: whoever waits should know for what."""

    def __init__(self):
        self.said = False

    def on_start(self, event: Any) -> None:
        compiled = event.data["dispatcher"]
        if self.said or not any(own is compiled for own in _compiled):
            return
        if any(
            own.stats.cache_hits for own in _compiled
        ):  # a rest, such as what only live sessions call: a second or two
            return
        self.said = True
        kept = isinstance(compiled._cache, numba.core.caching.FunctionCache)
        later = "later runs load the result" if kept else f"each run does, as {_FOLDER} cannot keep the result"
        logger.info("compiling the beam search for this machine, which takes ten seconds or more; %s", later)

    def on_end(self, event: Any) -> None:
        pass


def _drop_caches(functions: Iterable[Any]) -> bool:
    """Use no cache from now on; returns whether there was one."""
    nothing, found = numba.core.caching.NullCache(), False
    for compiled in functions:
        cache = getattr(compiled, "_cache", None)
        found = found or isinstance(cache, numba.core.caching.FunctionCache)
        compiled._cache = nothing
    return found


numba.core.event.register("numba:compile", _Notice())
