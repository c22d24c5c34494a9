"""Linear time-invariant state space models (S4, S4D): `lti(x, system, ...) -> y, final_state`.

system.py     the system of a layer, its discretization, and what chunks of it need
naive.py      the definition: the recurrence as a loop over time
chunk.py      chunks of time as matrix products; trains well on CPU and GPU
kernel.py     S4's own algorithm, the Cauchy kernel, and the dense system: what the tests compare with
dispatch.py   chooses the backend
gaps.py       steps without input, many at once, for gaps (samba_asr.ops.elapsed)
"""

from __future__ import annotations

from samba_asr.ops.lti.dispatch import BACKENDS, choose, lti
from samba_asr.ops.lti.gaps import idle, lti_with_gaps
from samba_asr.ops.lti.system import Prepared, System

__all__ = ["BACKENDS", "Prepared", "System", "choose", "idle", "lti", "lti_with_gaps"]
