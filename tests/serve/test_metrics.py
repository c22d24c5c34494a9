"""How long clients wait, as operators see it."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
parser = pytest.importorskip("prometheus_client.parser")

# ruff: noqa: E402
from samba_asr.decoding.transcript import Segment
from samba_asr.engine import Done, Final, Flushed, Partial, Quiet
from samba_asr.serve import metrics
from tests.serve.front import pcm, until
from tests.support.sound import noise


def values(client) -> dict[str, float]:
    """Of the one model, by name."""
    text = client.get("/metrics").text
    return {
        s.name: s.value for f in parser.text_string_to_metric_families(text) for s in f.samples if "le" not in s.labels
    }


def test_a_session_shows_in_every_histogram(start):
    client = start()
    with client.websocket_connect("/v1/stream") as socket:
        socket.send_bytes(pcm(noise(3.0)))
        until(socket, "partial")
        socket.send_json({"type": "flush"})
        until(socket, "flushed")
        socket.send_bytes(pcm(noise(1.0)))
        socket.send_json({"type": "stop"})
        until(socket, "done")
    found = values(client)
    assert found["samba_asr_first_partial_seconds_count"] == 1
    assert found["samba_asr_final_after_order_seconds_count"] == 2
    assert found["samba_asr_final_after_speech_seconds_count"] >= 2
    assert found["samba_asr_audio_lag_seconds_count"] >= 3
    assert found["samba_asr_finals_total"] >= 2
    assert found["samba_asr_final_seconds_total"] > 0
    assert found["samba_asr_step_duration_seconds_count"] == found["samba_asr_steps_total"] > 0
    assert found["samba_asr_step_duration_seconds_sum"] == pytest.approx(
        found["samba_asr_step_seconds_total"], abs=1e-3
    )


class TestTiming:
    @pytest.fixture
    def seen(self, monkeypatch):
        """A session's timing, its clock, and what it observes."""
        now, found = [100.0], []

        class Histogram:
            def __init__(self, name):
                self.name = name

            def labels(self, model):
                return self

            def observe(self, seconds):
                found.append((self.name, round(seconds, 3)))

        class All:
            def __getattr__(self, name):
                return Histogram(name)

        monkeypatch.setattr(metrics.time, "monotonic", lambda: now[0])
        return metrics.Timing(All(), "m"), now, found

    def test_the_two_latencies_of_a_final(self, seen):
        timing, now, found = seen
        for second in range(1, 6):  # speech for two seconds, then a pause
            now[0] = 100.0 + second
            timing.received(float(second))
        now[0] = 105.3
        timing.event(Final(Segment("A", 0.2, 1.9, (), 4.0)), None)
        assert found == [("final_after_speech", 3.3)]  # its last sound had come at 102
        found.clear()
        timing.ordered()
        now[0] = 105.4
        timing.event(Final(Segment("B", 4.1, 4.8, (), 5.0)), None)
        now[0] = 105.9
        timing.event(Flushed(""), None)
        assert found == [("final_after_speech", 0.4), ("final_after_order", 0.1)]

    def test_an_order_that_brings_no_text_is_not_counted(self, seen):
        timing, now, found = seen
        timing.received(1.0)
        timing.event(Final(Segment("A", 0.2, 0.9, (), 1.0)), None)
        found.clear()
        now[0] += 1
        timing.ordered()
        timing.event(Quiet(1.0), None)
        timing.event(Done(1.0), None)
        assert found == []

    def test_the_first_partial_counts_once(self, seen):
        timing, now, found = seen
        timing.received(0.1)
        now[0] += 0.7
        for text in ("A", "A B"):
            timing.event(Partial(text, "", 0.1), None)
        assert found == [("first_partial", 0.7)]
