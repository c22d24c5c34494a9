"""State-space duality (SSD), the scan of Mamba-2: `ssd(x, dt, A, B, C, ...) -> y, final_state`.

naive.py      the definition: the recurrence as a loop over time
chunk.py      matrix products inside chunks of time, a short recurrence between them
triton.py     one launch forward, one backward
dispatch.py   chooses the backend
both_ways.py  two scans, forward in time and backward inside blocks
"""

from __future__ import annotations

from samba_asr.ops.ssd.both_ways import ssd_both_ways
from samba_asr.ops.ssd.dispatch import BACKENDS, choose, ssd

__all__ = ["BACKENDS", "choose", "ssd", "ssd_both_ways"]
