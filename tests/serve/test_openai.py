"""OpenAI's own client: it gets texts, and an exception with the reason for whatever fails."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("websockets")
openai = pytest.importorskip("openai")

# ruff: noqa: E402
from samba_asr.errors import UserError
from tests.support.service import serving
from tests.support.sound import encoded, noise


@pytest.fixture
def service(recognizer):
    with serving(recognizer, tokens=("secret",), max_uploads=1, max_upload_bytes=1 << 20) as service:
        yield service


@pytest.fixture
def client(service):
    with openai.OpenAI(base_url=f"http://127.0.0.1:{service.port}/v1", api_key="secret", max_retries=0) as client:
        yield client


def test_models(client):
    assert [model.id for model in client.models.list()] == ["toy"]
    assert client.models.retrieve("toy").id == "toy"
    with pytest.raises(openai.NotFoundError, match="model none: this service has toy") as error:
        client.models.retrieve("none")
    assert (error.value.code, error.value.param) == ("model_not_found", "model")


def test_texts(client, recognizer):
    file = encoded(noise(3.0))
    text = recognizer.transcribe(file).text
    assert client.audio.transcriptions.create(model="toy", file=("a.wav", file)).text == text
    events = list(client.audio.transcriptions.create(model="toy", file=("a.wav", file), stream=True))
    assert events[-1].text == text


def test_fields_that_are_heeded_and_those_that_are_refused(client):
    def create(**changes):
        return client.audio.transcriptions.create(
            **{"model": "toy", "file": ("talk.wav", encoded(noise(2.0)))} | changes
        )

    assert create(model="whisper-1", language="en").text == create().text != ""
    with pytest.raises(openai.NotFoundError, match="model nope: this service has toy"):
        create(model="nope")
    with pytest.raises(openai.BadRequestError, match="language de: this service transcribes English") as error:
        create(language="de")
    assert error.value.param == "language"
    with pytest.raises(openai.NotFoundError, match="does not translate"):
        client.audio.translations.create(model="toy", file=("a.wav", b"x"))
    with pytest.raises(openai.BadRequestError, match=r"talk\.wav: not audio"):
        create(file=("talk.wav", b"rubbish"))
    both = create(response_format="verbose_json")
    for segment in both.segments:
        assert segment.avg_logprob < 0
        assert segment.compression_ratio > 0
        assert (segment.no_speech_prob, segment.tokens) == (0.0, [])
    assert [w.word for w in both.words] == both.text.split()
    for part, other in (("word", "segments"), ("segment", "words")):
        one = create(response_format="verbose_json", timestamp_granularities=[part])
        assert getattr(one, f"{part}s") == getattr(both, f"{part}s")
        assert getattr(one, other) is None


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_known_at_once_is_an_http_error(client, stream):
    def create(file=b"rubbish", **changes):
        return client.audio.transcriptions.create(model="toy", file=("a.wav", file), stream=stream, **changes)

    with pytest.raises(openai.BadRequestError, match=r"the file cannot be read: .*not audio") as error:
        create()
    assert (error.value.type, error.value.param) == ("invalid_request_error", "file")
    with pytest.raises(openai.BadRequestError, match="multiple of 40 ms"):
        create(encoded(noise(0.5)), extra_body={"latency_ms": 50})
    with pytest.raises(openai.UnprocessableEntityError, match="response_format: ") as error:
        create(response_format="xml")
    assert error.value.param == "response_format"
    with pytest.raises(openai.APIStatusError, match="larger than the limit for files") as error:
        create(bytes(3 << 20))
    assert (error.value.status_code, error.value.code) == (413, "file_too_large")


def test_what_fails_later_is_an_exception_too(client, recognizer, monkeypatch):
    segment = recognizer.transcribe(encoded(noise(1.0))).segments[0]

    def broken(self, source, *, on_segment, **_):
        on_segment(segment)
        raise UserError("planted") if source.read(4) == b"RIFF" else ValueError("secret")

    monkeypatch.setattr(type(recognizer), "transcribe", broken)
    for file, message in ((encoded(noise(1.0)), "planted"), (b"other", "internal error")):
        events = iter(client.audio.transcriptions.create(model="toy", file=("a.wav", file), stream=True))
        assert next(events).delta == segment.text
        with pytest.raises(openai.APIError, match=message):
            next(events)


def test_what_is_our_fault(client, recognizer, monkeypatch):
    def broken(*_, **__):
        raise ValueError("secret")

    monkeypatch.setattr(type(recognizer), "transcribe", broken)
    with pytest.raises(openai.InternalServerError, match="internal error") as error:
        client.audio.transcriptions.create(model="toy", file=("a.wav", b"x"))
    assert (error.value.type, "secret" in str(error.value)) == ("server_error", False)


def test_no_room_and_no_token(client, service):
    service.server.app.state.uploads.free = 0
    with pytest.raises(openai.InternalServerError, match="all places for files are taken") as full:
        client.audio.transcriptions.create(model="toy", file=("a.wav", b"x"))
    assert (full.value.status_code, full.value.response.headers["retry-after"]) == (503, "5")
    with pytest.raises(openai.AuthenticationError, match="a bearer token is needed"):
        client.with_options(api_key="wrong").models.list()


def test_a_body_of_unknown_length_that_is_too_large(service):
    httpx = pytest.importorskip("httpx")
    headers = {"Authorization": "Bearer secret", "Content-Type": "multipart/form-data; boundary=b"}
    with httpx.Client(base_url=f"http://127.0.0.1:{service.port}", headers=headers) as client:
        head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        answer = client.post("/v1/audio/transcriptions", content=iter([head, *[bytes(1 << 18)] * 12]))
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "file_too_large")


def test_other_routes_keep_their_form(service):
    httpx = pytest.importorskip("httpx")
    with httpx.Client(
        base_url=f"http://127.0.0.1:{service.port}", headers={"Authorization": "Bearer secret"}
    ) as client:
        assert client.get("/nothing").json() == {"detail": "there is nothing at this address"}
        assert client.post("/v1/transcribe/stream?latency_ms=50").json()["detail"].startswith("latency of 50 ms")
        assert "error" in client.get("/v1/audio/nothing").json()
