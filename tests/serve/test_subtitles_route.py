"""`POST /v1/subtitles`: the lines of `samba-asr transcribe`, for words that a person may have corrected."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from samba_asr.formats import Style, render
from samba_asr.serve import subtitles
from samba_asr.subtitles import Layout
from tests.support.sound import encoded, noise


@pytest.fixture
def client(start):
    return start()


@pytest.fixture
def result(recognizer):
    return recognizer.transcribe(encoded(noise(4.0)))


def words(result):
    return [word.entry() for word in result.words]  # with fields that the route does not need


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_it_gives_what_transcribe_gives(client, result, form):
    answer = client.post("/v1/subtitles", json={"words": words(result), "format": form})
    assert answer.text == render(result, "a.wav", form) + "\n"
    assert answer.headers["content-type"].startswith(subtitles.MEDIA[form])


def test_limits_and_word_times(client, result):
    options = {"max_line_width": 14, "max_lines": 1, "max_duration": 3.0, "word_timestamps": True}
    answer = client.post("/v1/subtitles", json={"words": words(result), "format": "vtt", **options})
    style = Style(layout=Layout(max_line_width=14, max_lines=1, max_duration=3.0), word_timestamps=True)
    assert answer.text == render(result, "a.wav", "vtt", style) + "\n"


def test_words_of_two_sources_are_put_in_order(client):
    given = [{"word": "b", "start": 5.0, "end": 5.4}, {"word": "a", "start": 1.0, "end": 1.3}]
    answer = client.post("/v1/subtitles", json={"words": given})
    assert [line for line in answer.text.split("\n") if line.isalpha()] == ["a", "b"]
    assert client.post("/v1/subtitles", json={"words": [], "format": "vtt"}).text == "WEBVTT\n"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"words": [{"word": "a", "start": -1, "end": 1}]}, 422),
        ({"words": [{"word": "", "start": 0, "end": 1}]}, 422),
        ({"words": [{"word": "a" * 201, "start": 0, "end": 1}]}, 422),
        ({"words": [], "format": "ass"}, 422),
        ({"words": [], "max_lines": 0}, 422),
        ({"words": [], "colour": "red"}, 422),
        ({"words": [], "min_duration": 9}, 400),
        ({}, 422),
    ],
)
def test_what_it_cannot_make_is_one_error(client, body, status):
    answer = client.post("/v1/subtitles", json=body)
    assert answer.status_code == status
    assert answer.json()["detail"]


def test_its_bounds(client, monkeypatch):
    assert client.post("/v1/subtitles", content=b" " * (subtitles.MOST_BYTES + 1)).status_code == 413
    one = {"word": "a", "start": 0, "end": 1}
    assert client.post("/v1/subtitles", json={"words": [one] * (subtitles.MOST_WORDS + 1)}).status_code == 422

    class Taken:
        def locked(self):
            return True

    monkeypatch.setattr(subtitles, "one_at_a_time", Taken())
    full = client.post("/v1/subtitles", json={"words": [one]})
    assert (full.status_code, full.headers["retry-after"]) == (503, "5")


def test_it_asks_for_the_token(start):
    client = start(tokens=("secret",))
    assert client.post("/v1/subtitles", json={"words": []}).status_code == 401


def test_its_documentation_has_its_types_and_its_errors(client):
    said = client.get("/openapi.json").json()["paths"]["/v1/subtitles"]["post"]["responses"]
    assert set(said["200"]["content"]) == set(subtitles.MEDIA.values())
    answer = client.post("/v1/subtitles")
    assert answer.status_code == 422
    assert set(answer.json()) == set(said["422"]["content"]["application/json"]["schema"]["properties"])


@pytest.mark.parametrize("field", [{"word_timestamps": 0}, {"max_lines": "2"}, {"max_lines": True}, {"max_cps": "17"}])
def test_values_have_the_documented_types(client, result, field):
    assert client.post("/v1/subtitles", json={"words": words(result), **field}).status_code == 422
    assert client.post("/v1/subtitles", json={"words": words(result), "max_cps": 17}).status_code == 200
    late = {"words": [{"word": "A", "start": "1.0", "end": 2}]}
    assert client.post("/v1/subtitles", json=late).status_code == 422
