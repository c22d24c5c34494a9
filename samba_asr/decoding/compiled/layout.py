"""Rows of the arrays of a search: beams, extensions and joins.

values (9, w) float64  by beam: log-probabilities of `samba_asr.decoding.prefix_beam.BeamState` (P: logaddexp(PB, PN)); BASE,
                       score of the complete words; BONUS, and CREDIT, the part of it that may be taken back; KEPT, score of
                       hotwords that are no longer in the automaton's path
marks (8, w) int32     by beam: LAST token; NODE of the last word in its tree, and whether that is the session's tree
                       (PRIVATE); n-gram CONTEXT; entry of the WORDS; nodes of the two best alignments (PATH_B, PATH_N);
                       node of the hotword automaton (HOT)
names (3, w) uint64    by beam: NAME, name of the PARENT, recombination key (ALIKE)
joins (4, q) int32     what recombination dropped, for a lattice: J_READING, entry of `words` after which J_WORD was said;
                       J_INTO, entry that it leads to; J_TOKEN, node of the alignment before it

extensions             (7, n) float64, rows X_MORE .. X_VITERBI; (7, n) int32, X_FROM .. X_HOT; (2, n) uint64, name and key
stays                  beams that get no token: G (5, w), rows of `values`; nodes of the best alignment and of the one that
                       ends in a token; log-probabilities of the last token once more, and of the best alignment, each (w,)
"""

from __future__ import annotations

PB, PN, VB, VN, P, BASE, BONUS, CREDIT, KEPT = range(9)
LAST, NODE, PRIVATE, CONTEXT, WORDS, PATH_B, PATH_N, HOT = range(8)
NAME, PARENT, ALIKE = range(3)
J_READING, J_INTO, J_WORD, J_TOKEN = range(4)
X_MORE, X_GAIN, X_BASE, X_BONUS, X_CREDIT, X_KEPT, X_VITERBI = range(7)
X_FROM, X_TOKEN, X_NODE, X_PRIVATE, X_CONTEXT, X_WORD, X_HOT = range(7)

UNFINISHED = -50.0  # as samba_asr.decoding.words; a test compares them
UNKNOWN_SCORE = -15.0
