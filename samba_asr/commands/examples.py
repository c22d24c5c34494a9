"""Examples of the commands for `--help`; the tests parse each of them."""

from __future__ import annotations

import argparse

EXAMPLES: dict[str, tuple[str, ...]] = {
    "prepare": (
        "samba-asr prepare mini_librispeech --out data",
        "samba-asr prepare librispeech --source /corpora/LibriSpeech --subset train-clean-100 dev-clean test-clean",
        "samba-asr prepare my_corpus/ --split-by-speaker dev=0.1,test=0.1 --upper --fix",
    ),
    "shard": (
        "samba-asr shard data/train.jsonl --out shards/train",
        "samba-asr shard train-00000.parquet --out shards/train --size 256M",
    ),
    "augment tts": ("samba-asr augment tts books.txt.xz --sentences 2000 --voices styles.npz --out synthetic",),
    "augment voices": ("samba-asr augment voices styles.npz --speakers 400 --out voices.npz",),
    "augment label": ("samba-asr augment label untranscribed.jsonl --model exp/mine/model --out labelled.jsonl",),
    "augment channels": ("samba-asr augment channels data/train.jsonl --out channels.npz",),
    "augment teach": ("samba-asr augment teach data/train.jsonl --out teacher",),
    "pretrain": (
        "samba-asr pretrain --exp exp/pre --config model/small train/cpu data.train=[speech.jsonl] data.valid=[dev.jsonl]",
        "samba-asr pretrain --exp exp/pre --probe dev.jsonl pretrain.objective=diffusion data.train=[speech.jsonl]",
    ),
    "train": (
        "samba-asr train --exp exp/a --config model/small train/cpu data.train=[train.jsonl] data.valid=[dev.jsonl]",
        "samba-asr train --exp exp/b --init english --config train/cpu data.train=[train.jsonl] data.valid=[dev.jsonl]",
    ),
    "finetune": (
        "samba-asr finetune my_corpus --out my_model",
        "samba-asr finetune my_corpus --out my_model --minutes 60 --set optim.lr=0.0001",
    ),
    "curves": ("samba-asr curves exp/a exp/b --out curves.png",),
    "average": (
        "samba-asr average --exp exp/mine --out exp/mine/model",
        "samba-asr average --exp exp/mine --out exp/both --with english",
    ),
    "decode": (
        "samba-asr decode --model exp/mine/model --data data/test.jsonl --out exp/mine/test",
        "samba-asr decode --data data/test.jsonl --out exp/live decode.runtime.latency_ms=640",
        "samba-asr decode --data data/test.jsonl --out exp/lattices --lattice htk",
    ),
    "score": (
        "samba-asr score data/test.jsonl exp/mine/test/hyp.txt",
        "samba-asr score ref.trn new.trn --baseline old.trn",
    ),
    "transcribe": (
        "samba-asr transcribe talk.m4a",
        "samba-asr transcribe -f srt,text -o subtitles lectures/",
        "samba-asr transcribe --channels split -f json call.wav",
        "samba-asr transcribe --hotword 'Anne Bronte' --hotword 'Keats :3' talk.mp3",
    ),
    "align": ('samba-asr align talk.wav "One, two, three"', "samba-asr align --format textgrid talk.wav talk.txt"),
    "explain": ("samba-asr explain talk.wav --out talk.png",),
    "calibrate": (
        "samba-asr calibrate --model exp/mine/model --data data/dev.jsonl --plot reliability.png",
        "samba-asr calibrate --model exp/mine/model --data data/dev.jsonl --graph",
    ),
    "bench mixers": (
        "samba-asr bench mixers --out exp/mixers --config model/tiny train/cpu digits --steps 1000 --test data/test.jsonl "
        "data.train=[data/train.jsonl]",
    ),
    "export": ("samba-asr export", "samba-asr export --model exp/mine/model --out exported --int8"),
    "punctuation split": ("samba-asr punctuation split books.txt.xz books.tsv --out data",),
    "punctuation train": (
        "samba-asr punctuation train data/train.txt --valid data/valid.txt --exp exp/punctuation --out punctuation.safetensors",
    ),
    "punctuation score": ("samba-asr punctuation score data/test.txt",),
    "lm train": ("samba-asr lm train books.txt.xz --out lm.ngram",),
    "lm mamba": (
        "samba-asr lm mamba books.txt.xz --valid dev.txt --exp exp/lm --tokenizer exp/mine/model",
        "samba-asr lm mamba mine.txt --valid dev.txt --exp exp/mine --init english --set optim.lr=1e-3 train.epochs=6",
    ),
    "lm mix": ("samba-asr lm mix english mine.arpa --text dev.txt --out mixed.ngram",),
    "lm pronounce": ("samba-asr lm pronounce --exp exp/letters --out pronunciation.safetensors",),
    "lm pack": ("samba-asr lm pack lm.arpa.gz --out lm.ngram",),
    "lm tune": (
        "samba-asr lm tune --model exp/mine/model --data data/dev.jsonl --save --set decode.lm.ngram=lm.ngram",
    ),
    "lm lexicon": ("samba-asr lm lexicon lm.ngram --out exp/mine/model/words.txt",),
    "serve": (
        "samba-asr serve",
        "samba-asr serve --model english mine=exp/mine/model --port 8080",
        "SAMBA_ASR_TOKENS=secret samba-asr serve --host 0.0.0.0",
        "samba-asr serve --host 0.0.0.0 --open --wyoming 10300",
    ),
    "stream": ("samba-asr stream talk.wav", "samba-asr stream --fast --url ws://127.0.0.1:8080 talk.wav"),
    "mic": ("samba-asr mic", "samba-asr mic --latency-ms 320 --hotword 'Anne Bronte'", "samba-asr mic --list"),
    "mcp": ("samba-asr mcp recordings/",),
    "push": ("samba-asr push exp/mine/model myself/my-model --license cc-by-4.0 --private",),
    "bench train": (
        "samba-asr bench train --config model/small",
        "samba-asr bench train --config model/small train/gpu --count",
    ),
    "bench transcribe": ("samba-asr bench transcribe talk.wav",),
    "bench compare": ("samba-asr bench compare talk.wav",),
    "bench serve": ("samba-asr bench serve",),
    "bench soak": ("samba-asr bench soak --minutes 20",),
    "bench ops": ("samba-asr bench ops --op ssd --length 400",),
    "doctor": ("samba-asr doctor",),
}


class Help(argparse.HelpFormatter):
    """Help whose lists of examples keep their lines."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("examples:"):
            return "\n".join(indent + line for line in text.splitlines())
        return super()._fill_text(text, width, indent)


def add_examples(parser: argparse.ArgumentParser, name: str = "") -> None:
    """Give the parser of the command `name`, and those of its subcommands, the examples as the end of their help."""
    parser.formatter_class = Help
    if name in EXAMPLES:
        parser.epilog = "examples:\n" + "\n".join(f"  {line}" for line in EXAMPLES[name])
    for below, child in subcommands(parser).items():
        add_examples(child, f"{name} {below}".strip())


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of a parser's subcommands by name."""
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(actions[0].choices) if actions else {}
