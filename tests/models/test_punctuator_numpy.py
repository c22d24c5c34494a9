"""The punctuation network in numpy gives what the one in torch gives, segment by segment, and needs no torch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.config import PunctuationConfig
from samba_asr.errors import UserError
from samba_asr.models.punctuator import Punctuator, load_punctuator, save_punctuator
from samba_asr.models.punctuator_numpy import PIECE, NumpyPunctuator, load
from samba_asr.text.written.marks import MARKS
from samba_asr.text.written.vocabulary import FEATURES, PAUSES

CONFIG = PunctuationConfig(words=20, hashes=16, d_embedding=8, layers=2, d_model=8, d_state=3, headdim=4)


def networks(seed: int = 0) -> tuple[Punctuator, NumpyPunctuator]:
    """The same random weights in torch and numpy, biases and scales of norms included."""
    torch.manual_seed(seed)
    net = Punctuator(CONFIG, ["he", "came", "it"], {"mcdonald": "McDonald"}, [0.25] * len(MARKS)).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn_like(p))
        net.embedding.weight[0] = 0  # padding
    weights = {name: x.numpy() for name, x in net.state_dict().items()}
    return net, NumpyPunctuator(weights, net.vocabulary, net.listed, net.bias, CONFIG.layers)


def words(t: int, rows: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    pauses = rng.integers(0, len(PAUSES) + 2, (t, 1))
    return np.concatenate([rng.integers(0, rows, (t, FEATURES)), pauses], 1)


def flat(state) -> np.ndarray:
    """All values of a state, of either network."""
    return np.concatenate([np.asarray(part).ravel() for layer in state for part in layer])


def compare(net, fast, sizes: list[tuple[int, int]], rows: int) -> None:
    state = other = None
    for seed, (t, beyond) in enumerate(sizes):
        x = words(t, rows, seed)
        cases, marks, state = net.read(x, state, min(beyond, t))
        found_cases, found_marks, other = fast.read(x, other, min(beyond, t))
        np.testing.assert_allclose(found_cases, cases, rtol=0, atol=2e-5)
        np.testing.assert_allclose(found_marks, marks, rtol=0, atol=2e-5)
        np.testing.assert_allclose(flat(other), flat(state), rtol=1e-5, atol=2e-5)


@given(st.lists(st.tuples(st.integers(1, 11), st.integers(0, 11)), min_size=1, max_size=4), st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_segments_of_any_size_are_read_as_by_torch(sizes, seed):
    """Also where words are read that come again, all of a segment included."""
    compare(*networks(seed), sizes, rows=18)


@pytest.mark.parametrize(
    ("t", "beyond"), [(PIECE - 1, 1), (PIECE, 0), (PIECE + 1, 1), (PIECE + 1, 5), (2 * PIECE + 5, PIECE + 5)]
)
def test_long_segments_are_read_in_pieces(t, beyond):
    compare(*networks(), [(t, beyond), (3, 1)], rows=18)


def test_the_shipped_network_is_read_as_by_torch():
    compare(load_punctuator(), load(), [(20, 5), (1, 0), (47, 16), (PIECE + 9, 16), (2, 2)], rows=20_000)


def test_reading_leaves_the_state_that_it_got():
    fast = networks()[1]
    *_, state = fast.read(words(5, 18), None)
    before = flat(state).copy()
    fast.read(words(4, 18, seed=1), state, 2)
    np.testing.assert_array_equal(flat(state), before)


def test_a_file_gives_both_networks(tmp_path):
    net = networks()[0]
    save_punctuator(tmp_path / "p.safetensors", net)
    fast, slow = load(tmp_path / "p.safetensors"), load_punctuator(tmp_path / "p.safetensors")
    assert (fast.listed, fast.bias, fast.vocabulary.words) == (slow.listed, slow.bias, slow.vocabulary.words)
    compare(slow, fast, [(7, 2), (4, 0)], rows=18)


@pytest.mark.parametrize("content", [None, b"", b"no weights", b"\x02\0\0\0\0\0\0\0{}", b"\xff" * 40])
def test_other_files_are_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "p").write_bytes(content)
    with pytest.raises(UserError, match="not a model of punctuation"):
        load(tmp_path / "p")


def test_a_truncated_file_is_refused(tmp_path):
    save_punctuator(tmp_path / "p", networks()[0])
    content = (tmp_path / "p").read_bytes()
    (tmp_path / "p").write_bytes(content[:-100])
    with pytest.raises(UserError, match="not a model of punctuation"):
        load(tmp_path / "p")


def test_it_needs_no_torch():
    code = (
        "import sys\nsys.modules.update(dict.fromkeys(['torch', 'safetensors']))\n"
        "from samba_asr.decoding.written import Writer\nfrom samba_asr.models.punctuator_numpy import load\n"
        "print(Writer(load()).preview('I WENT TO LONDON WITH MISTER SMITH')[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "I went to London with Mister Smith\n"
