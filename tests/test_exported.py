"""An exported model: the same texts without torch, from files and streams; what it cannot do is said."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from samba_asr.audio.read import read
from samba_asr.cli import main
from samba_asr.config import Config, DecodeConfig, LmConfig, load, save
from samba_asr.config.plain import from_json, overridden, to_json
from samba_asr.data.manifest import read_manifest
from samba_asr.errors import UserError
from samba_asr.models.folder import save_model
from samba_asr.models.lm_folder import save_lm
from samba_asr.recognizer import Recognizer
from samba_asr.text.tokenizer import CharTokenizer
from tests.decoding.toys import write_arpa
from tests.support.language_model import random_lm
from tests.support.model_folder import make_model
from tests.support.sound import noise

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

ROOT = Path(__file__).resolve().parents[1]
ABSENT = ("torch", "omegaconf", "safetensors", "sentencepiece", "av", "soxr", "jiwer", "num2words", "numba")
WITHOUT = f"import sys\nsys.modules.update(dict.fromkeys({ABSENT!r}))\n"
"""Makes imports of these packages fail."""

RUN = """
import dataclasses, json, numpy as np
from samba_asr.recognizer import Recognizer
folder, path, latency, *settings = sys.argv[1:]
recognizer = Recognizer.load(folder, settings=["decode.runtime.overlap=0.5", *settings])
result = recognizer.transcribe(path)
stream = recognizer.stream(latency_ms=float(latency))
for piece in np.load(path.replace(".wav", ".npy")):
    stream.accept(piece)
