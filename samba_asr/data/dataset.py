"""Batches of tensors from utterances: reading, caching, augmentation of waveforms, padding, prefetching.

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
from typing import Any, NamedTuple, Protocol, TypeVar

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
from samba_asr.device import upload
from samba_asr.errors import UserError
from samba_asr.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


class _Named(Protocol):
    """Any object with an id."""

    @property
    def id(self) -> str: ...


U = TypeVar("U", bound=_Named)
FRAME = 640  # samples of an encoder frame (of 40 ms) at 16 kHz, audio is padded to a multiple of it


class Batch(NamedTuple):
    """A batch of utterances, padded at the end: audio with 0.0, tokens with 0, a teacher's frames with 0.0."""

    audio: Tensor  # (b, s) float32 in [-1, 1], or a little outside after augmentation
    lengths: Tensor  # (b,) long, samples
    tokens: Tensor  # (b, u) long
    token_lengths: Tensor  # (b,) long
    ids: list[str]
    teacher: Tensor | None = None  # (b, t, w) float32, a teacher's frames of the utterances
    teacher_lengths: Tensor | None = None  # (b,) long, frames; 0 for an utterance without teacher's frames
    frames: Tensor | None = None  # (b,) long, only without texts: encoder frames as recorded; 0 for background
    texts: list[str] | None = None  # (b,) of training: the words of each utterance
    known_lengths: Tensor | None = None  # `lengths` and `token_lengths` of a batch on a device, still on the CPU
    known_token_lengths: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """Copy to a device without waiting for it."""
        moved = (upload(x, device) if isinstance(x, Tensor) else x for x in self)
        return Batch._make(moved)._replace(known_lengths=self.lengths, known_token_lengths=self.token_lengths)

    def rows(self, start: int, stop: int) -> Batch:
        """Return rows start to stop, with no more padding than they need."""
        lengths, token_lengths = self.lengths[start:stop], self.token_lengths[start:stop]
        rest: list[Any] = [None if x is None else x[start:stop] for x in self[5:]]
        return Batch(
            self.audio[start:stop, : int(lengths.max())],
            lengths,
            self.tokens[start:stop, : int(token_lengths.max())],
            token_lengths,
            self.ids[start:stop],
            *rest,
        )


def round_up(n: int, unit: int = 1) -> int:
    """Round n up to one of eight evenly spaced multiples of `unit` per octave, at most an eighth more than n.

    Few distinct sizes matter on CPUs: oneDNN compiles its bfloat16 kernels for every new shape (one step of a tiny model:
    0.205 s with a new length each batch, 0.142 s with few).
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
    """Pad waveforms (s,), token ids and a teacher's frames (t, w) to one batch.  Without utterances, b is 0.

    few_sizes: pad to a size that many batches share (`round_up`).  counts: for `Batch.frames`.
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
    say: Callable[[U], str] | None = None,
) -> Batch:
    """Make a batch of (utterance, tokens); `load` reads the audio.  Unreadable utterances are logged and left out.

    An utterance is any object with an `id`.  teach: returns the teacher's frames (t, w) of an utterance, given its number of
    samples.  count, say: return its `Batch.frames` and its text.
    """
    samples, tokens, ids, frames, counts, texts = [], [], [], [], [], []
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
        if say:
            texts.append(say(utterance))
    batch = collate(samples, tokens, ids, few_sizes=few_sizes, frames=frames, counts=counts if count else None)
    return batch._replace(texts=texts) if say else batch


class AudioStore:
    """Reader of utterances at one sample rate; with `cache`, keeps them in memory as 16-bit (115 MB per hour at 16 kHz).

    With the cache every read is rounded to 16 bits, the first too, so that all epochs get the same samples.
    """

    def __init__(self, rate: int, cache: bool):
        self.rate = rate
        self._cache: dict[tuple, np.ndarray] | None = {} if cache else None

    def load(self, utterance: Utterance) -> np.ndarray:
        """Return the samples (s,) float32; AudioError if the audio cannot be read."""
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
        """Fill the cache, if there is one, so that loader processes share it instead of filling one each."""
        if self._cache is None:
            return
        for utterance in utterances:
            if _key(utterance) not in self._cache:
                with contextlib.suppress(AudioError):  # logged when a batch needs it
                    self.load(utterance)


