"""Scans and gate of a bidirectional SSD mixer as a training step calls them: on rows of whole utterances, end to end in memory.

Softplus of dt, its bias, A = -exp(A_log) and D are part of the kernels.  All states start from zeros, and nobody reads them at
the end.  Gradients go to where the layers below read theirs, as columns of one tensor.  The definitions are `ops.ssd` and
`ops.quasiseparable`, whose kernels these are; the tests of `nn/stated.py` compare values and gradients.

triton.py   all of it
"""