entries = lambda result: [word.entry() for word in result.words]
print(json.dumps([entries(result), entries(stream.finish()), sorted(name for name in sys.modules if sys.modules[name])]))
"""


@pytest.fixture(scope="module")
def folders(recognizer, tmp_path_factory):
    """A model folder, and the folder of its export."""
    own, out = tmp_path_factory.mktemp("model"), tmp_path_factory.mktemp("exported")
    save_model(own, recognizer.model, recognizer.config, recognizer.tokenizer)
    assert main(["export", "--model", str(own), "--out", str(out)]) == 0
    return own, out


@pytest.fixture(scope="module")
def spoken(tmp_path_factory) -> tuple[Path, np.ndarray]:
    """A file of 16 kHz, and its samples in pieces beside it."""
    samples = noise(3.0)
    path = tmp_path_factory.mktemp("audio") / "noise.wav"
    soundfile.write(path, samples, 16000, subtype="FLOAT")
    np.save(path.with_suffix(".npy"), samples.reshape(10, -1))
    return path, samples


def expected(folder: Path, source: Path | np.ndarray, latency: float | None = None, *settings: str) -> list:
    settings = ("decode.runtime.backend=torch", "decode.runtime.overlap=0.5", *settings)
    recognizer = Recognizer.load(folder, settings=settings)
    return [word.entry() for word in recognizer.transcribe(source, latency_ms=latency).words]


@pytest.mark.parametrize("settings", [[], ["decode.runtime.final_ms=640"]], ids=["small blocks", "larger blocks"])
def test_it_transcribes_and_streams_without_torch(folders, spoken, settings):
    (own, out), (path, samples) = folders, spoken
    command = [sys.executable, "-c", WITHOUT + RUN, str(out), str(path), "320", *settings]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    whole, live, modules = json.loads(done.stdout)
    assert whole == expected(own, path) != []
    assert live == expected(own, samples, 320.0, *settings) != []
    if settings:
        assert live != expected(own, samples, 320.0)
    assert not set(ABSENT) & set(modules)


def test_a_language_model_reads_its_lattices_without_torch(tmp_path, spoken):
    make_model(tmp_path / "own")
    write_arpa(tmp_path)
    shape = LmConfig(layers=2, d_model=8, d_state=4, headdim=4, ffn_expand=2, dropout=0.0)
    lm = random_lm(shape, CharTokenizer(["▁", "b", "a"]))  # units of its own
    save_lm(tmp_path / "lm", lm.model.float(), replace(Config(), lm=shape), lm.tokenizer, perplexity=9.0)
    chosen = [
        *("decode.search.method=beam", f"decode.lm={tmp_path / 'lm.arpa'}", f"decode.lm.neural={tmp_path / 'lm'}"),
        *("decode.lm.weight=3", "decode.lm.neural_weight=3"),
    ]
    save(load(overrides=chosen, folder=tmp_path / "own"), tmp_path / "own" / "config.yaml")
    assert main(["export", "--model", str(tmp_path / "own"), "--out", str(tmp_path / "out")]) == 0
    command = [sys.executable, "-c", WITHOUT + RUN, str(tmp_path / "out"), str(spoken[0]), "320"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "the n-gram reads alone" not in done.stderr
    whole, _, modules = json.loads(done.stdout)
    assert "samba_asr.decoding.lm_states_numpy" in modules
    want = expected(tmp_path / "own", spoken[0])
    assert [word["word"] for word in whole] == [word["word"] for word in want] != []
    ngram = Recognizer.load(tmp_path / "own", settings=["decode.lm.neural="]).transcribe(spoken[0])
    assert [word.entry()["word"] for word in ngram.words] != [word["word"] for word in want]  # it had a say


def test_the_command_line_works_without_torch(folders, spoken, capsys):
    (own, out), (path, _) = folders, spoken
    code = WITHOUT + "from samba_asr.cli import main\nsys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "transcribe", "--model", str(out), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert main(["transcribe", "--model", str(own), str(path)]) == 0
    assert done.stdout == capsys.readouterr().out != ""


def test_audio_of_another_rate_asks_for_the_resampler(folders, spoken, tmp_path):
    soundfile.write(tmp_path / "a.wav", spoken[1], 8000, subtype="FLOAT")
    code = WITHOUT + "from samba_asr.cli import main\nsys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "transcribe", "--model", str(folders[1]), str(tmp_path / "a.wav")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert "pip install soxr" in done.stderr


def test_settings_are_overridden_as_those_of_a_model_folder(folders, spoken):
    own, out = folders
    settings = [
        "decode.search.method=beam",
        "decode.search.beam=4",
        "decode.vad=energy",
        "decode.runtime.latency_ms=320",
    ]
    found = Recognizer.load(out, settings=settings)
    plain = Recognizer.load(own, settings=[*settings, "decode.runtime.backend=torch"])
    assert (found.decode.search, found.decode.vad) == (plain.decode.search, plain.decode.vad)
    assert found.latency(None) == plain.latency(None)
    with pytest.raises(UserError, match=r"unknown key decode\.search\.beams; there are: method"):
        Recognizer.load(out, settings=["decode.search.beams=4"])


def test_what_needs_the_weights_says_so(folders):
    found = Recognizer.load(folders[1])
    with pytest.raises(UserError, match="exported model, which torch cannot run"):
        found.in_float64()
    with pytest.raises(UserError, match="exported model, which torch cannot run"):
        Recognizer.load(folders[1], settings=["decode.runtime.backend=torch"])
    with pytest.raises(UserError, match="needs a decoder"):
        Recognizer.load(folders[1], settings=["decode.search.method=beam", "decode.search.rescore=0.3"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ('{"serach": {}}', "unknown key decode.serach"),
        ('{"search": 3}', "decode.search is a section"),
        ('{"search": {"beam": "many"}}', "decode.search.beam='many': give a int"),
        ('{"search": {"beam": 0}}', "beam=0"),
    ],
)
def test_wrong_settings_are_refused(text, message):
    with pytest.raises(UserError, match=message):
        from_json(text)


def test_settings_come_back_from_json():
    decode = load([], ["decode.search.beam=7", "decode.vad=energy", "decode.runtime.overlap=0.25"]).decode
    assert from_json(to_json(decode)) == decode
    assert (
        overridden(DecodeConfig(), ["decode.search.beam=7", "decode.vad=energy", "decode.runtime.overlap=0.25"])
        == decode
    )


@pytest.mark.slow
def test_an_environment_of_its_own_without_torch_transcribes_the_shipped_model(tmp_path):
    """numpy, onnxruntime, soundfile, text2num and numba, and this package without its dependencies; needs a package index."""
    said = next(u for u in read_manifest(ROOT / "egs" / "digits" / "data" / "manifest.jsonl") if u.split == "test")
    audio, clip = read(said.audio, start=said.start, duration=said.duration), tmp_path / "talk.wav"
    soundfile.write(clip, audio.samples, audio.rate)
    assert main(["export", "--out", str(tmp_path / "model")]) == 0
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    installed = subprocess.run([*pip, "numpy", "onnxruntime", "soundfile", "text2num", "numba"], check=False)
    if installed.returncode:
        pytest.skip("no package index")
    subprocess.run([*pip, "--no-deps", str(ROOT)], check=True)
    command = [str(python), "-m", "samba_asr.cli", "transcribe", "--model", str(tmp_path / "model"), str(clip)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    plain = Recognizer.load(settings=["decode.runtime.backend=torch"]).transcribe(clip, text="written")
    assert done.stdout.split("\t")[-1].strip() == plain.readable != plain.text
