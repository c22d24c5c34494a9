"""Reading audio: any container to mono float32, and what is said about files that are wrong."""

from __future__ import annotations

import contextlib
import io
import os
import re
import threading

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.audio.read import Audio, AudioError, AudioInfo, Truncated, info, read, stream
from tests.audio.sounds import RATE, encode, encode_av, tone
from tests.shared import needs_shared, shared

LIBSNDFILE = [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "OPUS"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")]


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


# To its end


def erased(mp3: bytes) -> bytes:
    """Without the header in which an encoder says how many frames follow."""
    return mp3.replace(b"Xing", bytes(4)).replace(b"Info", bytes(4))


def test_an_mp3_whose_header_tells_no_frames_is_read_until_its_decoder_ends():
    loud = np.random.default_rng(0).normal(0, 0.2, 3 * RATE).astype(np.float32)
    sound = np.concatenate([loud, 0.001 * loud, 0.001 * loud])
    data = bytearray()
    file = io.BytesIO()
    soundfile.write(file, sound, RATE, format="MP3", bitrate_mode="VARIABLE", compression_level=0.3)
    data = erased(file.getvalue())
    assert read(data).duration == pytest.approx(9.0, abs=0.2)
    assert info(data).duration == pytest.approx(9.0, abs=0.2)


@pytest.mark.parametrize(("format", "subtype"), [("MP3", "MPEG_LAYER_III"), ("OGG", "OPUS"), ("OGG", "VORBIS")])
def test_files_joined_end_to_end_are_read_to_the_last(format, subtype):
    audio = read(encode(tone(1.0), format, subtype) + encode(tone(1.5), format, subtype))
    assert audio.duration == pytest.approx(2.5, abs=0.2)


@needs_shared("cases")
def test_the_mp3_that_was_cut_at_2_84_s_is_whole():
    assert 4.9 < read(shared("cases/m_vbr_noxing.mp3")).duration < 5.0
    assert 4.9 < info(shared("cases/m_vbr_noxing.mp3")).duration < 5.0


def test_decoders_write_nothing_on_standard_error(capfd):
    mp3 = encode(tone(4.0), "MP3")
    for data in (mp3, cut(mp3, 0.6), mp3[100:], bytes(100) + mp3, b"RIFF" + mp3, cut(encode(tone(1.0), "FLAC"), 0.5)):
        with contextlib.suppress(AudioError):
            read(data)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["zeros.mp3", "ZEROS.MP3"])
def test_a_file_that_is_mp3_by_its_name_alone_writes_nothing_on_standard_error(tmp_path, capfd, name):
    (tmp_path / name).write_bytes(bytes(9000))
    with pytest.raises(AudioError, match="not audio"):
        read(tmp_path / name)
    (tmp_path / name).write_bytes(encode(tone(1.0), "WAV"))
    assert read(tmp_path / name).duration == 1.0
    assert capfd.readouterr().err == ""


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
    (tmp_path / "a.wav").write_text("this is not audio\n" * 100)
    with pytest.raises(AudioError, match=r"a\.wav: not audio"):
        read(tmp_path / "a.wav")


def test_a_video_without_sound_is_named(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        out = container.add_stream("mpeg4", rate=25, width=32, height=32, pix_fmt="yuv420p")
        for packet in (*out.encode(av.VideoFrame(32, 32, "yuv420p")), *out.encode(None)):
            container.mux(packet)
    with pytest.raises(AudioError, match=r"a\.mp4: holds no audio, only video"):
        read(tmp_path / "a.mp4")


def test_a_playlist_does_not_open_what_it_names(tmp_path):
    (tmp_path / "a.wav").write_bytes(encode(tone(0.5)))
    (tmp_path / "a.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.wav\n#EXT-X-ENDLIST\n")
    with pytest.raises(AudioError, match="not audio"):
        read(tmp_path / "a.m3u8")


def test_headerless_samples_are_refused(tmp_path):
    (tmp_path / "a.raw").write_bytes(bytes(1000))
    with pytest.raises(AudioError, match="without a header"):
        read(tmp_path / "a.raw")


def cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


def readable(source: bytes) -> tuple[list[Audio], Truncated | None]:
    """The pieces that come, and the error after them."""
    pieces = []
    try:
        pieces.extend(stream(source, 0.25))
    except Truncated as error:
        return pieces, error
    return pieces, None


def noise(seconds: float, rate: int = RATE) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, (round(seconds * rate), 1)).astype(np.float32)


CUT = [
    *(pytest.param(lambda f=f, t=t: encode(noise(4.0), f, t), id=f"{f}-{t}") for f, t in LIBSNDFILE),
    *(pytest.param(lambda f=f: encode(noise(4.0), f, "PCM_16"), id=f) for f in ("AIFF", "AU", "RF64", "CAF", "SVX")),
    *(
        pytest.param(lambda c=c: encode_av(noise(4.0, c[2]), *c), id="-".join(c[:2]))
        for c in (
            ("matroska", "libopus", 48000),
            ("webm", "libopus", 48000),
            ("matroska", "flac", 16000),
            ("mp4", "aac", 16000),
            ("adts", "aac", 16000),
            ("flv", "aac", 44100),
            ("avi", "mp2", 44100),
        )
    ),
]


