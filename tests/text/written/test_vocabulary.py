"""Features of words and classes of pauses."""

from __future__ import annotations

import numpy as np

from samba_asr.text.written.vocabulary import FEATURES, PAUSES, Vocabulary, pause_classes


def test_a_frequent_word_has_a_row_of_its_own_and_others_their_affixes():
    some = Vocabulary(["the", "walked"], 50)
    known, other, short = some.features(["walked", "talked", "a"])
    assert known.shape == (FEATURES,)
    assert known[0] == 2
    assert other[0] == 0
    assert list(known[4:]) == list(other[4:])  # -ed, -ked, -lked
    assert list(known[1:4]) != list(other[1:4])
    assert short[1] == short[3]
    assert short[4] == short[6]
    assert some.size == 53
    assert known.max() < some.size
    assert (known[1:] > 2).all()


def test_no_words_have_no_features():
    assert Vocabulary(["the"], 5).features([]).shape == (0, FEATURES)


def test_the_classes_of_pauses():
    assert list(pause_classes([np.nan, -0.1, 0.0, PAUSES[0], PAUSES[-1], 100.0])) == [0, 1, 1, 2, 8, 8]
