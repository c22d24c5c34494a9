"""The selective scan of Mamba (S6): `selective_scan(x, dt, A, B, C, ...) -> y, final_state`.

naive.py      the definition: the recurrence as a loop over time
chunk.py      blocks of time, hand-written backward that recomputes states; trains well on CPU
complex.py    the same for complex states
triton.py     one launch forward, one backward
dispatch.py   chooses the backend
both_ways.py  two scans, forward in time and backward inside blocks; one launch in Triton
"""

from __future__ import annotations

from samba_asr.ops.selective_scan.both_ways import selective_scan_both_ways
from samba_asr.ops.selective_scan.dispatch import BACKENDS, choose, selective_scan

__all__ = ["BACKENDS", "choose", "selective_scan", "selective_scan_both_ways"]
