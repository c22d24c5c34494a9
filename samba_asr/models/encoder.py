"""The encoder: ConMamba-style layers that stream at any latency.

Each layer is half a feed-forward, the SSM mixer, the convolution module, half a feed-forward, norm: the Conformer's macaron
structure with an SSM in place of attention (arXiv 2407.09732; a bare stack of Mamba layers is known to fail).
The encoder buffers frames until a block is whole, so every layer sees whole blocks (samba_asr.nn.blocks).
Shapes: b batch, s samples, t encoder frames, d d_model.
"""

from __future__ import annotations

from collections.abc import Callable, MutableSequence, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from samba_asr.config import ModelConfig
from samba_asr.errors import UserError
from samba_asr.nn.blocks import BlockModule
from samba_asr.nn.conv import ConvolutionModule
from samba_asr.nn.dropout import Dropout
from samba_asr.nn.fusion import build_fusion
from samba_asr.nn.linear import FeedForward
from samba_asr.nn.mixers import Hydra, build_mixer
from samba_asr.nn.rates import Down, Level, Up, depths, lay_rate
from samba_asr.nn.skip import init_skip, select
from samba_asr.ops.blocks import Blocks, elapse, lay_blocks
from samba_asr.ops.device import choose_fused
from samba_asr.streaming import State, Step, StreamingModule, concat, mask, take_time, valid_mask


