"""Registry of the searches, by the value of decode.search.method.  A new search is one new file, and one line below."""

from __future__ import annotations

from samba_asr.decoding.generate import DecoderSearch
from samba_asr.decoding.greedy import Greedy
from samba_asr.decoding.prefix_beam import PrefixBeam
from samba_asr.registry import Registry

searches = Registry("search method")  # of `samba_asr.decoding.base.Search`s
searches.register("greedy")(Greedy)
searches.register("beam")(PrefixBeam)
searches.register("decoder")(DecoderSearch)


def method_for(need: str, own: str = "") -> str:
    """Return the name of a search that takes `need` (`Search.takes`): `own` if it does, else the first that does."""
    if own and need in searches[own].takes:
        return own
    return next(name for name in searches if need in searches[name].takes)


def settings_for(need: str, own: str) -> list[str]:
    """Return the overrides that choose a search which takes `need`; no overrides if the model's `own` search takes it."""
    name = method_for(need, own)
    return [] if name == own else [f"decode.search.method={name}"]


def refusal(wanted: str, need: str, method: str) -> str:
    """Make the message for a search that does not take `need`.  wanted: subject and verb, such as "hotwords need"."""
    if "nbest" in searches[method].takes:
        return f"{wanted} a search that they can guide, and {method} search is none: use decode.search.method={method_for(need)}"
    return f"{wanted} several hypotheses, and {method} search has one: use decode.search.method={method_for(need)}"
