"""The beam search over flat arrays, compiled by numba; `samba_asr.decoding.backend` chooses it.

    search.py   `CompiledBeam`, with the interface of `PrefixBeam`
    kernel.py   one row of it, frame by frame: frame.py, extend.py, keep.py; ending.py: its end
    layout.py   rows of its arrays; lookup.py, order.py, links.py, joins.py: its parts
    paths.py    words that all texts share, and alignment
    tables.py   flat arrays of lexicon, n-gram model and hotwords
    store.py    tables as one mapped file in the cache folder
    jit.py      numba and its cache

Only jit.py imports numba.  Importing search.py imports it.
"""
