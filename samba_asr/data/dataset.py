"""From utterances to batches of tensors: reading, caching, augmentation of waveforms, padding, loading ahead.

b utterances, s samples, u tokens
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from samba_asr.audio import augment
from samba_asr.audio.channels import Channels
from samba_asr.audio.read import AudioError, read
from samba_asr.audio.resample import resample
from samba_asr.config import AugmentConfig, Config
from samba_asr.data.bucketing import bucket_batches, choose_speed, derive_seed, epoch_counts, sorted_batches
from samba_asr.data.durations import read_headers, with_durations
from samba_asr.data.manifest import Utterance
from samba_asr.data.teacher import TeacherFrames
from samba_asr.data.unknown import check_known
from samba_asr.errors import UserError
from samba_asr.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

U = TypeVar("U")
FRAME = 640  # samples of an encoder frame (of 40 ms) at 16 kHz, the unit that padding is rounded to


class Batch(NamedTuple):
    """Utterances padded at the end: audio with 0.0, tokens with 0, a teacher's frames with 0.0."""

    audio: Tensor  # (b, s) float32 in [-1, 1], or a little beyond after augmentation
    lengths: Tensor  # (b,) long, samples
    tokens: Tensor  # (b, u) long
    token_lengths: Tensor  # (b,) long
    ids: list[str]
    teacher: Tensor | None = None  # (b, t, w) float32, what a teacher hears in them
    teacher_lengths: Tensor | None = None  # (b,) long, frames; 0 for what it has not heard
    frames: Tensor | None = None  # (b,) long, where there are no texts: encoder frames as recorded; 0 for background

    def to(self, device: torch.device) -> Batch:
        return Batch(*(x.to(device, non_blocking=True) if isinstance(x, Tensor) else x for x in self))

    def rows(self, start: int, stop: int) -> Batch:
        """Some of the utterances, with no more padding than they need."""
        lengths, token_lengths = self.lengths[start:stop], self.token_lengths[start:stop]
        return Batch(
            self.audio[start:stop, : int(lengths.max())],
            lengths,
            self.tokens[start:stop, : int(token_lengths.max())],
            token_lengths,
            self.ids[start:stop],
            *(None if x is None else x[start:stop] for x in self[5:]),
        )


def round_up(n: int, unit: int = 1) -> int:
    """The next of eight evenly spaced multiples of `unit` an octave: at most an eighth more than n.

    Padding to few distinct sizes matters on CPUs: oneDNN compiles its bfloat16 kernels anew for every shape it meets
    (a tiny model's step: 0.205 s with a new length each batch, 0.142 s with few).
    """
    n = -(-n // unit)
    step = 1 << max(0, (n - 1).bit_length() - 4)
    return -(-n // step) * step * unit


def collate(
    samples: Sequence[np.ndarray],
    tokens: Sequence[Sequence[int]],
    ids: Sequence[str],
    *,
    few_sizes: bool = False,
    frames: Sequence[np.ndarray] | None = None,
    counts: Sequence[int] | None = None,
) -> Batch:
    """Pad waveforms (s,), token ids and a teacher's frames (t, w) to one batch; no utterances give tensors with b = 0.

    few_sizes: pad on to a size that many batches share (`round_up`).  counts: `Batch.frames`.
    """
    lengths = torch.tensor([len(x) for x in samples], dtype=torch.long)
    token_lengths = torch.tensor([len(x) for x in tokens], dtype=torch.long)
    b = len(samples)
    s, u = (int(lengths.max()), int(token_lengths.max())) if b else (0, 0)
    if few_sizes:
        s, u = round_up(s, FRAME), round_up(u, 4)
    audio = torch.zeros(b, s)
    padded = torch.zeros(b, u, dtype=torch.long)
    for i, (x, y) in enumerate(zip(samples, tokens, strict=True)):
        audio[i, : len(x)] = torch.from_numpy(x)
        padded[i, : len(y)] = torch.tensor(y, dtype=torch.long)
    counted = None if counts is None else torch.tensor(counts, dtype=torch.long)
    batch = Batch(audio, lengths, padded, token_lengths, list(ids), frames=counted)
    if not frames:
        return batch
    teacher_lengths = torch.tensor([len(x) for x in frames], dtype=torch.long)
    teacher = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(x) for x in frames], batch_first=True)
    return batch._replace(teacher=teacher, teacher_lengths=teacher_lengths)