def _key(utterance: Utterance) -> tuple[str, float, float | None]:
    return utterance.audio, utterance.start, utterance.duration


class _Voices(Sequence):
    """Training utterances for babble noise, read when drawn."""

    def __init__(self, store: AudioStore, utterances: Sequence[Utterance]):
        self.store, self.utterances = store, utterances

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, i):
        return self.store.load(self.utterances[i])


class Draw(NamedTuple):
    """One occurrence of an utterance in an epoch."""

    utterance: Utterance
    tokens: list[int]
    name: str  # seed of its augmentation: the utterance's id, plus a number from the second occurrence on

    @property
    def id(self) -> str:
        return self.utterance.id


class TrainingSet:
    """The usable training utterances, with their tokens.  `epoch(n)` returns the batches of one epoch.

    The weight of an utterance is its number of occurrences per epoch, each with its own augmentation.

    `left_out` counts the utterances left out, by reason: shorter or longer than data.min_seconds and data.max_seconds,
    without text, or with more tokens (with a blank between equal neighbors) than encoder frames at the fastest speed, so
    that CTC has no path.  UserError if none remain.

    Without a tokenizer, utterances have no tokens, and batches have `frames`.
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
        self.frame = config.model.features.hop * config.model.subsampling  # samples per encoder frame
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
        self.augment = augment.AugmentConfig(**{**options, "speed": (1.0,)})  # applied here: batches depend on it
        self.channels = self._read_channels(config.augment)

    @staticmethod
    def _read_channels(config: AugmentConfig) -> Channels | None:
        if bool(config.channels) != bool(config.channel_prob):
            raise UserError(
                f"augment.channels={config.channels!r} with augment.channel_prob={config.channel_prob}: give both, a file of "
                "samba-asr augment channels and a probability above 0, or neither"
            )
        return Channels.read(config.channels) if config.channels else None

    def _check_teacher(self, teacher: TeacherFrames) -> None:
        if self.config.augment.pad_seconds:
            raise UserError(
                f"augment.pad_seconds={self.config.augment.pad_seconds} shifts speech against the teacher's frames: set it to "
                "0, or leave data.teacher out"
            )
        if self.config.augment.gap_prob:
            raise UserError(
                f"augment.gap_prob={self.config.augment.gap_prob} cuts speech that the teacher's frames have: set it to 0, or "
                "leave data.teacher out"
            )
        found = sum(u in teacher for u in self.utterances)
        if not found:
            raise UserError(
                f"data.teacher={teacher.folder} has no frames of the training utterances: write them with "
                "samba-asr augment teach"
            )
        if found < len(self.utterances):
            logger.warning("data.teacher lacks %d of the training utterances", len(self.utterances) - found)

    def frames(self, utterance: Utterance) -> int:
        """Return the number of encoder frames of an utterance as recorded, before its speed is changed."""
        return int(utterance.seconds * self.store.rate / self.frame)

    def _unusable(self, utterance: Utterance, tokens: list[int] | None) -> str:
        """Return why training cannot use an utterance, "" if it can.  tokens: None without a tokenizer."""
        data, features = self.config.data, self.config.model.features
        if utterance.seconds < data.min_seconds:
            return f"shorter than data.min_seconds={data.min_seconds}"
        if utterance.seconds > data.max_seconds:
            return f"longer than data.max_seconds={data.max_seconds}"
        if tokens is None:
            return "" if self.frames(utterance) else "without a frame"
        if not tokens:
            return "without text"
        samples = utterance.seconds * features.sample_rate / max(self.config.augment.speed)
        frames = int(samples / self.frame)
        repeats = sum(a == b for a, b in itertools.pairwise(tokens))
        return "with more tokens than encoder frames" if len(tokens) + repeats > frames else ""

    @property
    def fingerprint(self) -> int:
        """Hash of the utterances, their order and durations.  A resumed run must have the same batches."""
        weights = (f" x {u.weight}" if u.weight != 1 else "" for u in self.utterances)
        return derive_seed(*(f"{u.id} {u.duration:.3f}{w}" for u, w in zip(self.utterances, weights, strict=True)))

    def epoch(self, epoch: int, *, ranks: int = 1) -> Epoch:
        """Return the batches of epoch `epoch` (any integer), the same for every rank and every call."""
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
        """Return the speed factor of the draw of this name."""
        if epoch <= self.config.train.easy_epochs:
            return 1.0
        return choose_speed(self.speeds, seed=self.config.train.seed, epoch=epoch, utterance=name)


class Epoch:
    """Batches of one epoch.  `epoch[k]` is batch k of all ranks' batches, read and augmented; it depends on seed, epoch and k."""

    def __init__(self, data: TrainingSet, number: int, batches: list[list[Draw]]):
        self.data, self.number, self.batches = data, number, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, k: int) -> Batch:
        """Return batch k.  Unreadable utterances are logged and left out, so it may be empty."""
        rows = ((draw, [] if self._silent(draw) else draw.tokens) for draw in self.batches[k])
        teach = self._taught if self.data.teacher else None
        count = None if self.data.texts else self._frames
        say = self._text if self.data.texts else None
        return make_batch(rows, self._waveform, few_sizes=True, teach=teach, count=count, say=say)

    def _text(self, draw: Draw) -> str:
        return "" if self._silent(draw) else draw.utterance.text

    def _frames(self, draw: Draw) -> int:
        """Return the frames as recorded; 0 for background alone, from which the model learns nothing."""
        return 0 if self._silent(draw) else self.data.frames(draw.utterance)

    def _taught(self, draw: Draw, samples: int) -> np.ndarray:
        """Return the teacher's frames (t, w); (0, w) for background alone."""
        assert self.data.teacher is not None
        frames = self.data.teacher.load(draw.utterance, samples // self.data.frame)
        return frames[:0] if self._silent(draw) else frames

    def _silent(self, draw: Draw) -> bool:
        """Return whether this epoch has background alone in place of the utterance."""
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
    """Return the utterances with durations.  Those that the manifest lacks are read from the headers of the files.

    Utterances with an unreadable header are logged and left out.
    """
    utterances = list(utterances)
    headers = read_headers(u for u in utterances if u.duration is None)
    for path, header in headers.items():
        if isinstance(header, AudioError):
            logger.warning("left out: %s", header if path in str(header) else f"{path}: {header}")
    return [u for u in with_durations(utterances, headers=headers) if u.duration is not None]


class Batches(Protocol):
    """An epoch: batches by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, k: int) -> Batch: ...


def load_batches(epoch: Batches, positions: Sequence[int], workers: int) -> Generator[Batch, None, None]:
    """Yield epoch[k] for k in positions, in order, prefetched by one thread or by `workers` processes."""
    if workers == 0:
        yield from prefetch(epoch.__getitem__, positions)
        return
    from torch.utils.data import DataLoader

    if isinstance(epoch, Epoch):
        epoch.data.store.fill(epoch.data.utterances)
    pinned = torch.cuda.is_available()
    dataset: Any = epoch  # DataLoader asks for nothing but __getitem__
    collate: Any = _as_it_is
    yield from DataLoader(
        dataset, batch_size=None, sampler=positions, num_workers=workers, collate_fn=collate, pin_memory=pinned
    )


def evaluation_batches(
    utterances: Sequence[Utterance], tokenizer: Tokenizer | None, store: AudioStore, *, batch_seconds: float
) -> Generator[Batch, None, None]:
    """Yield batches of every utterance once, without augmentation, the longest first, prefetched by a thread.

    Unreadable utterances are logged and left out.  Without a tokenizer there are no tokens.
    """
    utterances = measured(utterances)

    def load(members: list[int]) -> Batch:
        encode = tokenizer.encode if tokenizer else lambda text: []
        return make_batch(((utterances[i], encode(utterances[i].text)) for i in members), store.load)

    for batch in prefetch(load, sorted_batches([u.seconds for u in utterances], batch_seconds=batch_seconds)):
        if batch.ids:
            yield batch


def prefetch(load: Callable, items: Iterable, depth: int = 4) -> Generator[Any, None, None]:
    """Yield load(item) for each item, in order, up to `depth` ahead in a background thread.  Its exceptions are raised here."""
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
