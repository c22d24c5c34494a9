"""Exported graphs: every batch and every length; the streaming contract in float32; what torch gives; refusals."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
import torch

from samba_asr.errors import UserError
from samba_asr.models.asr import AsrModel
from samba_asr.ops.exporting import exporting
from samba_asr.runtime import export as exports
from samba_asr.runtime.base import Latency
from samba_asr.runtime.export import FrontGraph, LayersGraph, export, exportable_mixers
from samba_asr.runtime.onnx import BLOCK, DESCRIPTION, FRONT, WHOLE, OnnxRuntime
from samba_asr.runtime.torch import TorchRuntime
from tests.contract import awake
from tests.models.tiny import FRAME, tiny

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
SIZES = [(b, t) for b in (1, 3, 32) for t in (1, 13, 70)]  # 70: three chunks of a scan, the last of them short
LATENCIES = [Latency(6, 6), Latency(4, 2), Latency(4, 4), Latency(1, 1), Latency(3, 1)]


def model(mixer: str = "hydra", **changes) -> AsrModel:
    torch.manual_seed(0)
    found = awake(AsrModel(tiny(mixer, self_conditioning=(1,), **changes))).eval()
    found.features.set_statistics(torch.full((4,), -3.0), torch.full((4,), 2.0))
    return found


@pytest.fixture(scope="module", params=exportable_mixers())
def exported(request, tmp_path_factory):
    """A model that reads all layers, and the folder of its graphs."""
    found, folder = model(request.param, fusion=True), tmp_path_factory.mktemp(request.param)
    export(found, "digest of the weights", folder)
    return found, folder


@pytest.fixture(scope="module")
def hydra(tmp_path_factory):
    found, folder = model(), tmp_path_factory.mktemp("graphs")
    export(found, "digest of the weights", folder)
    return found, folder


def audio(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=frames * FRAME).astype(np.float32) * 0.1


def by_forward(runtime, samples, latency) -> np.ndarray:
    found = runtime.forward(torch.from_numpy(samples)[None], torch.tensor([len(samples)]), latency)
    return np.asarray(found.log_probs)[0, : int(found.lengths[0])]


def rows_of(frames) -> list[np.ndarray]:
    log_probs = np.asarray(frames.log_probs)
    return [log_probs[row, :n] for row, n in enumerate(np.asarray(frames.lengths).tolist())]


# --- graphs


@pytest.mark.parametrize("name", [FRONT, BLOCK, WHOLE])
def test_a_graph_serves_every_batch_and_every_length(exported, name):
    net, folder = exported
    graph = FrontGraph(net) if name == FRONT else LayersGraph(net)
    session = onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
    for b, t in SIZES:
        inputs = graph.inputs(b, t)
        with torch.no_grad():
            expected = graph(*inputs.values())
        found = session.run(None, {key: x.numpy() for key, x in inputs.items()})
        for x, y in zip(expected, found, strict=True):
            np.testing.assert_allclose(y, x.numpy(), atol=1e-5, rtol=1e-5)


def test_a_graph_with_a_fixed_size_is_refused_when_it_is_written(tmp_path, monkeypatch):
    graph = LayersGraph(model())
    plain = graph.encoder.one_block

    def fixed(x, states, blocks):
        y, after = plain(x, states, blocks)
        return (y[: int(x.shape[0])] + torch.zeros(3, 1, 1) if exporting() else y), after

    monkeypatch.setattr(graph.encoder, "one_block", fixed)
    exports.record(graph, tmp_path / BLOCK, short=True)
    with pytest.raises(Exception, match=r"wrong by|Attempting to broadcast"):
        exports.verify(graph, tmp_path / BLOCK, exact=True)


def test_recording_ends_with_its_block():
    assert not exporting()


# --- the runtime


@pytest.mark.parametrize("latency", LATENCIES)
def test_it_gives_what_torch_gives(exported, latency):
    net, folder = exported
    samples = audio(23)
    expected = by_forward(TorchRuntime(net), samples, latency)
    np.testing.assert_allclose(by_forward(OnnxRuntime(folder), samples, latency), expected, atol=1e-5)


@pytest.mark.parametrize("latency", LATENCIES)
@pytest.mark.parametrize("seed", range(2))
def test_chunks_of_sessions_in_any_company_give_what_the_whole_gives(exported, latency, seed):
    runtime, draw = OnnxRuntime(exported[1]), np.random.default_rng(seed)
    lengths = [23, 0, 7, 1, 16]
    whole = [audio(n, n) for n in lengths]
    expected = [by_forward(runtime, samples, latency) if len(samples) else np.zeros((0, 5)) for samples in whole]
    states, at = [runtime.start(latency) for _ in whole], [0] * len(whole)
    found: list[list[np.ndarray]] = [[] for _ in whole]
    while any(n * FRAME > i for n, i in zip(lengths, at, strict=True)):
        rows = [row for row in range(len(whole)) if draw.random() < 0.7]
        if not rows:
            continue
        chunks = [whole[row][at[row] : at[row] + FRAME * draw.integers(0, 9)] for row in rows]
        frames, after = runtime.step(chunks, [states[row] for row in rows])
        for row, chunk, state, piece in zip(rows, chunks, after, rows_of(frames), strict=True):
            states[row], at[row] = state, at[row] + len(chunk)
            found[row].append(piece)
    for row, piece in enumerate(rows_of(runtime.finish(states))):
        found[row].append(piece)
        np.testing.assert_allclose(np.concatenate(found[row]), expected[row], atol=1e-5)


@pytest.mark.parametrize(("threads", "calls"), [(1, [5]), (2, [3, 2]), (3, [2, 2, 1]), (9, [1] * 5)])
def test_the_rows_of_a_live_step_are_shared_out_among_threads(hydra, threads, calls):
    chunks = [audio(3, seed) for seed in range(5)]
    alone, runtime = OnnxRuntime(hydra[1], threads=1), OnnxRuntime(hydra[1], threads=threads)
    session, seen = runtime._session, []

    class Counted:
        def __init__(self, name):
            self.name = name

        def run(self, names, given):
            seen.append(len(given["state"]))
            return session(self.name).run(names, given)

    runtime._session = Counted
    expected, _ = alone.step(chunks, [alone.start(Latency(3, 3)) for _ in chunks])
    found, _ = runtime.step(chunks, [runtime.start(Latency(3, 3)) for _ in chunks])
    assert sorted(seen) == sorted(2 * calls)  # of the subsampling and of the layers
    np.testing.assert_allclose(found.log_probs, expected.log_probs, atol=1e-5)


def test_old_states_stay_valid(hydra):
    runtime, latency = OnnxRuntime(hydra[1]), Latency(4, 2)
    _, (before,) = runtime.step([audio(9)], [runtime.start(latency)])
    first = rows_of(runtime.step([audio(9, 1)], [before])[0])[0]
    runtime.step([audio(9, 2)], [before])
    again = rows_of(runtime.step([audio(9, 1)], [before])[0])[0]
    np.testing.assert_array_equal(again, first)


def test_a_state_does_not_keep_the_rows_of_others_alive(hydra):
    runtime = OnnxRuntime(hydra[1])
    _, states = runtime.step([audio(9)] * 3, [runtime.start(Latency(4, 2)) for _ in range(3)])
    for state in states:
        for x in (state.features.samples, state.front, state.waiting, state.layers):
            assert x.base is None or x.base.size == x.size


def test_8_bit_weights_change_little(tmp_path):
    pytest.importorskip("onnx")
    net = model()
    assert export(net, "", tmp_path, int8=True).int8
    samples, latency = audio(23), Latency(6, 6)
    found = np.exp(by_forward(OnnxRuntime(tmp_path), samples, latency))
    expected = np.exp(by_forward(TorchRuntime(net), samples, latency))
    assert 1e-6 < np.abs(found - expected).max() < 0.2


# --- refusals


@pytest.mark.parametrize("mixer", ["mamba"])
def test_a_mixer_without_a_graph_is_named_with_those_that_have_one(tmp_path, mixer):
    with pytest.raises(UserError, match=rf"mixer '{mixer}' cannot be exported.*hydra"):
        export(model(mixer), "", tmp_path)


def test_a_head_without_a_graph_is_named(tmp_path, monkeypatch):
    net = model()
    monkeypatch.setattr(type(net.ctc), "exportable", False)
    with pytest.raises(UserError, match=r"head 'ctc' cannot be exported"):
        export(net, "", tmp_path)


def test_a_front_end_without_a_graph_is_named(tmp_path):
    with pytest.raises(UserError, match=r"front end 'chimera' cannot be exported.*model\.front=conv"):
        export(AsrModel(tiny(front="chimera")).eval(), "", tmp_path)


@pytest.mark.parametrize("changes", [{"skip_blanks": 0.9}])
def test_what_depends_on_the_audio_is_refused(tmp_path, changes):
    with pytest.raises(UserError, match=f"model.{next(iter(changes))} cannot be exported"):
        export(model(**changes), "", tmp_path)


def damaged(folder, tmp_path, change):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    change(copy)
    return copy


def about(folder, **changes):
    path = folder / DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / DESCRIPTION).unlink(), "no exported model"),
        (lambda f: (f / DESCRIPTION).write_text("{"), "cannot be read"),
        (lambda f: about(f, format=0), "format 0"),
        (lambda f: about(f, nonsense=1), "cannot be read"),
        (lambda f: (f / BLOCK).unlink(), f"lacks {BLOCK}"),
        (lambda f: (f / BLOCK).write_bytes((f / BLOCK).read_bytes()[:-1]), "damaged"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(hydra, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        OnnxRuntime(damaged(hydra[1], tmp_path, change))


def test_graphs_of_other_weights_are_refused(hydra):
    assert OnnxRuntime(hydra[1], weights="digest of the weights").about.format == 1
    with pytest.raises(UserError, match="other weights"):
        OnnxRuntime(hydra[1], weights="another")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named_with_its_extra_before_anything_is_written(package, tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find_spec(name))
    with pytest.raises(UserError, match=rf"'{package}'.*'\.\[export\]"):
        export(model(), "digest", tmp_path / "graphs")
    assert not (tmp_path / "graphs").exists()
