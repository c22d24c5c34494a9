"""Lines of text as batches."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.config import Config, LmConfig
from samba_asr.data.text import TextSet
from samba_asr.errors import UserError
from samba_asr.text.tokenizer import CharTokenizer

CHARS = CharTokenizer(["▁", *"abcdefgh"])


def text_set(text, **lm) -> TextSet:
    return TextSet(text, CHARS, dataclasses.replace(Config(), lm=LmConfig(**{"batch_units": 30, **lm})))


def texts(batch) -> list[str]:
    return [CHARS.decode(row[:n].tolist()) for row, n in zip(batch.tokens, batch.token_lengths.tolist(), strict=True)]


LINES = st.lists(st.text("abcdefgh", min_size=1, max_size=12), min_size=1, max_size=40)


@given(lines=LINES, part=st.integers(1, 50), ranks=st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_epochs_take_turns_with_all_lines(lines, part, ranks):
    data = text_set(lines, lines=part)
    turns = len(data) // min(part, len(data))
    seen = []
    for number in range(1, turns + 1):
        epoch = data.epoch(number, ranks=ranks)
        assert len(epoch) % ranks == 0
        chosen = {text for k in range(len(epoch)) for text in texts(epoch[k])}
        assert chosen <= set(lines)
        seen += chosen
    if part >= len(lines):
        assert set(seen) == set(lines)
    assert len(set(seen)) >= len(set(lines)) - part  # what does not fill an epoch waits for the next turn


def test_an_epoch_is_the_same_each_time_and_the_next_turn_another():
    data = text_set([c * n for c in "abcdefgh" for n in range(1, 6)], lines=10)
    batches = lambda n: data.epoch(n).batches  # noqa: E731
    assert batches(1) == batches(1)
    assert batches(1) != batches(5)


def test_in_order_has_every_line_once_over_all_ranks():
    lines = ["a", "bb", "ccc", "dddddddd", "ee"]
    data = text_set(lines)
    assert sorted(t for rank in range(2) for b in data.in_order(rank, 2) for t in texts(b)) == sorted(lines)


def test_batches_are_padded_with_zeros_and_hold_no_audio():
    batch = text_set(["ab", "a"]).batch([0, 1])
    assert batch.tokens.tolist()[1][1:] == [0] * (batch.tokens.shape[1] - 1)
    assert batch.audio.shape == (2, 0)
    assert batch.lengths.tolist() == [0, 0]


def test_what_is_left_out_is_counted():
    data = text_set(["a", "", "abcdefgh"], longest=4)
    assert len(data) == 1
    assert data.left_out == {"without text": 1, "longer than lm.longest=4 units": 1}
    with pytest.raises(UserError, match="is empty"):
        text_set(["", " "])


def test_another_text_is_another_fingerprint():
    assert text_set(["ab", "c"]).fingerprint == text_set(["ab", "c"]).fingerprint
    assert (
        len({text_set(lines).fingerprint for lines in (["ab", "c"], ["c", "ab"], ["ab"], ["a", "bc"], ["ab", "d"])})
        >= 4
    )
