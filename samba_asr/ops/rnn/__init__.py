"""ParaRNN: gated recurrent units whose Jacobian is diagonal: `para_gru(x, A, ...)`, `para_lstm(x, A, C, ...) -> y, final_state`.

naive.py     the definition: the recurrence as a loop over time
cells.py     a step in place, and the derivatives of many steps at once
scan.py      the forward scan and its hand-written adjoint, for either solver:
loop.py      step by step; the fast way on a CPU
newton.py    Newton's method over all steps at once, for GPUs
dispatch.py  chooses the backend
"""

from __future__ import annotations

from samba_asr.ops.rnn.dispatch import GRU_BACKENDS, LSTM_BACKENDS, choose, para_gru, para_lstm

__all__ = ["GRU_BACKENDS", "LSTM_BACKENDS", "choose", "para_gru", "para_lstm"]
