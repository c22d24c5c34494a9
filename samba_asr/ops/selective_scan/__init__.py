"""The selective scan of Mamba (S6): `selective_scan(x, dt, A, B, C, ...) -> y, final_state`.

naive.py      the definition: the recurrence as a loop over time
chunk.py      the same by hand: blocks of time, states recomputed in backward; trains well on CPU
triton.py     one launch forward, one backward
dispatch.py   picks one
both_ways.py  on through time and back inside blocks, in one launch where Triton computes
"""

from __future__ import annotations

from samba_asr.ops.selective_scan.both_ways import selective_scan_both_ways
from samba_asr.ops.selective_scan.dispatch import BACKENDS, choose, selective_scan

__all__ = ["BACKENDS", "choose", "selective_scan", "selective_scan_both_ways"]
