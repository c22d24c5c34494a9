"""A packed n-gram model is the ARPA file it was made of, to 1/32 nat."""

import io
import lzma
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.decoding import packed
from samba_asr.decoding.ngram import read_arpa, read_ngram
from samba_asr.errors import UserError
from tests.decoding.toys import write_arpa


def pack(arpa: Path) -> Path:
    path = arpa.with_suffix(".ngram")
    packed.write(path, *read_arpa(arpa))
    return path


def test_it_scores_as_its_arpa_file_in_every_context(tmp_path):
    arpa = read_ngram(write_arpa(tmp_path))
    same = read_ngram(pack(write_arpa(tmp_path)))
    assert set(same.ids) == set(arpa.ids)
    assert same.order == arpa.order
    draw = random.Random(0)
    words = sorted(arpa.ids)
    for _ in range(300):
        *context, word = draw.choices(words, k=draw.randint(1, 4))
        (one,), _ = arpa.score([tuple(arpa.ids[w] for w in context)], [arpa.ids[word]])
        (other,), _ = same.score([tuple(same.ids[w] for w in context)], [same.ids[word]])
        assert abs(one - other) <= 3 * packed.STEP / 2 + 1e-6  # a probability and two back-offs at most


@given(data=st.data())
@settings(deadline=None, max_examples=6)
def test_any_n_grams_come_back(tmp_path_factory, data):
    size = data.draw(st.sampled_from([1, 2, 200, 700, 70_000]))  # of the vocabulary: ids of one byte, two and three
    order = data.draw(st.integers(1, 4))
    draw = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    words = [f"w{i}" for i in range(size)]
    grams = []
    for m in range(1, order + 1):
        n = size if m == 1 else int(draw.integers(0, 200))
        ids = np.arange(size)[:, None] if m == 1 else np.unique(draw.integers(0, size, (n, m)), axis=0)
        worth = draw.uniform(-20, 1, (2, len(ids))).astype(np.float32)
        grams.append(packed.Grams(draw.permutation(ids).astype(np.int32), *worth))
    path = tmp_path_factory.mktemp("packed") / "lm.ngram"
    packed.write(path, words, grams)
    found, again = packed.read(path)
    assert sorted(found) == sorted(words)
    for some, other in zip(grams, again, strict=True):
        before = {tuple(words[i] for i in ids): worth for *worth, ids in zip(*some[1:], some.words, strict=True)}
        after = {tuple(found[i] for i in ids): worth for *worth, ids in zip(*other[1:], other.words, strict=True)}
        assert before.keys() == after.keys()
        for gram, worth in before.items():
            np.testing.assert_allclose(after[gram], worth, atol=packed.STEP / 2 + 1e-6)


def test_an_arpa_files_never_stays_never(tmp_path):
    arpa = write_arpa(tmp_path, write_arpa(tmp_path).read_text().replace("-0.35\t", "-99\t"))
    model = read_ngram(pack(arpa))
    (score,), _ = model.score([(model.ids["a"], model.ids["b"])], [model.ids["</s>"]])
    assert score < -200


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[:-30],
        lambda content: content[:40] + bytes(10) + content[50:],
        lambda content: lzma.compress(b"something else"),
        lambda content: lzma.compress(lzma.decompress(content)[:-50]),
    ],
)
def test_what_is_not_whole_is_an_error(tmp_path, spoil):
    path = pack(write_arpa(tmp_path))
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(UserError, match="not a packed language model"):
        read_ngram(path)


def test_a_word_that_is_not_in_the_vocabulary_is_an_error(tmp_path):
    path = pack(write_arpa(tmp_path))
    with np.load(io.BytesIO(lzma.decompress(path.read_bytes()))) as arrays:
        changed = dict(arrays)
    changed["words"] = changed["words"][:-4]  # and the line feed before it
    buffer = io.BytesIO()
    np.savez(buffer, **changed)
    path.write_bytes(lzma.compress(buffer.getvalue()))
    with pytest.raises(UserError, match="names word"):
        read_ngram(path)
