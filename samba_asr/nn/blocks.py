"""Blocks of time: one set of weights serves every latency.

Time is cut into blocks of L frames, counted from the start of the utterance.  A layer runs forward in time without limit,
and backward in time only inside each block.  L = 1 is causal; L = the utterance is fully bidirectional; training draws L.
(Latency-controlled bidirectional Mamba, NTT, Interspeech 2025.)  Live blocks may overlap.  Then a layer keeps its state
from where the next block begins (`Blocks.keep`), and the frames after that point are processed again.

The encoder computes `Blocks` (samba_asr.ops.blocks) once, and all layers share it.  Each row has its own L.  A `BlockModule`
keeps the contract of `samba_asr.streaming` for chunks of whole blocks; the encoder passes on only those.
Shapes: b batch, t time, d channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from samba_asr.ops.blocks import Blocks, backward_time, flip
from samba_asr.ops.device import choose_fused
from samba_asr.ops.elapsed import Elapsed
from samba_asr.streaming import State, Step, StreamingModule


class BlockModule(nn.Module):
    """A layer on whole blocks.  It keeps the contract of `StreamingModule`, with `blocks` as an additional argument."""

    exportable = False
    """As of `StreamingModule`."""

    def init_state(self, batch: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None) -> State:
        raise NotImplementedError

    def step(self, x: Tensor, lengths: Tensor, state: State, blocks: Blocks) -> Step:
        """Process x (b, t, d) with `lengths` (b,): whole blocks, except for the last block of an utterance."""
        raise NotImplementedError

    def forward(self, x: Tensor, lengths: Tensor, blocks: Blocks) -> tuple[Tensor, Tensor]:
        state = self.init_state(x.shape[0], device=x.device, dtype=x.dtype)
        return self.step(x, lengths, state, blocks)[:2]


class Unidirectional(BlockModule):
    """A causal mixer as a block module.  It ignores the block boundaries."""

    def __init__(self, mixer: CausalMixer):
        super().__init__()
        self.mixer = mixer

    def init_state(self, batch, *, device=None, dtype=None):
        return self.mixer.init_state(batch, device=device, dtype=dtype)

    def step(self, x, lengths, state, blocks):
        y, _, after = self.mixer.step(x, blocks.ragged, state, elapsed=blocks.before)
        if blocks.keep is not None:
            after = self.mixer.step(x, blocks.keep, state, elapsed=blocks.before).state
        return Step(y, lengths, after)


class CausalMixer(StreamingModule):
    """Interface of a causal mixer that `BlockBidirectional` can run in both directions."""

    def step(
        self,
        x: Tensor,
        lengths: Tensor | None,
        state: State,
        reset: Tensor | None = None,
        elapsed: Elapsed | None = None,
    ) -> Step:
        """Process x (b, t, d).  reset (b, t) bool: clear the state before these steps.  lengths None: all steps are valid.

        elapsed: time that passes besides the steps (samba_asr.ops.elapsed).  A scan runs on `wait(x, dt, ...)`, a convolution
        starts again at `elapsed.breaks`; a mixer whose state keeps no time ignores it.
        """
        raise NotImplementedError

    def both_ways(self, back: CausalMixer, x: Tensor, state: State, blocks: Blocks) -> tuple[Tensor, State]:
        """Run this mixer forward and `back` backward inside blocks; return the sum (b, t, d) and the forward state.

        Here they are two `step`s.  A mixer with Triton kernels overrides this with the same in as few launches as they allow,
        for blocks without elapsed time.
        """
        y, _, after = self.step(x, blocks.ragged, state, elapsed=blocks.before)
        nothing, time = back.init_state(x.shape[0], device=x.device, dtype=x.dtype), backward_time(blocks)
        backward = back.step(flip(x, blocks), blocks.ragged, nothing, reset=blocks.start, elapsed=time).x
        return y + flip(backward, blocks), after


class BlockBidirectional(BlockModule):
    """Sum of two causal mixers: one runs forward without limit, the other backward inside each block."""

    def __init__(self, forward_mixer: CausalMixer, backward_mixer: CausalMixer):
        super().__init__()
        self.forward_mixer, self.backward_mixer = forward_mixer, backward_mixer

    def init_state(self, batch, *, device=None, dtype=None):
        return self.forward_mixer.init_state(batch, device=device, dtype=dtype)

    def step(self, x, lengths, state, blocks):
        fused = blocks.before is None and choose_fused(x.device, x.dtype, x.shape[1])[0] == "triton"
        both_ways = type(self.forward_mixer).both_ways if fused else CausalMixer.both_ways
        y, after = both_ways(self.forward_mixer, self.backward_mixer, x, state, blocks._replace(keep=None))
        if blocks.keep is not None:
            after = self.forward_mixer.step(x, blocks.keep, state, elapsed=blocks.before).state
        return Step(y, lengths, after)
