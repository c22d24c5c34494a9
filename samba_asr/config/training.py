"""Configuration of training: `tokenizer.*`, `loss.*`, `data.*`, `augment.*`, `optim.*`, `train.*`, `pretrain.*`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenizerConfig:
    kind: str = "bpe"  # bpe | char | phone
    vocab_size: int = 256  # bpe alone


@dataclass(frozen=True)
class LossConfig:
    ctc: float = 1.0  # weight of CTC
    crf: float = 0.0  # weight of CTC-CRF: texts against what a trigram of their units finds likely (samba_asr.ops.crf)
    intermediate: float = 0.5  # share of the CTC behind model.self_conditioning in it, if there are such
    decoder: float = 0.0  # weight of the decoder's cross-entropy
    cr_ctc: float = 0.0  # weight of the consistency between two augmented views; 0 trains on one view
    teacher: float = 0.0  # weight of the squared distance, a channel, from what the teacher of data.teacher hears
    label_smoothing: float = 0.1  # of the decoder's cross-entropy


@dataclass(frozen=True)
class DataConfig:
    train: tuple[str, ...] = ()  # manifests (JSONL)
    weights: tuple[float, ...] = ()  # how often an epoch takes each of them, fractions too; (): once
    valid: tuple[str, ...] = ()
    noise: tuple[str, ...] = ()  # manifests of noises to mix in, beside the synthetic ones
    teacher: str = ""  # folder of what a teacher hears in the training speech (`samba-asr augment teach`)
    min_seconds: float = 0.3  # shorter and longer utterances are left out of training, and counted in the log
    max_seconds: float = 24.0
    batch_seconds: float = 120.0  # padded audio in a batch of one process
    buckets: int = 12  # of about equal duration
    workers: int = 0  # loader processes beside the main one
    cache: bool = True  # keep decoded audio in memory (16-bit: 115 MB an hour)


@dataclass(frozen=True)
class AugmentConfig:
    """Training only (samba_asr.audio.augment)."""

    speed: tuple[float, ...] = (0.9, 1.0, 1.1)
    volume_db: float = 6.0  # gain drawn from +- this
    silence_prob: float = 0.0  # of hearing, in place of an utterance, background alone, with an empty text
    pad_seconds: float = 0.0  # background before an utterance or behind it, each every other time, up to this long
    noise_prob: float = 0.0
    noise_snr_db: tuple[float, float] = (10.0, 30.0)
    reverb_prob: float = 0.0
    rt60: tuple[float, float] = (0.1, 0.6)  # seconds
    channel_prob: float = 0.0  # of sounding as if a reader of augment.channels had recorded it
    channels: str = ""  # file of readers' spectra and noise floors (`samba-asr augment channels`)
    narrow_prob: float = 0.0  # of hearing it as by telephone, without what lies above 4 kHz
    vocal_tract: float = 0.0  # frequencies times a factor drawn from 1 +- this: other voices; 0: off
    equalizer_db: float = 0.0  # a smooth filter over the spectrum, within +- this: other microphones and rooms; 0: off
    time_masks: int = 10  # SpecAugment
    time_width: int = 40  # frames of 10 ms
    time_ratio: float = 0.15  # of the utterance, at most, under time masks
    freq_masks: int = 2
    freq_width: int = 27  # mels


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its schedule (samba_asr.training.optim)."""

    lr: float = 1.0e-3  # peak
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1.0e-9
    weight_decay: float = 0.01  # on matrices alone; never on A_log, D, dt_bias, norms, biases
    schedule: str = "cosine"  # cosine | noam | constant, each after a linear warm-up
    warmup: int = 500  # steps
    final_lr: float = 0.01  # where cosine ends, as a share of the peak
    clip: float = 1.0  # norm of the gradient
    accumulate: int = 1  # batches a step


@dataclass(frozen=True)
class TrainConfig:
    seed: int = 1
    device: str = "auto"  # auto | cpu | cuda | cuda:1
    dtype: str = "auto"  # auto | float32 | bfloat16: of matrix products; weights and scans stay float32
    epochs: int = 30
    easy_epochs: int = (
        0  # the first ones without augmentation, dropout and blocks: CTC finds its first alignments sooner
    )
    max_steps: int = 0  # 0: no limit
    max_minutes: float = 0.0  # 0: no limit; the schedule then follows the clock
    ema: float = 0.0  # decay of the averaged weights; 0: none
    save_minutes: float = 5.0  # a checkpoint to resume from, beside the one after each epoch
    keep_best: int = 5  # checkpoints kept by validation score, for averaging
    keep_last: int = 2
    valid_every: int = 1  # epochs
    examples: int = 3  # validation utterances shown, decoded, in the log
    log_every: int = 20  # steps


@dataclass(frozen=True)
class PretrainConfig:
    """Pretraining on speech alone (samba_asr.training.objectives)."""

    name: str = "best_rq"  # the objective
    codes: int = 1024  # that a frame may have
    dim: int = 16  # of the space they lie in
    span: int = 10  # encoder frames hidden together: 400 ms
    share: float = 0.5  # of all frames, if no two spans met