def make_batch(
    rows: Iterable[tuple[U, Sequence[int]]],
    load: Callable[[U], np.ndarray],
    *,
    few_sizes: bool = False,
    teach: Callable[[U, int], np.ndarray] | None = None,
    count: Callable[[U], int] | None = None,
) -> Batch:
    """Utterances (whatever has an `id`) and their tokens, read by `load`.  Those that cannot be read are reported and left out.

    teach: gives (t, w) of a teacher, of an utterance as long as so many samples.  count: gives `Batch.frames`.
    """
    samples, tokens, ids, frames, counts = [], [], [], [], []
    for utterance, ys in rows:
        try:
            samples.append(load(utterance))
        except AudioError as error:
            logger.warning("utterance %s is left out: %s", utterance.id, error)
            continue
        tokens.append(ys)
        ids.append(utterance.id)
        if teach:
            frames.append(teach(utterance, len(samples[-1])))
        if count:
            counts.append(count(utterance))
    return collate(samples, tokens, ids, few_sizes=few_sizes, frames=frames, counts=counts if count else None)


class AudioStore:
    """Reads utterances at one sample rate; with `cache`, keeps them in memory as 16-bit (115 MB an hour at 16 kHz).

    With the cache every read is rounded to 16 bits, the first too, so that what an epoch sees does not depend on what
    was read before it.
    """

    def __init__(self, rate: int, cache: bool):
        self.rate = rate
        self._cache: dict[tuple, np.ndarray] | None = {} if cache else None

    def load(self, utterance: Utterance) -> np.ndarray:
        """(s,) float32; AudioError if it cannot be read."""
        key = _key(utterance)
        kept = self._cache.get(key) if self._cache is not None else None
        if kept is None:
            audio = read(utterance.audio, start=utterance.start, duration=utterance.duration)
            samples = resample(audio.samples, audio.rate, self.rate)
            if self._cache is None:
                return samples
            kept = np.clip(np.round(samples * 32768), -32768, 32767).astype(np.int16)
            self._cache[key] = kept
        return kept.astype(np.float32) / 32768

    def fill(self, utterances: Iterable[Utterance]) -> None:
        """Read everything now, if there is a cache; loader processes then share it, else each would fill its own."""
        for utterance in utterances if self._cache is not None else ():
            if _key(utterance) not in self._cache:
                with contextlib.suppress(AudioError):  # reported where it is missed
                    self.load(utterance)


def _key(utterance: Utterance) -> tuple[str, float, float | None]:
    return utterance.audio, utterance.start, utterance.duration


class _Voices(Sequence):
    """Training utterances as babble, read when one is drawn."""

    def __init__(self, store: AudioStore, utterances: Sequence[Utterance]):
        self.store, self.utterances = store, utterances

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, i):
        return self.store.load(self.utterances[i])


class Draw(NamedTuple):
    """An utterance as one epoch takes it, once of perhaps several times."""

    utterance: Utterance
    tokens: list[int]
    name: str  # seeds its augmentation: the utterance's id, with a number from the second time on

    @property
    def id(self) -> str:
        return self.utterance.id


