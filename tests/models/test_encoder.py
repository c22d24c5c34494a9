"""The encoder: from waveform to log-probabilities one streaming module, at every block size, each row at its own."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from samba_asr.errors import UserError
from samba_asr.models.acoustic import AcousticModel
from samba_asr.models.asr import AsrModel
from samba_asr.models.encoder import Encoder, EncoderLayer
from samba_asr.ops.blocks import lay_blocks
from samba_asr.streaming import Stack, leaves, stack_rows
from tests.contract import AtBlock, InBlocks, awake, verify_streaming
from tests.models.tiny import FRAME, noise, tiny

BLOCKS = (1, 3, -1, (2, 1, 6, 5))
MIXERS = pytest.mark.parametrize("mixer", ["mamba", "mamba2", "hydra"])


def frames(b=4, t=11):
    return noise(b, t, 8).double()


# --- the contract


@MIXERS
@pytest.mark.parametrize("size", [1, 3, 100, (1, 2, 6, 3)])
def test_a_layer_keeps_the_law(mixer, size):
    verify_streaming(InBlocks(EncoderLayer(tiny(mixer)), size), frames(), seeds=[0])


@MIXERS
@pytest.mark.parametrize("block", BLOCKS)
def test_the_encoder_keeps_the_law(mixer, block):
    verify_streaming(AtBlock(Encoder(tiny(mixer)), block), frames(), seeds=[0])


@MIXERS
@pytest.mark.parametrize("block", [3, (2, 1, 6, 5)])
def test_from_waveform_to_log_probabilities_the_law_holds(mixer, block):
    model = AsrModel(tiny(mixer, layers=1))
    module = Stack(AtBlock(model.acoustic, block), model.ctc)
    assert module.stride == FRAME
    verify_streaming(module, noise(4, 9 * FRAME, 1), seeds=[0])


@pytest.mark.parametrize("block", [3, (2, 1, 6, 5)])
def test_with_fusion_the_law_holds(block):
    verify_streaming(AtBlock(Encoder(tiny(layers=3, fusion=True)), block), frames(), seeds=[0])


def test_with_frames_of_another_length_the_law_holds():
    model = AsrModel(tiny("hydra", layers=1, subsampling=2))
    assert model.acoustic.stride == FRAME // 2
    verify_streaming(Stack(AtBlock(model.acoustic, 3), model.ctc), noise(4, 5 * FRAME, 1), seeds=[0])


@pytest.mark.parametrize("block", [3, (2, 1, 6, 5)])
def test_with_ctc_in_the_middle_the_law_holds(block):
    verify_streaming(AtBlock(Encoder(tiny(layers=3, self_conditioning=(1, 2))), block), frames(), seeds=[0])


@MIXERS
@pytest.mark.parametrize("overlap", [0.5, 0.3, 0.9])
@pytest.mark.parametrize("block", [4, (2, 5, 6, 3)])
def test_with_blocks_that_overlap_the_law_holds(mixer, block, overlap):
    hop = tuple(n - int(n * overlap) for n in (block if isinstance(block, tuple) else (block,)))
    verify_streaming(AtBlock(Encoder(tiny(mixer)), block, hop if len(hop) > 1 else hop[0]), frames(), seeds=[0])


def test_from_waveform_to_log_probabilities_the_law_holds_with_blocks_that_overlap():
    model = AsrModel(tiny(layers=3, self_conditioning=(1,)))
    verify_streaming(
        Stack(AtBlock(model.acoustic, (4, 5, 6, 3), (2, 3, 6, 2)), model.ctc), noise(4, 13 * FRAME, 1), seeds=[0]
    )


@MIXERS
def test_every_frame_has_seen_what_the_overlap_promises(mixer):
    """Blocks of 5, of which 3 are emitted: frames 0 to 2 have seen up to 4, 3 to 5 up to 7, and so on."""
    torch.manual_seed(0)
    encoder = awake(Encoder(tiny(mixer))).double().eval()
    x, lengths = frames(1, 14), torch.tensor([14])
    x.requires_grad_()
    y, emitted = encoder(x, lengths, 5, 3)
    assert emitted.tolist() == [14]
    for i, seen in ((0, 4), (2, 4), (3, 7), (5, 7), (6, 10), (9, 13), (11, 13)):
        (gradient,) = torch.autograd.grad((y[0, i] * torch.arange(8)).sum(), x, retain_graph=True)
        assert int(gradient[0].abs().sum(-1).nonzero().max()) == seen
    plain = Encoder.read(encoder, x, lengths, 5)[0]
    torch.testing.assert_close(y[:, :3], plain[:, :3])  # the first block is like any other


@pytest.mark.parametrize(
    "mixer", ["mamba", "mamba2"]
)  # Hydra's scan rightly sees, through its convolution, what follows
def test_states_are_those_where_the_next_block_begins(mixer):
    layer = awake(EncoderLayer(tiny(mixer))).double().eval()
    x, keep = frames(4, 6), torch.tensor([2, 6, 0, 4])
    whole = lay_blocks(torch.full((4,), 6), 6, 6)
    three = torch.full((4,), 3)
    state = layer.step(frames(4, 3), three, layer.init_state(4, dtype=x.dtype), lay_blocks(three, 3, 3)).state
    y, _, after = layer.step(x, whole.ragged, state, whole._replace(keep=keep))
    torch.testing.assert_close(y, layer.step(x, whole.ragged, state, whole).x)
    # the mixer's own state depends on nothing behind: as if the block had ended there
    inside = layer.mixer_norm(x + 0.5 * layer.feed_forward_in(x))
    short = layer.mixer.step(inside, keep, state.mixer, lay_blocks(keep, 6, 6)).state
    for a, b in zip(leaves(after.mixer), leaves(short), strict=True):
        torch.testing.assert_close(a, b)


def test_what_ctc_reads_in_the_middle_reaches_the_layers_above():
    encoder = awake(Encoder(tiny(self_conditioning=(1,)))).double().eval()
    lengths = torch.tensor([11])
    y, _, (log_probs,) = encoder.read(frames(1), lengths, 3)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(1, 11, dtype=torch.float64))
    assert torch.equal(y, encoder(frames(1), lengths, 3)[0])
    with torch.no_grad():
        encoder.conditioning["1"].head.bias[2] += 3
    assert not torch.allclose(y, encoder(frames(1), lengths, 3)[0])


@pytest.mark.parametrize("layer", [0, 2])
def test_ctc_in_the_middle_is_below_the_last_layer(layer):
    with pytest.raises(UserError, match=f"model.self_conditioning {layer}: give layers from 1 to 1"):
        Encoder(tiny(self_conditioning=(layer,)))


def test_fusion_is_a_weighted_sum_of_all_layers():
    """At first it is nearly the last layer: softmax of 0, 0, 4."""
    encoder = Encoder(tiny(layers=3, fusion=True, self_conditioning=(1,))).double().eval()
    plain = Encoder(tiny(layers=3, self_conditioning=(1,))).double().eval()
    plain.load_state_dict({k: v for k, v in encoder.state_dict().items() if "fusion" not in k})
    outputs = []
    for layer in encoder.layers:
        step = layer.step
        layer.step = lambda *args, step=step: outputs.append(step(*args)) or outputs[-1]
    x, lengths = frames(), torch.full((4,), 11)
    gain = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        y, _ = encoder(x, lengths, 3)
        last, _ = plain(x, lengths, 3)
        share = torch.tensor([1.0, 1.0, math.e**4]).double() / (2 + math.e**4)
        torch.testing.assert_close(y, sum(a * o.x for a, o in zip(share, outputs, strict=True)))
        torch.testing.assert_close(outputs[-1].x, last)
        outputs.clear()
        encoder.fusion.gain.copy_(gain)
        y, _ = encoder(x, lengths, 3)
        torch.testing.assert_close(y, sum(a * g * o.x for a, g, o in zip(share, gain, outputs, strict=True)))


@pytest.mark.parametrize("changes", [{"rates": (1, 2)}, {"skip_blanks": 0.9, "self_conditioning": (1,)}])
def test_fusion_wants_all_frames_in_all_layers(changes):
    with pytest.raises(UserError, match=r"model\.fusion and model\.(rates|skip_blanks) do not go together"):
        Encoder(tiny(fusion=True, **changes))


def test_without_a_backward_scan_the_law_holds():
    config = tiny("mamba2")
    config = dataclasses.replace(config, mixer=dataclasses.replace(config.mixer, bidirectional=False))
    verify_streaming(AtBlock(Encoder(config), 3), frames(), seeds=[0])


# --- blocks


@pytest.mark.parametrize("block", [11, 20, 1000])
def test_a_block_as_long_as_the_utterance_is_one_block(block):
    encoder = awake(Encoder(tiny(max_block=1000))).double().eval()
    lengths = torch.tensor([11, 4])
    y, _ = encoder(frames(2), lengths, block)
    want, _ = encoder(frames(2), lengths, -1)
    torch.testing.assert_close(y, want)


def test_minus_one_is_max_block_and_nothing_is_larger():
    encoder = awake(Encoder(tiny(max_block=6))).double().eval()
    lengths = torch.tensor([11, 4])
    want, _ = encoder(frames(2), lengths, 6)
    for block in (-1, 7, 1000):
        assert torch.equal(encoder(frames(2), lengths, block)[0], want)
        assert encoder.init_state(2, block=block).waiting.shape == (2, 5, 8)  # the sixth frame makes a block whole


def test_blocks_matter_and_0_is_causal():
    encoder = awake(Encoder(tiny())).double().eval()
    lengths = torch.tensor([11])
    y = {block: encoder(frames(1), lengths, block)[0] for block in (0, 1, 2, 6)}
    assert torch.equal(y[0], y[1])
    assert not torch.allclose(y[1], y[2])
    assert not torch.allclose(y[2], y[6])


def test_each_row_of_a_batch_can_have_its_own_block():
    encoder = awake(Encoder(tiny())).double().eval()
    x, lengths = frames(3), torch.tensor([11, 9, 5])
    together, _ = encoder(x, lengths, torch.tensor([1, 4, -1]))
    for row, block in enumerate([1, 4, -1]):
        n = int(lengths[row])
        alone, _ = encoder(x[row : row + 1, :n], lengths[row : row + 1], block)
        torch.testing.assert_close(together[row, :n], alone[0])


def test_sessions_of_different_blocks_share_one_state():
    encoder = awake(Encoder(tiny())).eval()
    states = [encoder.init_state(1, block=block, capacity=5) for block in (1, 3, -1)]
    state = stack_rows(states)
    assert state.size.tolist() == [1, 3, 6]
    y, lengths, state = encoder.step(noise(3, 5, 8), torch.tensor([5, 5, 5]), state)
    assert lengths.tolist() == [5, 3, 0]
    assert state.held.tolist() == [0, 2, 5]
    assert y.shape[1] == 5


def test_a_frame_waits_for_its_block_and_no_longer():
    encoder = awake(Encoder(tiny())).eval()
    state = encoder.init_state(1, block=3)
    released = []
    for i in range(7):
        _, n, state = encoder.step(noise(1, 1, 8, seed=i), torch.tensor([1]), state)
        released.append(int(n))
    assert released == [0, 0, 3, 0, 0, 3, 0]
    assert int(encoder.finish(state)[1]) == 1


# --- lengths and shapes


def test_samples_that_fill_no_frame_are_left_out():
    acoustic = awake(AcousticModel(tiny())).double().eval()
    x, lengths = noise(3, 5 * FRAME + 9, 1).double(), torch.tensor([5 * FRAME + 9, 2 * FRAME + 1, FRAME - 1])
    y, n = acoustic(x, lengths)
    assert n.tolist() == [5, 2, 0]
    want, _ = acoustic(x[:, : 5 * FRAME], lengths // FRAME * FRAME)
    torch.testing.assert_close(y[0], want[0])
    torch.testing.assert_close(y[1, :2], want[1, :2])


def test_no_audio_at_all_gives_no_frames():
    acoustic = awake(AcousticModel(tiny())).eval()
    for samples in (0, FRAME - 1):
        y, n = acoustic(noise(2, samples, 1), torch.tensor([samples, 0]))
        assert y.shape[1] == 0
        assert n.tolist() == [0, 0]


def test_the_state_is_small_and_does_not_depend_on_what_was_heard():
    acoustic = awake(AcousticModel(tiny())).eval()
    state = acoustic.init_state(1, block=2)
    before = sum(leaf.numel() for leaf in leaves(state))
    for i in range(3):
        state = acoustic.step(noise(1, 4 * FRAME, 1, seed=i), torch.tensor([4 * FRAME]), state).state
    assert sum(leaf.numel() for leaf in leaves(state)) == before


def test_features_and_subsampling_are_the_front():
    acoustic = awake(AcousticModel(tiny())).eval()
    x, lengths = noise(1, 4 * FRAME, 1), torch.tensor([4 * FRAME])
    step_by_step = acoustic.encoder(*acoustic.subsampling(*acoustic.features(x, lengths)), 2)
    assert torch.equal(step_by_step[0], acoustic(x, lengths, 2)[0])