class SelfConditioning(nn.Module):
    """Intermediate CTC head whose posteriors are added to the input of the layers above (arXiv 2104.02724, eq. 11).

    It works frame by frame, so it streams at any latency.  Its contribution starts at zero.
    """

    def __init__(self, d: int, vocab_size: int):
        super().__init__()
        self.head = nn.Linear(d, vocab_size)
        self.back = nn.Linear(vocab_size, d)
        nn.init.zeros_(self.back.weight)
        nn.init.zeros_(self.back.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return x (b, t, d) plus the projected posteriors, and the log-probabilities (b, t, v), float32 or wider."""
        logits = self.head(x)
        log_probs = logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
        return x + self.back(log_probs.exp()), log_probs


class LayerState(NamedTuple):
    """State of one encoder layer."""

    mixer: State
    convolution: Tensor


class EncoderLayer(BlockModule):
    """One layer of the encoder."""

    def __init__(self, config: ModelConfig, rate: int = 1):
        """rate: frames in a step of this layer; its convolution spans the same time at every rate."""
        super().__init__()
        d = config.d_model
        kernel = config.conv_kernel if rate == 1 else max(3, config.conv_kernel // rate | 1)
        self.feed_forward_in = FeedForward(d, config.ffn_expand, config.dropout)
        self.mixer_norm = nn.LayerNorm(d)
        self.mixer = build_mixer(d, config.mixer)
        self.convolution_norm = nn.LayerNorm(d)
        self.convolution = ConvolutionModule(d, kernel, config.dropout)
        self.feed_forward_out = FeedForward(d, config.ffn_expand, config.dropout)
        self.norm = nn.LayerNorm(d)
        self.dropout = Dropout(config.dropout)

    def init_state(self, batch, *, device=None, dtype=None):
        return LayerState(
            self.mixer.init_state(batch, device=device, dtype=dtype),
            self.convolution.init_state(batch, device=device, dtype=dtype),
        )

    def step(self, x: Tensor, lengths: Tensor, state: LayerState, blocks: Blocks) -> Step:
        x = blocks.mask(x)
        x = self.feed_forward_in.added(x, 0.5)
        y, _, mixer = self.mixer.step(self.mixer_norm(x), lengths, state.mixer, blocks)
        x = x + self.dropout(y)
        y, _, convolution = self.convolution.step(self.convolution_norm(x), lengths, state.convolution, blocks)
        x = x + y
        x = self.feed_forward_out.added(x, 0.5)
        return Step(self.norm(x), lengths, LayerState(mixer, convolution))

    def stated(self, x: Tensor, blocks: Blocks) -> bool:
        """Whether `read` can take x (b, t, d): in a GPU's training step, with the default mixer and its kernels."""
        mixer, module = self.mixer, self.convolution
        if not (self.training and blocks.whole and blocks.finite and isinstance(mixer, Hydra)) or blocks.before:
            return False
        linears = (mixer.in_proj, mixer.fc_D, mixer.out_proj, module.expand, module.project)
        copied = all(getattr(linear, "copies", None) for linear in linears)  # another module may have taken a place
        size = mixer.d_inner // mixer.heads
        fits = x.dtype == torch.float32 and x.shape[1] > 0 and size & (size - 1) == 0
        return copied and fits and choose_fused(x.device, x.dtype, x.shape[1])[0] == "triton"

    def read(self, x: Tensor, blocks: Blocks) -> Tensor:
        """Return the layer's outputs (b t, d) of whole utterances x, end to end, in as few operations as they need."""
        from samba_asr.nn.stated import convolved, mixed  # here, because it needs Triton

        p = self.dropout.p
        x = self.feed_forward_in.added(x, 0.5)
        x = mixed(x, self.mixer_norm, cast("Hydra", self.mixer), p, blocks)
        x = convolved(x, self.convolution_norm, self.convolution, p, blocks)
        return self.norm(self.feed_forward_out.added(x, 0.5))


class EncoderState(NamedTuple):
    """State of the encoder: its frame buffer and its layers."""

    waiting: Tensor  # (b, capacity, d) frames of a block that is not yet whole; zeros after them
    held: Tensor  # (b,) how many of them are valid
    size: Tensor  # (b,) frames per block
    hop: Tensor  # (b,) frames from the start of one block to the next, and frames that each block emits
    layers: tuple[State, ...]  # one each, then that of skipped blanks, if the model skips them
    gap: Tensor  # (b, capacity) frames of nothing before each waiting frame


class Encoder(StreamingModule):
    """(b, t, d) -> (b, t, d): a buffer of frames, then N layers.

    `block` and `hop` are arguments of `forward` and `init_state`, an int or (b,), one per row.  block: frames per block.
    hop: frames from the start of one block to the next; None: blocks do not overlap.  With a smaller hop each block emits
    only its first `hop` frames, which have all seen at least `block - hop` frames ahead, and the state is kept from where
    the next block begins.  The latency is still that of a block.  Overlap costs block / hop times the work.  It needs no
    training of its own, because each frame lies in a block as in training.

    `gap` is elapsed time (samba_asr.ops.elapsed): frames of nothing before each frame, for audio that was lost or left out.
    Gaps are relative, so the state has no clock.  Without gaps nothing is computed for them.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.d_model, self.max_block = config.d_model, config.max_block
        self.depths = depths(config.rates, config.layers)  # of each layer: how often its frame rate is halved
        layers = nn.ModuleList(EncoderLayer(config, 1 << depth) for depth in self.depths)
        self.layers = cast("MutableSequence[EncoderLayer]", layers)
        moves = list(zip([0, *self.depths], [*self.depths, 0], strict=True))
        self.down = cast("Sequence[Down]", nn.ModuleList(Down(config.d_model) for a, b in moves for _ in range(b - a)))
        self.up = cast("Sequence[Up]", nn.ModuleList(Up(config.d_model) for a, b in moves for _ in range(a - b)))
        if config.rates and config.skip_blanks:
            raise UserError("model.rates and model.skip_blanks do not go together: set one of them")
        slow = [i for i in config.self_conditioning if 0 < i < config.layers and self.depths[i - 1]]
        if slow:
            raise UserError(
                f"model.self_conditioning={list(config.self_conditioning)}: layer {slow[0]} has rate {config.rates[slow[0] - 1]} "
                "in model.rates; CTC reads frames of rate 1"
            )
        if config.skip_blanks and not config.self_conditioning:
            raise UserError(
                f"model.skip_blanks={config.skip_blanks:g} needs a CTC head inside the encoder: set model.self_conditioning, "
                f"such as [{max(1, config.layers // 2)}]"
            )
        if not 0 <= config.skip_blanks < 1:
            raise UserError(
                f"model.skip_blanks={config.skip_blanks:g}: give a probability from 0 (off) to below 1, such as 0.95"
            )
        beyond = [i for i in config.self_conditioning if not 0 < i < config.layers]
        if beyond:
            raise UserError(
                f"model.self_conditioning {beyond[0]}: give layers from 1 to {config.layers - 1}, below the last"
            )
        self.conditioning = nn.ModuleDict(
            {str(i): SelfConditioning(config.d_model, config.vocab_size) for i in config.self_conditioning}
        )
        self.fusion = build_fusion(config)
        self.skip_blanks, self.skips_after = config.skip_blanks, max(config.self_conditioning, default=0)
        # A faster way through the layers where every row is one whole block (samba_asr.runtime.graphs), without gradients alone:
        # (x (b, t, d), the layers' states, frames after which states are handed on) -> y, states.
        self.live_step: Callable[[Tensor, State, int], tuple[Tensor, State]] | None = None

    @property
    def recordable(self) -> bool:
        """Whether the same operations run for every block of a size; otherwise a step cannot be recorded or exported."""
        return not self.skip_blanks and not any(self.depths)

    def _hop_size(self, hop: int | Tensor | None, size: Tensor) -> Tensor:
        """Return (b,) frames between the starts of blocks of `size` (b,) frames, from 1 to a whole block; None: a whole block.

        It is a multiple of the frames in a group of the lowest rate, so that no group crosses it; at least one group.
        """
        if hop is None:
            return size
        most = 1 << max(self.depths)
        hop = torch.as_tensor(hop, device=size.device).expand_as(size).clamp(min=1).minimum(size)
        return torch.where(hop < size, (hop // most * most).clamp(min=most).minimum(size), hop)

    def _init_layers(self, batch, device, dtype) -> tuple[State, ...]:
        states = (layer.init_state(batch, device=device, dtype=dtype) for layer in self.layers)
        return (*states, init_skip(batch, device, dtype)) if self.skip_blanks else tuple(states)

    def one_block(self, x: Tensor, states: Sequence[State], blocks: Blocks) -> tuple[Tensor, State]:
        """Run the layers on x (b, t, d), all of it valid, with one block per row as in `blocks`; return y and the states."""
        return self._through(x, states, blocks)[:2]

    def block_size(self, block: int | Tensor, batch: int, device: torch.device | None) -> Tensor:
        """Return the frames per block (b,): -1 means max_block ("offline"), 0 and 1 are causal."""
        size = torch.as_tensor(block, device=device).expand(batch)
        return torch.where(size < 0, self.max_block, size.clamp(1, self.max_block))

    def init_state(
        self,
        batch,
        *,
        block: int | Tensor = -1,
        hop: int | Tensor | None = None,
        capacity: int | None = None,
        device=None,
        dtype=None,
    ):
        """Return the state before the first step.

        capacity: size of the frame buffer; default: as these rows need.  States to be stacked need the same capacity.
        """
        size = self.block_size(block, batch, device)
        if capacity is None:
            capacity = int(size.max()) - 1 if batch else 0
        return EncoderState(
            torch.zeros(batch, capacity, self.d_model, device=device, dtype=dtype),
            torch.zeros(batch, dtype=torch.long, device=device),
            size,
            self._hop_size(hop, size),
            self._init_layers(batch, device, dtype),
            torch.zeros(batch, capacity, device=device, dtype=dtype),
        )

    def step(self, x: Tensor, lengths: Tensor, state: EncoderState, gap: Tensor | None = None) -> Step:
        """Process x (b, t, d).  gap: (b, t) frames of nothing before each frame, default none."""
        gaps = _joined_gaps(state, gap, x, lengths)
        x, total = concat((state.waiting, state.held), (x.to(state.waiting.dtype), lengths))
        run = self._apart if bool((state.hop == state.size).all()) else self._overlapping
        y, emitted, layers = run(x, total, state, gaps)
        held = total - emitted
        waiting, waiting_gap = state.waiting, state.gap
        if waiting.shape[1]:
            waiting = mask(_from(x, emitted, waiting.shape[1]), held)
            if gaps is not None:
                waiting_gap = mask(_from(gaps, emitted, waiting.shape[1]), held)
        return Step(y, emitted, EncoderState(waiting, held, state.size, state.hop, layers, waiting_gap))

    def _apart(
        self, x: Tensor, total: Tensor, state: EncoderState, gap: Tensor | None
    ) -> tuple[Tensor, Tensor, tuple[State, ...]]:
        """Emit all whole blocks at once; return the frames, their number (b,), and the layers' states."""
        whole = total // state.size * state.size  # (b,) frames that form whole blocks
        y, layers = self._live(x[:, : int(whole.max())], whole, state.layers, state.size, gap=gap)
        return y, whole, layers

    def _overlapping(
        self, x: Tensor, total: Tensor, state: EncoderState, gap: Tensor | None
    ) -> tuple[Tensor, Tensor, tuple[State, ...]]:
        """Emit overlapping blocks one by one; return the same as `_apart`."""
        emitted, layers, longest = torch.zeros_like(total), state.layers, int(state.size.max())
        found = x[:, :0], emitted
        while bool((whole := total - emitted >= state.size).any()):
            keep = torch.where(whole, state.hop, 0)
            block, gaps = (None if v is None else _from(v, emitted, longest) for v in (x, gap))
            assert block is not None
            y, layers = self._live(block, torch.where(whole, state.size, 0), layers, state.size, keep, gaps)
            found = concat(found, (y[:, : int(keep.max())], keep))
            emitted = emitted + keep
        return found[0], emitted, layers

    def _live(
        self, x: Tensor, lengths: Tensor, layers, size: Tensor, keep: Tensor | None = None, gap: Tensor | None = None
    ):
        """Run the layers, by `live_step` if each row is one whole block and all rows keep the state after the same step."""
        t = x.shape[1]
        if self.live_step and t and gap is None and not torch.is_grad_enabled():
            kept = size if keep is None else keep
            if bool(((lengths == t) & (size == t) & (kept == kept[0])).all()):
                return self.live_step(x, layers, int(kept[0]))
        return self._layers(x, lengths, layers, size, keep, gap)[:2]

    def finish(self, state: EncoderState) -> tuple[Tensor, Tensor]:
        return self.pause(state)[:2]

    def pause(self, state: EncoderState) -> Step:
        """Emit the frames that wait for their block, as `finish` does, and return the state after them.

        The next frame begins a block.  With its `gap` it may come much later.
        """
        t = int(state.held.max())
        gap = state.gap[:, :t] if bool(state.gap.any()) else None
        y, layers, _ = self._layers(state.waiting[:, :t], state.held, state.layers, state.size, gap=gap)
        waiting, held, gap = (torch.zeros_like(v) for v in (state.waiting, state.held, state.gap))
        return Step(y, state.held, EncoderState(waiting, held, state.size, state.hop, layers, gap))

    def forward(
        self,
        x: Tensor,
        lengths: Tensor,
        block: int | Tensor = -1,
        hop: int | Tensor | None = None,
        gap: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Process whole utterances at once, from the initial states and without buffering.  gap: (b, t), as in `step`."""
        size = self.block_size(block, x.shape[0], x.device)
        # A block starts from the states that the previous one kept.
        if bool(((self._hop_size(hop, size) < size) & (lengths > size)).any()):
            start = self.init_state(x.shape[0], block=size, hop=hop, device=x.device, dtype=x.dtype)
            y, emitted, state = self.step(x, lengths, start, gap)
            return concat((y, emitted), self.finish(state))
        y, lengths, _ = self.read(x, lengths, block, gap)
        return y, lengths

    def read(
        self,
        x: Tensor,
        lengths: Tensor,
        block: int | Tensor = -1,
        gap: Tensor | None = None,
        known: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Process utterances in blocks without overlap, as in training.  gap: (b, t), as in `step`.

        known: `lengths` on the CPU, where `block` is too; the layout is then made there, and nothing waits for the device.
        Return y, lengths and the log-probabilities (b, t, v) of each intermediate CTC head, for its loss.
        """
        t = x.shape[1]
        if t == 0:
            return x, lengths, []
        if known is None:
            known, device = lengths, lengths.device
        else:
            device = known.device
        blocks = lay_blocks(known, t, self.block_size(block, len(known), device)).to(x.device)._replace(whole=True)
        if gap is not None:
            blocks = elapse(blocks, gap[:, :t])
        states: dict[int, State] = {}  # layers of one rate begin with equal zeros
        for depth, layer in zip(self.depths, self.layers, strict=True):
            if depth not in states:
                states[depth] = layer.init_state(x.shape[0], device=x.device, dtype=x.dtype)
        first = [states[depth] for depth in self.depths]
        if self.skip_blanks:
            first.append(init_skip(x.shape[0], x.device, x.dtype))
        # Zeros in the padding stay finite from layer to layer; scans and convolutions mask their own.  So no layer need mask.
        y, _, log_probs = self._through(blocks.mask(x), first, blocks._replace(finite=True), lengths)
        return y, lengths, log_probs

    def _layers(self, x, lengths, states, size, keep=None, gap=None):
        t = x.shape[1]
        if t == 0:
            return x, tuple(states), []
        blocks = lay_blocks(lengths, t, size)._replace(keep=keep)
        if gap is not None:
            blocks = elapse(blocks, gap[:, :t])
        return self._through(x, states, blocks, lengths)

    def _through(self, x: Tensor, states: Sequence[State], blocks: Blocks, lengths: Tensor | None = None):
        """Run the layers in order.  lengths None: all of x is valid."""
        new, read, outputs, whole = [], [], [], None
        rates = _Rates(self, x, blocks, lengths) if any(self.depths) else None
        states, skip = (states[:-1], states[-1]) if self.skip_blanks else (states, None)
        alone = rates is None and self.fusion is None
        shape, stated = x.shape, alone and all(layer.stated(x, blocks) for layer in self.layers)
        if stated:
            x = x.flatten(0, 1)
        for i, (layer, state) in enumerate(zip(self.layers, states, strict=True), 1):
            if rates is not None:
                x, lengths, blocks = rates.go(x, self.depths[i - 1])
            if stated:
                x = layer.read(x, blocks)
            elif x.shape[1]:  # else all frames are skipped
                x, _, state = layer.step(x, lengths, state, blocks)  # pyright: ignore[reportArgumentType]  (only handed on)
            new.append(state)
            if self.fusion is not None:
                outputs.append(x)  # else none of them is kept alive
            if str(i) in self.conditioning:
                x, log_probs = self.conditioning[str(i)](blocks.mask(x))
                read.append(log_probs.view(*shape[:2], -1) if stated else log_probs)
                if skip is not None and i == self.skips_after and not self.training:
                    ends = torch.full_like(skip.gap, x.shape[1], dtype=torch.long) if lengths is None else lengths
                    whole = select(log_probs[..., 0].exp(), self.skip_blanks, ends, blocks, skip)
                    t, x = x.shape[1], take_time(x, whole.index)
                    lengths, blocks, skip = whole.lengths, whole.blocks, whole.state
        if stated:
            x = x.view(shape)
        if self.fusion is not None:
            x = self.fusion(outputs)
        if rates is not None:
            x, _, _ = rates.go(x, 0)
        if whole is not None:
            skipped = x.new_zeros(x.shape[0], t + 1, x.shape[2])  # zeros at skipped frames; one more step for padding
            place = whole.index.masked_fill(~valid_mask(whole.lengths, x.shape[1]), t)
            x = skipped.scatter(1, place[..., None].expand_as(x), x)[:, :t]
        return x, tuple(new) if skip is None else (*new, skip), read


class _Rates:
    """The way of one chunk through the frame rates of the layers."""

    def __init__(self, encoder: Encoder, x: Tensor, blocks: Blocks, lengths: Tensor | None):
        self._down, self._up, self._stack = iter(encoder.down), iter(encoder.up), []
        if lengths is None:
            lengths = torch.full((x.shape[0],), x.shape[1], device=x.device)
        self._rates: list[tuple[Tensor, Blocks]] = [(lengths, blocks)]  # of the chunk at each depth
        self._levels: list[Level] = []  # from each depth to the next
        self._depth = 0

    def go(self, x: Tensor, depth: int) -> tuple[Tensor, Tensor, Blocks]:
        """Bring x (b, t, d) to the rate of this depth; return it, its lengths (b,) and its blocks."""
        while self._depth < depth:
            lengths, blocks = self._rates[self._depth]
            if self._depth == len(self._levels):
                level = lay_rate(blocks, lengths, x.shape[1], 2)
                self._levels.append(level)
                self._rates.append((level.lengths, level.blocks))
            self._stack.append(x)
            x = next(self._down)(x, lengths, self._levels[self._depth])
            self._depth += 1
        while self._depth > depth:
            self._depth -= 1
            x = next(self._up)(x, self._stack.pop(), self._levels[self._depth])
        return x, *self._rates[depth]


def _joined_gaps(state: EncoderState, gap: Tensor | None, x: Tensor, lengths: Tensor) -> Tensor | None:
    """Return the gaps (b, t) before the waiting frames and those of x (b, t, d); None without gaps."""
    waits = bool(state.gap.any())
    if gap is None and not waits:
        return None
    gap = state.gap.new_zeros(x.shape[:2]) if gap is None else gap.to(state.gap.dtype)
    (found, _) = concat((state.gap, state.held), (mask(gap, lengths), lengths))
    return found


def _from(x: Tensor, begin: Tensor, t: int) -> Tensor:
    """Return t steps of x (b, s, d), starting at `begin` (b,); steps beyond the end of x are unspecified."""
    index = begin[:, None] + torch.arange(t, device=x.device)
    return take_time(x, index.clamp(max=max(x.shape[1] - 1, 0)))
