"""The scan of Chimera over time and bands: `scan2d(x, dt, A, mix, B, C, ...) -> y, final_state`.

naive.py     the definition: a loop over time, and in it a loop over bands
wave.py      one diagonal of the plane after the other, with a hand-written backward that recomputes states
dispatch.py  checks the shapes and chooses the backend
"""

from __future__ import annotations

from samba_asr.ops.scan2d.dispatch import BACKENDS, choose, scan2d

__all__ = ["BACKENDS", "choose", "scan2d"]