@pytest.mark.parametrize("share", [0.6, 0.84])
@pytest.mark.parametrize("whole", CUT)
def test_of_a_truncated_file_comes_what_was_before_the_cut_then_an_error_with_its_true_position(whole, share):
    data = whole()
    expected = read(data).samples
    pieces, error = readable(cut(data, share))
    assert re.search(r"ends .*: \d+\.\d\d s were readable", str(error))
    got, rate = np.concatenate([piece.samples for piece in pieces]), pieces[0].rate
    assert error.seconds == pytest.approx(len(got) / rate, abs=0.01)
    assert share * 4 - 1.1 < len(got) / rate < share * 4 + 0.2  # less by an Ogg page, or by what an encoder holds
    np.testing.assert_allclose(got[: -rate // 10], expected[: len(got)][: -rate // 10], atol=0.01)


@pytest.mark.parametrize("share", [0.5, 0.6, 0.7])
def test_of_a_truncated_stream_that_promises_nothing_comes_what_was_before_the_cut(share):
    pieces, error = readable(cut(encode_av(noise(4.0, 48000), "mpegts", "aac", 48000), share))
    seconds = sum(piece.duration for piece in pieces)
    assert seconds == pytest.approx(4 * share, abs=0.2)
    assert error is None or error.seconds == pytest.approx(seconds, abs=0.01)


def test_an_mp4_that_lost_its_index_says_that_nothing_is_readable():
    data = encode_av(tone(4.0), "mp4", "aac", 16000, options={"movflags": "-faststart"})
    with pytest.raises(Truncated, match=r"needed to open it: 0\.00 s"):
        read(cut(data, 0.6))


@pytest.mark.parametrize(("format", "codec"), [("mpegts", "aac"), ("matroska", "libopus")])
def test_damage_in_the_middle_loses_a_packet_or_is_an_error_with_its_position(format, codec):
    data = bytearray(encode_av(tone(4.0, 48000), format, codec, 48000))
    data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    pieces, error = readable(bytes(data))
    assert error is None or 1.0 < error.seconds < 2.6
    assert sum(piece.duration for piece in pieces) > 1.0


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
    data = bytearray(encode(tone(1.0)))
    data[4:8] = data[40:44] = size.to_bytes(4, "little")
    np.testing.assert_array_equal(read(bytes(data)).samples, read(encode(tone(1.0))).samples)


def test_a_flac_that_does_not_know_its_length_is_read_to_its_end():
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


# Channels that cancel each other


def opposite(seconds: float, **kwargs) -> np.ndarray:
    sound = tone(seconds)
    return np.concatenate([sound, -0.9 * sound], axis=1)


def test_channels_of_opposite_phase_are_not_mixed_to_silence(caplog):
    data = encode(opposite(2.0), subtype="FLOAT")
    np.testing.assert_array_equal(read(data).samples, tone(2.0)[:, 0])
    assert "opposite phase" in caplog.text
    assert caplog.text.count("\n") == 1


def test_where_the_mix_holds_it_is_kept():
    loud, quiet = tone(1.0), np.zeros((RATE, 1), np.float32)
    for channels in ([loud, quiet], [loud, -0.5 * loud], [loud, tone(1.0, channels=2)[:, 1:]], [quiet, quiet]):
        block = np.concatenate(channels, axis=1)
        np.testing.assert_allclose(read(encode(block, subtype="FLOAT")).samples, block.mean(axis=1), atol=1e-7)


def test_only_the_windows_that_cancel_change():
    data = encode(np.concatenate([tone(1.0, channels=2), opposite(1.0), tone(1.0, channels=2)]), subtype="FLOAT")
    samples = read(data).samples
    np.testing.assert_allclose(samples[:RATE], tone(1.0, channels=2).mean(axis=1), atol=1e-7)
    np.testing.assert_array_equal(samples[RATE : 2 * RATE], tone(1.0)[:, 0])


@settings(max_examples=25, deadline=None)
@given(seconds=st.floats(0.001, 2.0), start=st.integers(0, 3 * RATE - 1), length=st.integers(1, 3 * RATE))
def test_neither_pieces_nor_parts_change_what_is_taken(seconds, start, length):
    data = encode(np.concatenate([tone(0.9, channels=2), opposite(1.2), tone(0.9, channels=2)]), subtype="FLOAT")
    whole = read(data).samples
    part = [p.samples for p in stream(data, seconds, start=start / RATE, duration=length / RATE)]
    np.testing.assert_array_equal(np.concatenate(part), whole[start : start + length])


def test_damage_after_a_part_does_not_touch_it():
    data = cut(encode(opposite(4.0)), 0.6)  # up to 2.4 s
    assert read(data, duration=2.3).duration == 2.3
    samples = tone(1.0, channels=2)
    samples[5000, 1] = np.nan
    assert read(encode(samples, subtype="FLOAT"), duration=0.3).duration == 0.3


@needs_shared("cases")
def test_the_case_of_opposite_phase_is_the_sound_itself():
    np.testing.assert_allclose(
        read(shared("cases/s_inverted.wav")).samples, read(shared("cases/base.wav")).samples, atol=1e-4
    )


# Rates


@pytest.mark.parametrize("rate", [1, 999, 800_000, 2**31 - 1])
def test_rates_that_are_no_audio_are_refused(rate):
    data = bytearray(encode(tone(0.1)))
    data[24:28] = rate.to_bytes(4, "little")
    with pytest.raises(AudioError, match=r"1 to 768 kHz|not audio"):
        info(bytes(data))
