"""Mamba-2's convolution and scan for one step, in compiled code, for states that are kept in pools.

Rows are processed in their order, so the source of one may be the target of an earlier one.  Arrays are of one type.

    r  rows     c  channels of the convolution     h  heads     p  channels of a head     n  state
"""

from __future__ import annotations

from samba_asr.decoding.compiled.jit import jit_fast


@jit_fast
def convolve(pool, source, target, inputs, weight, bias, out):
    """See `samba_asr.decoding.slots.convolve`."""
    last = pool.shape[1]
    for r in range(source.shape[0]):
        before, after = pool[source[r]], pool[target[r]]
        for c in range(inputs.shape[1]):
            total = bias[c] + inputs[r, c] * weight[c, last]
            for k in range(last):
                value = before[k, c]
                total += value * weight[c, k]
                if k:
                    after[k - 1, c] = value
            after[last - 1, c] = inputs[r, c]
            out[r, c] = total


@jit_fast
def advance(pool, source, target, decay, x, B, C, y):
    """See `samba_asr.decoding.slots.advance`."""
    for r in range(source.shape[0]):
        for h in range(decay.shape[1]):
            for p in range(x.shape[2]):
                before, after = pool[source[r], h, p], pool[target[r], h, p]
                total = B[r, 0] * 0
                for n in range(B.shape[1]):
                    state = before[n] * decay[r, h] + x[r, h, p] * B[r, n]
                    after[n] = state
                    total += state * C[r, n]
                y[r, h, p] = total
