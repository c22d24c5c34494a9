"""One step of the scan of Mamba-2 in compiled code, for states that are kept in a pool."""

from __future__ import annotations

from samba_asr.decoding.compiled.jit import jit_fast


@jit_fast
def advance(pool, source, target, decay, x, B, C, y):
    """Read states of `pool` (slots, h, p, n) at `source` (r,), write the next ones at `target` (r,), and outputs y (r, h, p).

    state' = decay state + x B^T,  y = state' C.  decay (r, h), x (r, h, p), B and C (r, n); all of one type.
    """
    for r in range(decay.shape[0]):
        for h in range(decay.shape[1]):
            for p in range(x.shape[2]):
                before, after = pool[source[r], h, p], pool[target[r], h, p]
                total = B[r, 0] * 0
                for n in range(B.shape[1]):
                    state = before[n] * decay[r, h] + x[r, h, p] * B[r, n]
                    after[n] = state
                    total += state * C[r, n]
                y[r, h, p] = total
