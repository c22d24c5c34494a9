"""The decoder: memory absorbed in any chunks, losses as by hand, and nothing from padding or from the text's future."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.models.decoder import MambaDecoder
from samba_asr.streaming import Step, StreamingModule, leaves, take_rows
from samba_asr.text.units import BOUNDARY
from tests.contract import verify_streaming
from tests.models.tiny import noise, tiny

TOKENS = torch.tensor([[2, 2, 3], [4, 0, 0], [3, 1, 0], [0, 0, 0]])
LENGTHS = torch.tensor([3, 1, 2, 0])


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    return MambaDecoder(tiny(decoder=2).decoder, d_memory=6, vocab_size=5).double().eval()


def frames(b=4, t=9):
    return noise(b, t, 6).double()


def remember(decoder, x, lengths):
    return decoder.absorb(x, lengths, decoder.init_memory(len(x), dtype=x.dtype))


class Absorbs(StreamingModule):
    """The decoder's memory as the state of a streaming module, whose outputs are its inputs."""

    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder

    def init_state(self, batch, *, device=None, dtype=None):
        return self.decoder.init_memory(batch, device=device, dtype=dtype)

    def step(self, x, lengths, state):
        return Step(x, lengths, self.decoder.absorb(x, lengths, state))


def test_the_memory_is_a_state_under_the_law(decoder):
    verify_streaming(Absorbs(decoder), frames())


@settings(max_examples=10)
@given(cuts=st.lists(st.integers(0, 4), min_size=1, max_size=6), data=st.data())
def test_memory_absorbed_in_any_cuts_is_that_of_the_whole(cuts, data):
    torch.manual_seed(0)
    decoder = MambaDecoder(tiny(decoder=2).decoder, d_memory=6, vocab_size=5).double().eval()
    total = torch.tensor([sum(cuts), data.draw(st.integers(0, sum(cuts)))])
    x = frames(2, sum(cuts)).requires_grad_()
    want = remember(decoder, x, total)
    memory, at = decoder.init_memory(2, dtype=x.dtype), 0
    for size in cuts:
        memory = decoder.absorb(x[:, at : at + size], (total - at).clamp(0, size), memory)
        at += size
    for p, q in zip(leaves(memory), leaves(want), strict=True):
        torch.testing.assert_close(p, q)
    if int(total.max()):
        wanted = [x, *decoder.layers.parameters()]
        losses = (decoder.loss(TOKENS[:2], LENGTHS[:2], m).sum() for m in (memory, want))
        gradients = (torch.autograd.grad(loss, wanted, allow_unused=True) for loss in losses)
        for p, q in zip(*gradients, strict=True):
            torch.testing.assert_close(p, q, atol=1e-6, rtol=1e-6)  # the loss is taken in float32


def test_what_lies_behind_the_frames_is_not_heard(decoder):
    lengths = torch.tensor([9, 4, 0, 6])
    x = frames()
    x[torch.arange(9) >= lengths[:, None]] = float("nan")
    x.requires_grad_()
    loss = decoder.loss(TOKENS, LENGTHS, remember(decoder, x, lengths))
    for row, n in enumerate(lengths.tolist()):
        one = slice(row, row + 1)
        alone = decoder.loss(TOKENS[one], LENGTHS[one], remember(decoder, x[one, :n], lengths[one]))
        torch.testing.assert_close(loss[one], alone)
    for gradient in torch.autograd.grad(loss.sum(), [x, *decoder.parameters()]):
        assert gradient.isfinite().all()


def test_the_speech_is_heard(decoder):
    lengths = torch.full((4,), 9)
    heard = decoder.loss(TOKENS, LENGTHS, remember(decoder, frames(), lengths))
    other = decoder.loss(TOKENS, LENGTHS, remember(decoder, frames().flip(1), lengths))
    assert ((heard - other).abs() > 1e-6).all()


def test_logits_at_a_position_depend_on_the_text_before_it_alone(decoder):
    memory = remember(decoder, frames(), torch.full((4,), 9))
    full = torch.full((4,), 3)
    logits = decoder(TOKENS, full, memory)
    assert logits.shape == (4, 4, 5)
    changed = TOKENS.clone()
    changed[:, 1] = (changed[:, 1] + 1) % 5
    after = decoder(changed, full, memory)
    torch.testing.assert_close(after[:, :2], logits[:, :2])
    assert not torch.isclose(after[:, 2:], logits[:, 2:]).all(-1).any()


# --- the loss


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_cross_entropy_of_the_text_and_its_end(decoder, smoothing):
    memory = remember(decoder, frames(), torch.tensor([9, 4, 0, 6]))
    loss = decoder.loss(TOKENS, LENGTHS, memory, smoothing)
    for row, n in enumerate(LENGTHS.tolist()):
        text = TOKENS[row : row + 1, :n]
        p = decoder(text, LENGTHS[row : row + 1], take_rows(memory, [row]))[0].float().log_softmax(-1)  # (n + 1, v)
        want = 0.0
        for position, target in enumerate([*text[0].tolist(), BOUNDARY]):
            want -= (1 - smoothing) * p[position, target] + smoothing * p[position].mean()
        torch.testing.assert_close(loss[row], want)


def test_the_padding_of_the_text_does_not_matter(decoder):
    memory = remember(decoder, frames(), torch.full((4,), 9))
    behind = torch.arange(3) >= LENGTHS[:, None]
    want = decoder.loss(TOKENS, LENGTHS, memory)
    assert torch.equal(decoder.loss(TOKENS.masked_fill(behind, 4), LENGTHS, memory), want)
    wider = torch.nn.functional.pad(TOKENS, (0, 2), value=3)
    torch.testing.assert_close(decoder.loss(wider, LENGTHS, memory), want)


def test_all_texts_of_one_token_share_the_probability(decoder):
    """Without smoothing exp(-loss) is p(text | speech): over all texts of at most one token, no more than 1."""
    memory = remember(decoder, frames(1), torch.tensor([9]))
    end = torch.exp(-decoder.loss(torch.zeros(1, 0, dtype=torch.long), torch.tensor([0]), memory))
    tokens = torch.arange(1, 5)[:, None]
    first = decoder(tokens, torch.ones(4, dtype=torch.long), take_rows(memory, [0] * 4)).float().softmax(-1)
    loss = decoder.loss(tokens, torch.ones(4, dtype=torch.long), take_rows(memory, [0] * 4))
    torch.testing.assert_close(torch.exp(-loss), first[range(4), 0, tokens[:, 0]] * first[:, 1, BOUNDARY])
    torch.testing.assert_close(end + first[range(4), 0, tokens[:, 0]].sum(), torch.ones(1))
