"""Augmentation of training data: waveforms one utterance at a time (numpy), features a batch at a time (torch).

Every random choice comes from the generator that is passed in, so an epoch can be repeated and resumed.  These functions do
not check whether training runs: the caller must not call them in evaluation.

s samples of a mono float32 waveform, t frames, m mel bands, b utterances, k masks
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from samba_asr.audio.channels import Channels, match
from samba_asr.config import AugmentConfig
from samba_asr.device import upload
from samba_asr.errors import UserError

NOISES = ("white", "pink", "brown", "babble")  # babble last: it needs other utterances
BACKGROUND_DB = (
    -100.0,
    -30.0,
)  # power of the background between words, relative to full scale: from 16-bit zeros to a loud fan
TELEPHONE = 8000  # samples per second
DIRECT_DB = (0.0, 12.0)  # direct sound over reflections and reverberation, in rooms that augment_waveform draws


def augment_waveform(
    samples: np.ndarray,
    rate: int,
    config: AugmentConfig,
    rng: np.random.Generator,
    others: Sequence[np.ndarray] = (),
    channels: Channels | None = None,
) -> np.ndarray:
    """Return one augmented copy of an utterance: speed, room, channel, background around it, noise, telephone, volume.

    samples (s,) float32 -> (s / speed,) float32, plus the background before and after.  others: utterances at the same rate,
    to mix babble from; without any, babble is not drawn.  channels: `channel_prob` draws from them.  Values may leave
    [-1, 1]: they are not clipped, because features are computed from floats.
    """
    _check(config)
    if config.channel_prob and channels is None:
        raise UserError(
            f"channel_prob={config.channel_prob} needs channels: measure some with samba-asr augment channels"
        )
    factor = config.speed[rng.integers(len(config.speed))]
    samples = speed_perturb(samples, factor)
    if rng.random() < config.reverb_prob:
        response = make_impulse_response(rng, rate, rng.uniform(*config.rt60), direct_db=rng.uniform(*DIRECT_DB))
        samples = reverberate(samples, response)
    if config.channel_prob and channels is not None and rng.random() < config.channel_prob:
        samples = match(samples, rate, channels, rng)
    if config.pad_seconds:
        most = round(config.pad_seconds * rate)
        before, after = rng.integers(-most, most, endpoint=True, size=2).clip(min=0)
        if before or after:
            samples = surround(samples, int(before), int(after), rng)
    if rng.random() < config.noise_prob:
        colors = NOISES if len(others) else NOISES[:-1]
        noise = make_noise(len(samples), colors[rng.integers(len(colors))], rng, others)
        samples = add_noise(samples, noise, rng.uniform(*config.noise_snr_db))
    if config.narrow_prob and rng.random() < config.narrow_prob:
        samples = narrow(samples, rate)
    return volume(samples, rng.uniform(-config.volume_db, config.volume_db))


def speed_perturb(samples: np.ndarray, factor: float) -> np.ndarray:
    """Play (s,) `factor` times as fast, -> (round(s / factor),).  Tempo and pitch change together (Kaldi's `speed`)."""
    if factor == 1.0 or len(samples) == 0:
        return samples
    import soxr  # imported here, because models import this file for spec_augment and need torch alone

    # MQ is no faster than HQ (1.2 ms for 12 s of audio), and leaves aliases.
    return soxr.resample(samples.astype(np.float32, copy=False), factor, 1.0, quality="HQ")


def narrow(samples: np.ndarray, rate: int) -> np.ndarray:
    """Limit (s,) to the bandwidth of TELEPHONE samples per second.

    A model trained on wide-band speech alone recognizes SEVEN as HEAVEN in such audio.
    """
    if rate <= TELEPHONE or len(samples) == 0:
        return samples
    import soxr

    there = soxr.resample(samples.astype(np.float32, copy=False), rate, TELEPHONE, quality="HQ")
    back = soxr.resample(there, TELEPHONE, rate, quality="HQ")[: len(samples)]
    return np.pad(back, (0, len(samples) - len(back)))


def volume(samples: np.ndarray, gain_db: float) -> np.ndarray:
    """Amplify (s,) by `gain_db` decibels, without clipping."""
    return (samples * 10 ** (gain_db / 20)).astype(np.float32)


def add_noise(samples: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Add noise to (s,) speech at a ratio of powers, over the whole utterance, of `snr_db` decibels.

    `noise` is repeated or cut to s samples.  If speech or noise is silent, the speech is returned unchanged.
    """
    if len(samples) == 0 or len(noise) == 0:
        return samples
    noise = np.resize(noise, len(samples))  # np.resize repeats; ndarray.resize would pad with zeros
    speech_power, noise_power = _power(samples), _power(noise)
    if speech_power == 0 or noise_power == 0:
        return samples
    gain = np.sqrt(speech_power / noise_power / 10 ** (snr_db / 10))
    return (samples + gain * noise).astype(np.float32)


def make_background(s: int, rng: np.random.Generator) -> np.ndarray:
    """Return (s,) of a microphone's background without speech: soft noise of some color, or, with probability 1/4, zeros."""
    gain = 0.0 if rng.random() < 0.25 else 10 ** (rng.uniform(*BACKGROUND_DB) / 20)
    return make_noise(s, NOISES[rng.integers(len(NOISES) - 1)], rng) * np.float32(gain)


def surround(samples: np.ndarray, before: int, after: int, rng: np.random.Generator) -> np.ndarray:
    """Pad (s,) to (before + s + after,), with one background under all of it, 20 dB or more below the speech."""
    result = make_background(before + len(samples) + after, rng)
    if _power(result) > 0.01 * _power(samples):
        result *= np.float32(0.1 * np.sqrt(_power(samples) / _power(result)))
    result[before : before + len(samples)] += samples
    return result


def make_noise(
    s: int, color: str, rng: np.random.Generator, others: Sequence[np.ndarray] = (), *, voices: int = 6
) -> np.ndarray:
    """Return (s,) noise of power 1.

    color: `white`, `pink` (power falls by 3 dB per octave), `brown` (6 dB), or `babble`.  Babble mixes up to `voices`
    utterances of `others` at equal power, each repeated from a random place.
    """
    if color not in NOISES:
        raise UserError(f"unknown noise {color!r}: choose one of {', '.join(NOISES)}")
    if color == "babble":
        noise = _babble(s, rng, others, voices)
    else:
        noise = rng.standard_normal(s, dtype=np.float32)
        if color != "white":
            noise = _color(noise, exponent=0.5 if color == "pink" else 1.0)
    power = _power(noise)
    return noise / np.float32(np.sqrt(power)) if power > 0 else noise


def make_impulse_response(
    rng: np.random.Generator, rate: int, rt60: float, *, direct_db: float = 6.0, reflections: int = 8
) -> np.ndarray:
    """Return the impulse response of a synthetic room, (rt60 * rate,) float32; its first sample, 1, is the direct sound.

    Then come `reflections` early reflections (2 to 30 ms, random sign) and Gaussian noise whose power falls by 60 dB in
    `rt60` seconds (Polack's model).  Together they are `direct_db` below the direct sound.
    """
    n = max(2, round(rt60 * rate))
    time = np.arange(n) / rate  # seconds
    decay = 10 ** (-3 * time / rt60)  # amplitude: -60 dB at rt60
    response = rng.standard_normal(n) * decay * (time >= 0.002)
    early = rng.uniform(0.002, min(0.030, rt60), size=reflections)
    places = np.clip((early * rate).astype(int), 1, n - 1)
    # A reflection is one path, and a sample of the tail is the sum of many weak ones: hence 4 times the amplitude.
    np.add.at(response, places, 4 * rng.choice([-1.0, 1.0], size=reflections) * decay[places])
    response[0] = 0
    energy = np.sum(response**2)
    if energy > 0:
        response *= np.sqrt(10 ** (-direct_db / 10) / energy)
    response[0] = 1
    return response.astype(np.float32)


def reverberate(samples: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Convolve (s,) with an impulse response (r,) -> (s,) of the same power.

    The highest sample of the response (the direct sound) is at delay 0.  So words keep their times, and alignments of the
    clean audio stay valid.  The tail past the last sample is dropped.
    """
    s = len(samples)
    if s == 0 or not np.any(response):
        return samples
    n = 1 << (s + len(response) - 2).bit_length()  # at least s + r - 1, so that nothing wraps around
    wet = np.fft.irfft(np.fft.rfft(samples, n) * np.fft.rfft(response, n), n)
    direct = int(np.argmax(np.abs(response)))
    wet = wet[direct : direct + s]
    if (power := _power(wet)) > 0:
        wet = wet * np.sqrt(_power(samples) / power)
    return wet.astype(np.float32)


def vocal_tract_length(features: Tensor, generator: torch.Generator, *, spread: float, centers: Tensor) -> Tensor:
    """Imitate other voices: scale the frequencies of each utterance by a random factor of its own.

    N. Jaitly and G. Hinton, "Vocal Tract Length Perturbation (VTLP) improves speech recognition", 2013, section 2.  Up to a
    break near the top, a frequency f moves to f times the factor; above it, a straight line leads to the highest frequency,
    which stays.
    features: (b, t, m) log-mel, may be normalized -> a new (b, t, m).  Factors are uniform in 1 - `spread` .. 1 + `spread`.
    centers: (m,) of the bands in Hz, rising.  Log-mel is interpolated between bands, which equals warped filters except for
    the level.  Frames do not mix, so padding stays padding.
    """
    if not 0 <= spread < 0.5:
        raise UserError(f"augment.vocal_tract={spread}: it must lie between 0 (off) and 0.5; 0.1 is common")
    b, m = features.shape[0], features.shape[2]
    factor = 1 + spread * (2 * torch.rand(b, 1, generator=generator, dtype=torch.float64) - 1)
    hz, top = centers.double().cpu(), float(centers[-1])
    turn = 0.85 * top * factor.clamp(max=1) / factor  # (b, 1) Hz; times the factor it stays below the top
    rest = top - (top - factor * turn) * (top - hz) / (top - turn)
    source = torch.where(hz <= turn, factor * hz, rest).clamp(min=float(hz[0]))  # (b, m) Hz that each band reads
    right = torch.searchsorted(hz, source.contiguous()).clamp(1, m - 1)  # (b, m)
    share = ((source - hz[right - 1]) / (hz[right] - hz[right - 1])).to(features)[:, None]  # (b, 1, m)
    right = right[:, None].expand(features.shape).to(features.device)
    return torch.lerp(features.gather(2, right - 1), features.gather(2, right), share)


def equalize(features: Tensor, generator: torch.Generator, *, most_db: float, scale: Tensor, knots: int = 6) -> Tensor:
    """Imitate other microphones and rooms: filter each utterance smoothly with a random filter of its own.

    H. Nam, S.-H. Kim and Y.-H. Park, "FilterAugment: an acoustic environmental data augmentation method", ICASSP 2022, linear
    type: gains within `most_db` decibels at 2 to `knots` bands, the lowest and highest included, interpolated linearly.
    features: (b, t, m) log-mel of power (natural logarithm) divided by `scale` (m,) -> a new (b, t, m).  Frames do not mix,
    so padding stays padding.
    """
    if not 0 <= most_db <= 30:
        raise UserError(f"augment.equalizer_db={most_db}: it must lie between 0 (off) and 30; 6 is common")
    b, m = features.shape[0], features.shape[2]
    gains = torch.zeros(b, m, dtype=torch.float64)
    bands = torch.arange(m, dtype=torch.float64)
    for row in range(b):
        count = int(torch.randint(2, knots + 1, (), generator=generator))
        inner = torch.rand(count - 2, generator=generator, dtype=torch.float64).sort().values
        places = torch.cat([torch.zeros(1), inner, torch.ones(1)]).double() * (m - 1)
        heights = most_db * (2 * torch.rand(count, generator=generator, dtype=torch.float64) - 1)
        right = torch.searchsorted(places, bands).clamp(1, count - 1)
        width = (places[right] - places[right - 1]).clamp(min=1e-9)
        gains[row] = torch.lerp(heights[right - 1], heights[right], (bands - places[right - 1]) / width)
    gains *= math.log(10) / 10  # decibels of power to natural logarithm
    return features + (gains.to(features) / scale.to(features))[:, None]


def spec_augment(
    features: Tensor,
    lengths: Tensor,
    generator: torch.Generator,
    *,
    time_masks: int,
    time_width: int,
    time_ratio: float,
    freq_masks: int,
    freq_width: int,
) -> Tensor:
    """Mask time and frequency with zeros (the mean, after CMVN): Park et al. 2019, "SpecAugment", without warping.

    features (b, t, m), lengths (b,) -> a new (b, t, m), differentiable; padding past `lengths` is unchanged.
    Each utterance has its own masks.  Widths are uniform in [0, widest], places uniform where the mask fits.
    As in lhotse, time masks cover at most `time_ratio` of an utterance: short utterances get fewer and narrower masks.
    The generator's device may differ from the features': a CPU generator gives the same masks on every device.
    """
    _, t, m = features.shape
    device = generator.device
    lengths = lengths.to(device)
    budget = (lengths * time_ratio).long()  # (b,) frames that may be masked
    full = (budget + time_width - 1) // max(time_width, 1)  # (b,) masks of full width that would use up the budget
    count = full.clamp(min=1, max=max(time_masks, 1))
    widest = (budget // count).clamp(max=time_width)
    in_time = _masks(lengths, widest, count, t, time_masks, generator)  # (b, t)
    bands = torch.full_like(lengths, m)
    every = torch.full_like(lengths, freq_masks)
    in_freq = _masks(bands, every.new_full(every.shape, min(freq_width, m)), every, m, freq_masks, generator)  # (b, m)

    masked = in_time[:, :, None] | in_freq[:, None, :]  # (b, t, m)
    masked &= (torch.arange(t, device=device) < lengths[:, None])[:, :, None]
    return features.masked_fill(upload(masked, features.device), 0.0)


def _masks(size: Tensor, widest: Tensor, count: Tensor, n: int, k: int, generator: torch.Generator) -> Tensor:
    """Return (b, n) bool: in row b, the first `count[b]` of k masks, of width 0 to `widest[b]`, inside [0, `size[b]`)."""
    b, device = len(size), generator.device
    # float64: in float32, rand() * (widest + 1) can round up to widest + 1
    draws = torch.rand(2, b, k, generator=generator, device=device, dtype=torch.float64)
    width = (draws[0] * (widest[:, None] + 1)).long()  # (b, k)
    width = width * (torch.arange(k, device=device) < count[:, None])
    start = (draws[1] * (size[:, None] - width + 1)).long()
    place = torch.arange(n, device=device)[None, None, :]
    return ((place >= start[..., None]) & (place < (start + width)[..., None])).any(dim=1)


def _check(config: AugmentConfig) -> None:
    """Raise UserError for a value that augment_waveform cannot use."""
    if not config.speed or min(config.speed) <= 0:
        raise UserError(f"speed={config.speed}: give one factor or more, each above 0 (1.0 leaves the speed alone)")
    for name in ("noise_prob", "reverb_prob", "silence_prob", "channel_prob", "narrow_prob", "gap_prob"):
        if not 0 <= getattr(config, name) <= 1:
            raise UserError(f"{name}={getattr(config, name)}: it must lie between 0 and 1")
    for name in ("volume_db", "pad_seconds"):
        if getattr(config, name) < 0:
            raise UserError(f"{name}={getattr(config, name)}: it must be 0 (off) or more")
    for name in ("noise_snr_db", "rt60"):
        low, high = getattr(config, name)
        if low > high:
            raise UserError(f"{name}=({low}, {high}): the first number must not exceed the second")
    if config.rt60[0] <= 0:
        raise UserError(f"rt60={config.rt60}: a reverberation time must be above 0 s (reverb_prob=0 turns it off)")


def _power(samples: np.ndarray) -> float:
    return float(np.mean(np.square(samples, dtype=np.float64))) if len(samples) else 0.0


def _color(white: np.ndarray, exponent: float) -> np.ndarray:
    """Divide the amplitude spectrum of (s,) by frequency ** exponent.

    Frequencies below 1/800 of the rate (20 Hz at 16 kHz) are removed: inaudible, they would hold most power of brown noise.
    """
    s = len(white)
    n = 1 << max(10, (s - 1).bit_length())
    spectrum = np.fft.rfft(white, n)
    frequency = np.fft.rfftfreq(n)  # of the rate, 0 to 0.5
    audible = frequency >= 1 / 800
    spectrum[audible] /= frequency[audible] ** exponent
    spectrum[~audible] = 0
    return np.fft.irfft(spectrum, n)[:s].astype(np.float32)


def _babble(s: int, rng: np.random.Generator, others: Sequence[np.ndarray], voices: int) -> np.ndarray:
    if len(others) == 0:
        raise UserError("babble is mixed from other utterances: pass some in `others`, or choose another noise")
    mixed = np.zeros(s, dtype=np.float32)
    for i in rng.permutation(len(others))[:voices]:
        voice = others[i]
        if (power := _power(voice)) > 0:
            start = int(rng.integers(len(voice)))
            mixed += np.resize(np.roll(voice, -start), s) / np.float32(np.sqrt(power))
    return mixed
