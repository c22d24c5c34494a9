"""Parts of the page that need no browser, run by Node: what is kept of a transcript, and what an edit does to times."""

from __future__ import annotations

import base64
import io
import json
import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from samba_asr.config.decode import HotwordsConfig
from samba_asr.decoding.hotwords import parse
from tests.support.node import node

STATIC = Path(__file__).parents[2] / "serve" / "static"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run JavaScript that sees `given`, and return the value that it leaves in `result`."""
    command = node(18)
    if command is None:
        pytest.skip("no Node of 18 or newer")
    folder = tmp_path_factory.mktemp("page")
    for file in STATIC.glob("*.js"):
        shutil.copy(file, folder)
    (folder / "package.json").write_text('{"type": "module"}')

    def run(code, given=None):
        imports = (
            'import { rewritten, corrected, dressed } from "./editing.js"; import { Transcript, clock } from "./transcript.js"; '
            'import { phrases } from "./settings.js"; import { media } from "./drop.js"; import { Recording } from "./audio.js"; '
        )
        program = (
            f"{imports}const given = {json.dumps(given)}; let result; {code}; console.log(JSON.stringify(result));"
        )
        (folder / "main.js").write_text(program)
        done = subprocess.run([command, "main.js"], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def words(text, start=0.0, each=0.5):
    return [
        {"word": w, "start": start + i * each, "end": start + i * each + 0.4, "confidence": 0.9, "spoken": [w.upper()]}
        for i, w in enumerate(text.split())
    ]


class TestEditing:
    def test_words_that_stay_keep_all_they_have(self, run):
        old = words("we saw the purpose truly")
        new = run("result = rewritten(given, 'We saw the porpoise truly')", old)
        assert [w["word"] for w in new] == ["We", "saw", "the", "porpoise", "truly"]
        assert [new[i] for i in (1, 2, 4)] == [old[i] for i in (1, 2, 4)]
        assert new[3] == {"word": "porpoise", "start": 1.5, "end": 1.9, "spoken": ["PURPOSE"], "edited": True}

    def test_other_numbers_of_words_share_the_time(self, run):
        new = run("result = rewritten(given, 'a blackbird sang')", words("a black bird sang"))
        assert (new[1]["start"], new[1]["end"]) == (0.5, 1.4)
        new = run("result = rewritten(given, 'a new york d')", words("a newyork d"))
        assert [w["word"] for w in new] == ["a", "new", "york", "d"]
        assert (new[1]["start"], new[1]["end"], new[2]["start"], new[2]["end"]) == (0.5, 0.671, 0.671, 0.9)

    def test_any_edit_keeps_order_and_bounds(self, run):
        pick = random.Random(1)
        cases = []
        for _ in range(150):
            old = words(" ".join(pick.choices("abcde", k=pick.randint(1, 12))), start=3.0)
            cases.append([old, " ".join(pick.choices("abcxy", k=pick.randint(0, 12)))])
        for (old, text), new in zip(cases, run("result = given.map(([o, t]) => rewritten(o, t))", cases), strict=True):
            assert [w["word"] for w in new] == text.split()
            times = [time for w in new for time in (w["start"], w["end"])]
            assert times == sorted(times)
            assert all(old[0]["start"] <= time <= old[-1]["end"] for time in times)
            assert all(w in old or w["edited"] for w in new)

    def test_an_alternative_takes_case_and_marks_of_its_word(self, run):
        table = [
            ("PORPOISE", "purpose,", "porpoise,"),
            ("PORPOISE", "Purpose", "Porpoise"),
            ("PORPOISE", "PURPOSE.", "PORPOISE."),
            ("McDonald", "macdonald.", "McDonald."),
            ("A", "I", "A"),
            ("TWO", "2", "two"),
        ]
        code = "result = given.map(([text, like]) => dressed(text, like))"
        assert run(code, table) == [expected for _, _, expected in table]


class TestTranscript:
    def test_pauses_and_long_ones_at_a_sentence_begin_paragraphs(self, run):
        segments = [
            words("one two."),
            words("three.", 1.6),
            words("four.", 5.0),
            words("five. " * 70, 6.0),
            words("six.", 45.0),
        ]
        code = """
        const t = new Transcript("a"); given.forEach((words) => t.add({ words }));
        result = t.paragraphs.map((paragraph) => paragraph.words.length)
        """
        assert run(code, segments) == [3, 71, 1]

    def test_a_second_session_counts_on(self, run):
        code = "const t = new Transcript('a'); t.add({ words: given }, 10); t.add({ words: [] }); result = t.words"
        assert [w["start"] for w in run(code, words("a b"))] == [10.0, 10.5]

    def test_words_that_come_during_an_edit_are_not_lost(self, run):
        code = """
        const t = new Transcript("a"); const p = t.add({ words: given[0] });
        p.editing = true; t.add({ words: given[1] }); p.editing = false;
        t.replace(p, rewritten(p.words, "one too")); const edited = t.text;
        t.add({ words: given[2] }); t.undo(); result = [edited, t.text, t.undo()]
        """
        given = [words("one two"), words("three", 1.2), words("four", 1.8)]
        assert run(code, given) == ["one too\n\nthree", "one two\n\nthree four", None]

    def test_a_paragraph_without_words_goes_and_comes_back(self, run):
        code = """
        const t = new Transcript("a"); given.forEach((words) => t.add({ words }));
        t.replace(t.paragraphs[1], []); const gone = t.text; t.undo(); result = [gone, t.text]
        """
        given = [words("a"), words("b", 9.0), words("c", 20.0)]
        assert run(code, given) == ["a\n\nc", "a\n\nb\n\nc"]

    def test_an_undone_edit_keeps_what_was_heard_since(self, run):
        code = """
        const t = new Transcript("a"); const p = t.add({ words: given[0] });
        t.replace(p, rewritten(p.words, "one")); t.add({ words: given[1] }); t.undo(); result = t.text
        """
        assert run(code, [words("one two"), words("three", 1.2)]) == "one two three"

    def test_json_is_that_of_transcribe(self, run):
        data = run(
            "const t = new Transcript('a.wav'); t.add({ words: given }); t.seconds = 2; result = t.data",
            words("Yes. No."),
        )
        assert data["text"] == "Yes. No."
        assert data["segments"] == [{"text": "Yes. No.", "start": 0, "end": 0.9}]
        assert data["spoken"] == {"text": "YES. NO."}
        assert (data["audio"], data["duration"], data["words"]) == ("a.wav", 2, words("Yes. No."))

    def test_clock(self, run):
        assert run("result = given.map(clock)", [0, 59.9, 60, 3599, 3600.2, 36125]) == [
            *("0:00", "0:59", "1:00", "59:59", "1:00:00", "10:02:05")
        ]


def test_hotwords_are_read_as_the_service_reads_them(run):
    for lines in (["Anne Bronte", "# no", "", "Keats"], ["Anne Bronte :3", "Keats", "KAT = K AE T : 2.5", "Low :-1"]):
        found, weight = run("result = phrases(given)", "\n".join(lines)), HotwordsConfig().weight
        assert (found if isinstance(found, dict) else dict.fromkeys(found, weight)) == parse(lines, weight)


def test_media_files_of_a_folder_in_order(run):
    names = ["talk 10.mp3", "notes.txt", "talk 9.WAV", "film.mkv", ".DS_Store"]
    code = "result = media(given.map((name) => ({ name, type: '' }))).map((file) => file.name)"
    assert run(code, names) == ["film.mkv", "talk 9.WAV", "talk 10.mp3"]
    assert run(code, ["speech"]) == ["speech"]  # a file that was chosen by itself


def test_a_recording_is_a_wav_file_and_gives_any_part(run, tmp_path):
    code = """
    const r = new Recording(8000);
    for (let i = 0; i < 25; i++) r.add(Float32Array.from({ length: 8000 }, (_, n) => Math.sin(n + i)));
    const bytes = new Uint8Array(await r.file.arrayBuffer());
    result = { wav: Buffer.from(bytes).toString("base64"), part: [...(await r.slice(9.9, 10.1))], seconds: r.seconds }
    """
    found = run(code)
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(found["wav"])), dtype="float32")
    true = np.concatenate([np.sin(np.arange(8000) + i) for i in range(25)])
    assert (rate, len(samples), found["seconds"]) == (8000, 200_000, 25)
    np.testing.assert_allclose(samples, true, atol=2 / 32768)
    np.testing.assert_allclose(found["part"], true[79_200:80_800], atol=2 / 32768)
