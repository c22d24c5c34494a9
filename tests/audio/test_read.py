"""Reading audio: any container to mono float32, and what is said about files that are wrong."""

from __future__ import annotations

import fractions
import io
import os
import threading

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.audio.read import AudioError, AudioInfo, info, read, stream
from tests.shared import needs_shared, shared

RATE = 16000
LIBSNDFILE = [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "OPUS"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")]


def tone(seconds: float, rate: int = RATE, channels: int = 1) -> np.ndarray:
    time = np.arange(round(seconds * rate))[:, None] / rate  # (s, 1)
    return (0.5 * np.sin(2 * np.pi * (300 + 100 * np.arange(channels)) * time)).astype(np.float32)  # (s, c)


def encode(samples: np.ndarray, format: str = "WAV", subtype: str | None = None, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format, subtype=subtype)
    return file.getvalue()


def encode_av(samples: np.ndarray, format: str, codec: str, rate: int) -> bytes:
    av = pytest.importorskip("av")
    file = io.BytesIO()
    with av.open(file, "w", format=format) as container:
        out = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, fractions.Fraction(1, rate)
        for packet in (*out.encode(frame), *out.encode(None)):
            container.mux(packet)
    return file.getvalue()


# What comes out


@pytest.mark.parametrize(
    ("subtype", "step"), [("PCM_U8", 2**-7), ("PCM_16", 2**-15), ("PCM_24", 2**-23), ("PCM_32", 2**-24), ("DOUBLE", 0)]
)
def test_every_bit_depth_becomes_float32_in_the_same_scale(subtype, step):
    audio = read(encode(tone(0.1), subtype=subtype))
    assert audio.samples.dtype == np.float32
    assert audio.rate == RATE
    np.testing.assert_allclose(audio.samples, tone(0.1)[:, 0], atol=step + 1e-7)


def test_channels_are_mixed_by_their_mean():
    stereo = tone(0.1, channels=2)
    np.testing.assert_allclose(read(encode(stereo, subtype="FLOAT")).samples, stereo.mean(axis=1), atol=1e-7)


@pytest.mark.parametrize("rate", [8000, 44100])
def test_nothing_is_resampled(rate):
    audio = read(encode(tone(0.5, rate), rate=rate))
    assert (audio.rate, len(audio.samples), audio.duration) == (rate, rate // 2, 0.5)


@pytest.mark.parametrize(("format", "subtype"), LIBSNDFILE)
def test_a_path_bytes_a_file_and_a_pipe_read_alike(tmp_path, format, subtype):
    data = encode(tone(1.0), format, subtype)
    path = tmp_path / "a file.bin"
    path.write_bytes(data)
    end, write = os.pipe()
    writer = threading.Thread(target=lambda: os.fdopen(write, "wb").write(data) and None)
    writer.start()
    with os.fdopen(end, "rb") as pipe, open(path, "rb") as file:
        file.read(7)  # wherever the file stands: it is read from its beginning
        sources = [str(path), path, data, bytearray(data), memoryview(data), file, io.BytesIO(data), pipe]
        results = [read(source).samples for source in sources]
    writer.join()
    assert len(results[0]) == RATE
    for result in results:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize(
    ("format", "codec", "rate"), [("webm", "libopus", 48000), ("mp4", "aac", 16000), ("matroska", "libopus", 48000)]
)
def test_m4a_webm_and_video_containers_are_read_by_pyav(tmp_path, format, codec, rate):
    data = encode_av(tone(2.0, rate), format, codec, rate)
    audio = read(data)
    assert (audio.rate, audio.samples.dtype) == (rate, np.float32)
    assert audio.duration == pytest.approx(2.0, abs=0.1)
    assert np.abs(audio.samples).max() == pytest.approx(0.5, abs=0.1)
    assert info(data).duration == pytest.approx(2.0, abs=0.1)
    (tmp_path / "a").write_bytes(data)
    np.testing.assert_array_equal(read(tmp_path / "a").samples, audio.samples)


def test_samples_outside_the_range_are_clipped():
    loud = np.array([0.5, 1.5, -2.0], np.float32)
    np.testing.assert_array_equal(read(encode(loud, subtype="FLOAT")).samples, np.float32([0.5, 1.0, -1.0]))


def test_a_file_without_samples_is_an_empty_array():
    audio = read(encode(np.zeros((0, 1), np.float32)))
    assert (audio.samples.shape, audio.samples.dtype, audio.rate) == ((0,), np.float32, RATE)


# Parts


@pytest.mark.parametrize(("format", "subtype"), LIBSNDFILE)
def test_a_part_is_that_part_of_the_whole(format, subtype):
    data = encode(tone(2.0), format, subtype)
    whole, part = read(data).samples, read(data, start=0.33, duration=0.5).samples
    assert len(part) == RATE // 2
    np.testing.assert_allclose(part, whole[5280:13280], atol=1e-6)


def test_a_part_of_a_pyav_container_is_that_part_of_the_whole():
    data = encode_av(tone(2.0), "mp4", "aac", RATE)
    np.testing.assert_array_equal(read(data, start=0.33, duration=0.5).samples, read(data).samples[5280:13280])
    assert len(read(data, duration=0.0).samples) == 0


def test_a_part_past_the_end_stops_there_and_one_after_it_is_an_error():
    data = encode(tone(1.0))
    assert read(data, start=0.75, duration=10).duration == 0.25
    with pytest.raises(AudioError, match=r"nothing to read from 2\.0 s on"):
        read(data, start=2.0)


@settings(max_examples=25, deadline=None)
@given(seconds=st.floats(0.001, 2.0), start=st.floats(0.0, 0.9), length=st.integers(0, 5000))
def test_pieces_of_a_stream_concatenated_are_the_whole(seconds, start, length):
    samples = tone(1.0)[:length]
    start = int(start * length) / RATE
    data = encode(samples)
    pieces = list(stream(data, seconds, start=start))
    size = max(1, round(seconds * RATE))
    assert all(len(piece.samples) == size for piece in pieces[:-1])
    assert len(pieces[-1].samples) <= size
    np.testing.assert_array_equal(np.concatenate([p.samples for p in pieces]), read(data, start=start).samples)


@pytest.mark.parametrize(("format", "subtype"), LIBSNDFILE)
def test_a_stream_of_a_lossy_format_has_no_seams(format, subtype):
    data = encode(tone(2.0), format, subtype)
    pieces = [piece.samples for piece in stream(data, 0.13)]
    np.testing.assert_array_equal(np.concatenate(pieces), read(data).samples)


def test_a_pyav_stream_has_pieces_of_the_asked_length():
    data = encode_av(tone(2.0), "mp4", "aac", RATE)
    pieces = [piece.samples for piece in stream(data, 0.3)]
    assert {len(piece) for piece in pieces[:-1]} == {4800}
    np.testing.assert_array_equal(np.concatenate(pieces), read(data).samples)


# What is known without decoding


@pytest.mark.parametrize(("format", "subtype"), LIBSNDFILE)
def test_info_tells_duration_rate_and_channels(format, subtype):
    assert info(encode(tone(1.5, channels=2), format, subtype)) == AudioInfo(1.5, RATE, 2)


# What is said about files that are wrong


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(AudioError, match=r"nowhere\.wav: no such file"):
        read(tmp_path / "nowhere.wav")


def test_a_folder_is_no_audio(tmp_path):
    with pytest.raises(AudioError, match="is a folder"):
        read(tmp_path)


@pytest.mark.parametrize("call", [read, info])
def test_an_empty_file_is_an_error(call):
    with pytest.raises(AudioError, match=r"empty \(0 bytes\)"):
        call(b"")


def test_text_is_no_audio(tmp_path):
    pytest.importorskip("av")
    (tmp_path / "a.wav").write_text("this is not audio\n" * 100)
    with pytest.raises(AudioError, match=r"a\.wav: not audio"):
        read(tmp_path / "a.wav")


def test_a_video_without_sound_is_named(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        out = container.add_stream("mpeg4", rate=25, width=32, height=32, pix_fmt="yuv420p")
        for packet in (*out.encode(av.VideoFrame(32, 32, "yuv420p")), *out.encode(None)):
            container.mux(packet)
    with pytest.raises(AudioError, match=r"a\.mp4: holds no audio, only video"):
        read(tmp_path / "a.mp4")


def test_a_playlist_does_not_open_what_it_names(tmp_path):
    pytest.importorskip("av")
    (tmp_path / "a.wav").write_bytes(encode(tone(0.5)))
    (tmp_path / "a.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.wav\n#EXT-X-ENDLIST\n")
    with pytest.raises(AudioError, match="not audio"):
        read(tmp_path / "a.m3u8")


def test_without_pyav_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(AudioError, match=r"pip install 'samba_asr\[av\]'"):
        read(b"\x1aE\xdf\xa3" + bytes(1000))


def test_headerless_samples_are_refused(tmp_path):
    (tmp_path / "a.raw").write_bytes(bytes(1000))
    with pytest.raises(AudioError, match="without a header"):
        read(tmp_path / "a.raw")


def cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


@pytest.mark.parametrize(("format", "subtype"), [*LIBSNDFILE, ("AIFF", "PCM_16"), ("AU", "PCM_16"), ("RF64", "PCM_16")])
def test_a_truncated_file_is_an_error_that_says_how_much_was_readable(format, subtype):
    with pytest.raises(AudioError, match=r"ends .*: \d+\.\d\d s were readable"):
        read(cut(encode(tone(4.0), format, subtype), 0.6))


@pytest.mark.parametrize("codec", [("matroska", "libopus", 48000), ("mp4", "aac", 16000)])
def test_a_truncated_container_is_an_error(codec):
    with pytest.raises(AudioError):
        read(cut(encode_av(tone(4.0, codec[2]), *codec), 0.6))


@pytest.mark.parametrize("format", ["WAV", "OGG", "AIFF"])
def test_info_sees_a_truncation_that_the_header_tells(format):
    with pytest.raises(AudioError, match="readable"):
        info(cut(encode(tone(4.0), format), 0.6))


def test_the_readable_part_of_a_truncated_wav_can_be_asked_for():
    assert read(cut(encode(tone(4.0)), 0.6), duration=2.0).duration == 2.0


def test_a_wav_whose_size_is_off_by_a_few_bytes_is_read():
    assert len(read(encode(tone(4.0))[:-8]).samples) == 4 * RATE - 4


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000, 0])
def test_a_wav_written_into_a_pipe_is_read_to_its_end(size):
    if size == 0:
        pytest.importorskip("av")
    data = bytearray(encode(tone(1.0)))
    data[4:8] = data[40:44] = size.to_bytes(4, "little")
    np.testing.assert_array_equal(read(bytes(data)).samples, read(encode(tone(1.0))).samples)


def test_a_flac_that_does_not_know_its_length_is_read_to_its_end():
    pytest.importorskip("av")
    data = bytearray(encode(tone(1.0), "FLAC"))
    data[21] &= 0xF0  # STREAMINFO: the 36 bits of total samples
    data[22:26] = bytes(4)
    np.testing.assert_array_equal(read(bytes(data)).samples, read(encode(tone(1.0), "FLAC")).samples)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_an_error_that_names_the_first(bad):
    samples = tone(1.0, channels=2)
    samples[[1600, 3200], 1] = bad
    with pytest.raises(AudioError, match=rf"sample 1600 \(0\.100 s\) is {bad}"):
        read(encode(samples, subtype="FLOAT"))
    with pytest.raises(AudioError, match="sample 1600 "):
        read(encode(samples, subtype="FLOAT"), start=0.05)


def test_integers_in_a_float_file_are_an_error():
    with pytest.raises(AudioError, match="divide them by"):
        read(encode(tone(0.1) * 32768, subtype="FLOAT"))


def test_errors_are_one_line(tmp_path):
    for source in (tmp_path, tmp_path / "x", b"", b"text" * 99, cut(encode(tone(1.0)), 0.5)):
        with pytest.raises(AudioError) as caught:
            read(source)
        assert "\n" not in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_bytes_give_samples_or_an_audio_error_and_nothing_else(data):
    source = bytearray(encode(tone(0.3), data.draw(st.sampled_from(["WAV", "FLAC", "OGG"]))))
    for place in data.draw(st.lists(st.integers(0, len(source) - 1), min_size=1, max_size=8)):
        source[place] = data.draw(st.integers(0, 255))
    try:
        audio = read(bytes(source))
    except AudioError:
        return
    assert np.isfinite(audio.samples).all()
    assert np.abs(audio.samples).max(initial=0) <= 1


@needs_shared("data/LibriSpeech/dev-5h")
def test_opus_speech_is_read():
    path = next(iter(sorted(shared("data/LibriSpeech/dev-5h").rglob("*.opus"))))
    audio = read(path)
    assert audio.rate == RATE
    assert audio.duration == pytest.approx(info(path).duration)
    assert 0.01 < np.abs(audio.samples).max() <= 1
    np.testing.assert_allclose(read(path, start=1.7, duration=1.0).samples, audio.samples[27200:43200], atol=0.01)
