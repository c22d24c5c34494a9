"""Configuration of training: `tokenizer.*`, `loss.*`, `data.*`, `augment.*`, `optim.*`, `train.*`, `pretrain.*`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenizerConfig:
    """Units of the text (samba_asr.text.tokenizer)."""

    kind: str = "bpe"  # bpe | char | phone
    vocab_size: int = 256  # of bpe; char and phone ignore it


@dataclass(frozen=True)
class LossConfig:
    """Weights of the training losses (samba_asr.training.objectives)."""

    ctc: float = 1.0  # weight of CTC
    crf: float = 0.0  # weight of CTC-CRF, normalized by a trigram of units (samba_asr.ops.crf)
    intermediate: float = 0.5  # share of the intermediate CTC losses (model.self_conditioning) in CTC, if there are any
    mwer: float = 0.0  # weight of the expected word errors among the best texts of the search (decode.*)
    mwer_nbest: int = 8  # so many texts
    decoder: float = 0.0  # weight of the decoder's cross-entropy
    cr_ctc: float = 0.0  # weight of the consistency between two augmented views; 0 trains on one view
    teacher: float = 0.0  # weight of the squared distance, per channel, from the teacher's frames in data.teacher
    label_smoothing: float = 0.1  # of the decoder's cross-entropy


@dataclass(frozen=True)
class DataConfig:
    """Manifests and batches (samba_asr.data)."""

    train: tuple[str, ...] = ()  # manifests (JSONL)
    weights: tuple[float, ...] = ()  # passes over each training manifest per epoch, fractions allowed; (): one each
    valid: tuple[str, ...] = ()
    noise: tuple[str, ...] = ()  # manifests of noises to mix in, besides the synthetic ones
    teacher: str = ""  # folder of a teacher's encoder frames of the training speech (`samba-asr augment teach`)
    min_seconds: float = 0.3  # training leaves out utterances shorter or longer than this; the log counts them
    max_seconds: float = 24.0
    batch_seconds: float = 120.0  # padded audio in one batch of one process
    buckets: int = 12  # groups of utterances of similar duration
    workers: int = 0  # loader processes besides the main one
    cache: bool = True  # keep decoded audio in memory (16-bit: 115 MB per hour)


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation in training (samba_asr.audio.augment)."""

    speed: tuple[float, ...] = (0.9, 1.0, 1.1)
    volume_db: float = 6.0  # gain drawn from +- this
    silence_prob: float = 0.0  # of background alone, with an empty text, in place of an utterance
    pad_seconds: float = 0.0  # background before and after an utterance, each with probability 1/2, up to this long
    noise_prob: float = 0.0
    noise_snr_db: tuple[float, float] = (10.0, 30.0)
    reverb_prob: float = 0.0
    rt60: tuple[float, float] = (0.1, 0.6)  # seconds
    channel_prob: float = 0.0  # of the recording channel of a speaker in augment.channels
    channels: str = ""  # file of speakers' spectra and noise floors (`samba-asr augment channels`)
    narrow_prob: float = 0.0  # of telephone bandwidth: nothing above 4 kHz
    gap_prob: float = 0.0  # of missing audio: up to 3 parts of 0.2 to 3 s are cut out, and the encoder is told so
    vocal_tract: float = 0.0  # scale frequencies by a factor drawn from 1 +- this: other voices; 0: off
    equalizer_db: float = 0.0  # filter the spectrum smoothly within +- this: other microphones and rooms; 0: off
    time_masks: int = 10  # SpecAugment
    time_width: int = 40  # frames of 10 ms
    time_ratio: float = 0.15  # largest share of the utterance under time masks
    freq_masks: int = 2
    freq_width: int = 27  # mels


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its schedule (samba_asr.training.optim)."""

    lr: float = 1.0e-3  # peak
    encoder_lr: float = 0.0  # peak of a recognizer's encoder, such as one that was pretrained; 0: as `lr`
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1.0e-9
    weight_decay: float = 0.01  # of matrices only; never of A_log, D, dt_bias, norms, biases
    schedule: str = "cosine"  # cosine | noam | constant, each after a linear warm-up
    warmup: int = 500  # steps
    final_lr: float = 0.01  # end of the cosine, as a share of the peak
    clip: float = 1.0  # largest norm of the gradient
    accumulate: int = 1  # batches per step of each process; may change with their number in a continued run


@dataclass(frozen=True)
class TrainConfig:
    """Length, checkpoints and log of a training run (samba_asr.training)."""

    seed: int = 1
    device: str = "auto"  # auto | cpu | cuda | cuda:1
    dtype: str = "auto"  # auto | float32 | bfloat16: of matrix products; weights and scans stay float32
    shard: bool = False  # divide weights and optimizer state among processes: for models too large for one GPU
    epochs: int = 30
    easy_epochs: int = 0  # first epochs without augmentation, dropout and blocks: CTC finds its first alignments sooner
    max_steps: int = 0  # 0: no limit
    max_minutes: float = 0.0  # 0: no limit; the schedule then follows the clock
    ema: float = 0.0  # decay of the averaged weights; 0: none
    save_minutes: float = 5.0  # between checkpoints to resume from, besides the one after each epoch
    keep_best: int = 5  # checkpoints kept by validation score, for averaging
    keep_last: int = 2
    valid_every: int = 1  # epochs
    examples: int = 3  # validation utterances whose hypotheses the log shows
    log_every: int = 20  # steps
    tracker: str = (
        "tensorboard"  # tensorboard | mlflow | wandb | none: where the curves go (samba_asr.training.tracking)
    )


@dataclass(frozen=True)
class PretrainConfig:
    """Pretraining on speech without texts (samba_asr.training.objectives)."""

    objective: str = "best_rq"  # best_rq | masked | causal | diffusion
    codes: int = 1024  # size of the codebook of best_rq
    dim: int = 16  # dimensions of its codes
    span: int = 10  # encoder frames that best_rq and masked hide together: 400 ms
    share: float = 0.5  # of all frames that they hide, if no two spans overlapped
