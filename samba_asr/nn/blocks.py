"""Blocks: how one set of weights serves every latency.

Time is cut into blocks of L frames, counted from the start of the utterance.  A layer reads forward in time with its state
carried for ever, and backward in time inside the block alone.  L = 1 is causal; L = the utterance is fully bidirectional;
training draws L.  (Latency-controlled bidirectional Mamba, NTT, Interspeech 2025.)  Live, blocks may overlap: then a layer
hands its state on from where the next block begins (`Blocks.keep`), and what lies behind is heard again.

`Blocks` (samba_asr.ops.blocks) is laid once, at the encoder's entry, and shared by all layers.  Each row has its own L.  A
`BlockModule` obeys the law of `samba_asr.streaming` for chunks of whole blocks; the encoder lets only those through.
Shapes: b batch, t time, d channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from samba_asr.ops.blocks import Blocks, flip
from samba_asr.ops.device import choose_fused
from samba_asr.streaming import State, Step, StreamingModule


class BlockModule(nn.Module):
    """A layer that sees whole blocks: the law of `StreamingModule`, with `blocks` as one more argument."""

    def init_state(self, batch: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None) -> State:
        raise NotImplementedError

    def step(self, x: Tensor, lengths: Tensor, state: State, blocks: Blocks) -> Step:
        """x (b, t, d) and its `lengths` (b,) hold whole blocks, but for the last block of an utterance."""
        raise NotImplementedError

    def forward(self, x: Tensor, lengths: Tensor, blocks: Blocks) -> tuple[Tensor, Tensor]:
        state = self.init_state(x.shape[0], device=x.device, dtype=x.dtype)
        return self.step(x, lengths, state, blocks)[:2]


class Unidirectional(BlockModule):
    """A causal mixer where a block module is expected: blocks make no difference to it."""

    def __init__(self, mixer: StreamingModule):
        super().__init__()
        self.mixer = mixer

    def init_state(self, batch, *, device=None, dtype=None):
        return self.mixer.init_state(batch, device=device, dtype=dtype)

    def step(self, x, lengths, state, blocks):
        y, _, after = self.mixer.step(x, blocks.ragged, state)
        return Step(y, lengths, after if blocks.keep is None else self.mixer.step(x, blocks.keep, state).state)


class CausalMixer(StreamingModule):
    """What `BlockBidirectional` makes two of."""

    def step(self, x: Tensor, lengths: Tensor | None, state: State, reset: Tensor | None = None) -> Step:
        """reset (b, t) bool: forget everything before these steps; lengths None: all steps count."""
        raise NotImplementedError

    def both_ways(self, back: CausalMixer, x: Tensor, state: State, blocks: Blocks) -> tuple[Tensor, State]:
        """This mixer forth plus `back` inside blocks, (b, t, d), and this one's state: what the two `step`s of
        `BlockBidirectional` come to, in as few launches as Triton's kernels allow."""
        raise NotImplementedError


class BlockBidirectional(BlockModule):
    """Two causal mixers: one reads on for ever, the other backward inside each block; their outputs are added."""

    def __init__(self, forward_mixer: CausalMixer, backward_mixer: CausalMixer):
        super().__init__()
        self.forward_mixer, self.backward_mixer = forward_mixer, backward_mixer

    def init_state(self, batch, *, device=None, dtype=None):
        return self.forward_mixer.init_state(batch, device=device, dtype=dtype)

    def step(self, x, lengths, state, blocks):
        if choose_fused(x.device, x.dtype, x.shape[1])[0] == "triton":
            y, after = self.forward_mixer.both_ways(self.backward_mixer, x, state, blocks._replace(keep=None))
        else:
            y, _, after = self.forward_mixer.step(x, blocks.ragged, state)
            nothing = self.backward_mixer.init_state(x.shape[0], device=x.device, dtype=x.dtype)
            back = self.backward_mixer.step(flip(x, blocks), blocks.ragged, nothing, reset=blocks.start).x
            y = y + flip(back, blocks)
        return Step(y, lengths, after if blocks.keep is None else self.forward_mixer.step(x, blocks.keep, state).state)