class TrainingSet:
    """The utterances that training can use, with their tokens; `epoch(n)` gives the batches of one epoch.

    An epoch takes an utterance as often as its weight says, each copy with augmentation of its own.

    Left out, and counted in `left_out` by reason: those shorter or longer than data.min_seconds, data.max_seconds,
    without text, and those whose tokens (with a blank between equal neighbours) outnumber the encoder's frames at the
    fastest speed, where CTC has no path.  UserError if none remain.

    Without a tokenizer the speech alone counts: no utterance has tokens, and batches have `frames`.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        tokenizer: Tokenizer | None,
        config: Config,
        noise: Sequence[Utterance] = (),
    ):
        self.config = config
        self.noise = list(noise)
        self.store = AudioStore(config.model.features.sample_rate, config.data.cache)
        self.frame = config.model.features.hop * config.model.subsampling  # samples of an encoder frame
        self.utterances: list[Utterance] = []
        self.tokens: list[list[int]] = []
        self.left_out: Counter[str] = Counter()
        for utterance in measured(utterances):
            tokens = tokenizer.encode(utterance.text) if tokenizer else None
            reason = self._unusable(utterance, tokens)
            if reason:
                self.left_out[reason] += 1
                continue
            self.utterances.append(utterance)
            self.tokens.append(tokens or [])
        self.texts = tokenizer is not None
        if tokenizer:
            check_known((u.text for u in self.utterances), tokenizer)
        if not self.utterances:
            counts = ", ".join(f"{n} {reason}" for reason, n in self.left_out.items()) or "the manifests are empty"
            raise UserError(f"no training utterance is usable: {counts}")
        self.seconds = np.array([u.duration for u in self.utterances])
        self.teacher = TeacherFrames(Path(config.data.teacher)) if config.data.teacher else None
        if self.teacher:
            self._check_teacher(self.teacher)
        options = {f.name: getattr(config.augment, f.name) for f in dataclasses.fields(config.augment)}
        self.speeds = config.augment.speed
        self.augment = augment.AugmentConfig(**{**options, "speed": (1.0,)})  # speed is ours: batches depend on it
        self.channels = self._read_channels(config.augment)

    @staticmethod
    def _read_channels(config: AugmentConfig) -> Channels | None:
        if bool(config.channels) != bool(config.channel_prob):
            raise UserError(
                f"augment.channels={config.channels!r} with augment.channel_prob={config.channel_prob}: give both, a file that "
                "samba-asr augment channels wrote and a probability above 0, or neither"
            )
        return Channels.read(config.channels) if config.channels else None

    def _check_teacher(self, teacher: TeacherFrames) -> None:
        if self.config.augment.pad_seconds:
            raise UserError(
                f"augment.pad_seconds={self.config.augment.pad_seconds} moves speech away from where the teacher heard it: set "
                "it to 0, or leave data.teacher out"
            )
        heard = sum(u in teacher for u in self.utterances)
        if not heard:
            raise UserError(
                f"data.teacher={teacher.folder} has heard none of the training utterances: samba-asr augment teach"
            )
        if heard < len(self.utterances):
            logger.warning("data.teacher has not heard %d of the training utterances", len(self.utterances) - heard)

    def frames(self, utterance: Utterance) -> int:
        """Encoder frames of an utterance as recorded, before its speed is changed."""
        return int(utterance.duration * self.store.rate / self.frame)

    def _unusable(self, utterance: Utterance, tokens: list[int] | None) -> str:
        """Why training cannot use it, "" if it can.  tokens: None where the speech alone counts."""
        data, features = self.config.data, self.config.model.features
        if utterance.duration < data.min_seconds:
            return f"shorter than data.min_seconds={data.min_seconds}"
        if utterance.duration > data.max_seconds:
            return f"longer than data.max_seconds={data.max_seconds}"
        if tokens is None:
            return "" if self.frames(utterance) else "without a frame"
        if not tokens:
            return "without text"
        samples = utterance.duration * features.sample_rate / max(self.config.augment.speed)
        frames = int(samples / self.frame)
        repeats = sum(a == b for a, b in itertools.pairwise(tokens))
        return "with more tokens than encoder frames" if len(tokens) + repeats > frames else ""

    @property
    def fingerprint(self) -> int:
        """Changes with the utterances, their order and durations: a resumed run must find its batches again."""
        weights = (f" x {u.weight}" if u.weight != 1 else "" for u in self.utterances)
        return derive_seed(*(f"{u.id} {u.duration:.3f}{w}" for u, w in zip(self.utterances, weights, strict=True)))

    def epoch(self, epoch: int, *, ranks: int = 1) -> Epoch:
        """The batches of epoch `epoch` (any whole number), the same for every rank and every call."""
        seed = self.config.train.seed
        weights = [u.weight for u in self.utterances]
        counts = epoch_counts(weights, seed=derive_seed("weights", seed), epoch=epoch)
        draws = [
            Draw(u, tokens, f"{u.id} {number}" if number else u.id)
            for u, tokens, count in zip(self.utterances, self.tokens, counts.tolist(), strict=True)
            for number in range(count)
        ]
        speeds = np.array([self.speed(epoch, draw.name) for draw in draws])
        batches = bucket_batches(
            np.repeat(self.seconds, counts) / speeds + 2 * self.config.augment.pad_seconds,
            batch_seconds=self.config.data.batch_seconds,
            buckets=self.config.data.buckets,
            seed=derive_seed("batches", seed, epoch),
            ranks=ranks,
        )
        return Epoch(self, epoch, [[draws[i] for i in batch] for batch in batches])

    def speed(self, epoch: int, name: str) -> float:
        """The speed factor of the draw of this name."""
        if epoch <= self.config.train.easy_epochs:
            return 1.0
        return choose_speed(self.speeds, seed=self.config.train.seed, epoch=epoch, utterance=name)


class Epoch:
    """`epoch[k]` is batch k of all ranks', read and augmented: a function of (seed, epoch, k) alone."""

    def __init__(self, data: TrainingSet, number: int, batches: list[list[Draw]]):
        self.data, self.number, self.batches = data, number, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, k: int) -> Batch:
        """A batch without the utterances that cannot be read, which are reported; it may hold none."""
        rows = ((draw, [] if self._silent(draw) else draw.tokens) for draw in self.batches[k])
        teach = self._taught if self.data.teacher else None
        count = None if self.data.texts else self._frames
        return make_batch(rows, self._waveform, few_sizes=True, teach=teach, count=count)

    def _frames(self, draw: Draw) -> int:
        """As recorded; 0 where background alone is heard, which teaches nothing."""
        return 0 if self._silent(draw) else self.data.frames(draw.utterance)

    def _taught(self, draw: Draw, samples: int) -> np.ndarray:
        """(t, w) of the teacher, (0, w) where background alone is heard."""
        frames = self.data.teacher.load(draw.utterance, samples // self.data.frame)
        return frames[:0] if self._silent(draw) else frames

    def _silent(self, draw: Draw) -> bool:
        """Whether this epoch hears background in its place."""
        config = self.data.config
        if self.number <= config.train.easy_epochs or config.augment.silence_prob == 0:
            return False
        seed = derive_seed("silence", config.train.seed, self.number, draw.name)
        return np.random.default_rng(seed).random() < config.augment.silence_prob

    def _waveform(self, draw: Draw) -> np.ndarray:
        data = self.data
        if self.number <= data.config.train.easy_epochs:
            return data.store.load(draw.utterance)
        rng = np.random.default_rng(derive_seed("augment", data.config.train.seed, self.number, draw.name))
        x = augment.speed_perturb(data.store.load(draw.utterance), data.speed(self.number, draw.name))
        if self._silent(draw):
            return augment.make_background(len(x), rng)
        options = data.augment
        if data.noise and options.noise_prob and rng.random() < 0.5:  # half of the noise is recorded, half synthetic
            if rng.random() < options.noise_prob:
                noise = data.store.load(data.noise[rng.integers(len(data.noise))])
                x = augment.add_noise(x, noise, rng.uniform(*options.noise_snr_db))
            options = dataclasses.replace(options, noise_prob=0.0)
        voices = _Voices(data.store, data.utterances)
        return augment.augment_waveform(x, data.store.rate, options, rng, voices, data.channels)


def measured(utterances: Iterable[Utterance]) -> list[Utterance]:
    """The same utterances; where a manifest gives no duration, it is read from the header of the file.

    Those whose header cannot be read are reported and left out.
    """
    utterances = list(utterances)
    headers = read_headers(u for u in utterances if u.duration is None)
    for path, header in headers.items():
        if isinstance(header, AudioError):
            logger.warning("left out: %s", header if path in str(header) else f"{path}: {header}")
    return [u for u in with_durations(utterances, headers=headers) if u.duration is not None]


def load_batches(epoch: Epoch, positions: Sequence[int], workers: int) -> Generator[Batch, None, None]:
    """epoch[k] for k in positions, in order, read ahead: by one thread, or by `workers` processes."""
    if workers == 0:
        yield from prefetch(epoch.__getitem__, positions)
        return
    from torch.utils.data import DataLoader

    epoch.data.store.fill(epoch.data.utterances)
    pinned = torch.cuda.is_available()
    yield from DataLoader(
        epoch, batch_size=None, sampler=positions, num_workers=workers, collate_fn=_as_it_is, pin_memory=pinned
    )


def evaluation_batches(
    utterances: Sequence[Utterance], tokenizer: Tokenizer | None, store: AudioStore, *, batch_seconds: float
) -> Generator[Batch, None, None]:
    """Every utterance once, unchanged, the longest first, read ahead by a thread.

    Those that cannot be read are reported and left out.  Without a tokenizer there are no tokens.
    """
    utterances = measured(utterances)

    def load(members: list[int]) -> Batch:
        encode = tokenizer.encode if tokenizer else lambda text: []
        return make_batch(((utterances[i], encode(utterances[i].text)) for i in members), store.load)

    for batch in prefetch(load, sorted_batches([u.duration for u in utterances], batch_seconds=batch_seconds)):
        if batch.ids:
            yield batch


def prefetch(load: Callable, items: Iterable, depth: int = 4) -> Generator[Any, None, None]:
    """load(item) for each item, in order, up to `depth` ahead in a background thread; what it raises is raised here."""
    ready: queue.Queue = queue.Queue(depth)
    stopped = threading.Event()

    def put(entry) -> None:
        while not stopped.is_set():
            try:
                return ready.put(entry, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                if stopped.is_set():
                    return
                put((load(item), None))
            put((None, StopIteration()))
        except BaseException as error:
            put((None, error))

    thread = threading.Thread(target=work, name="samba_asr-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            value, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield value
    finally:  # also when the consumer leaves early
        stopped.set()
        thread.join()


def _as_it_is(batch: Batch) -> Batch:
    return batch
