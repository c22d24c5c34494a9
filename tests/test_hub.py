"""Models on a hub, by a stand-in of its HTTP on this machine: what is taken, what is refused, and what is uploaded."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

huggingface_hub = pytest.importorskip("huggingface_hub")

# ruff: noqa: E402
from omegaconf import OmegaConf

from samba_asr import hub
from samba_asr.errors import UserError
from samba_asr.models.box import box_folder
from samba_asr.recognizer import Recognizer
from tests.support.model_folder import make_model
from tests.support.sound import noise

SHA = {"main": "a" * 40, "v1": "b" * 40}


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's HTTP that downloads and commits use."""

    def log_message(self, *_) -> None:
        pass

    def answer(self, body: bytes, status: int = 200, **headers) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def give(self, found, status: int = 200) -> None:
        self.answer(json.dumps(found).encode(), status, Content_Type="application/json")

    def do_GET(self) -> None:
        path, files = self.path.partition("?")[0], self.server.files
        self.server.asked.append(path)
        if found := re.fullmatch(r"/api/models/me/model(?:/revision/(.+))?", path):
            sha = {**SHA, **{sha: sha for sha in SHA.values()}}.get(found[1] or "main")
            found = {"id": "me/model", "sha": sha, "siblings": []}
            return self.give(found if sha else {"error": "no revision"}, 200 if sha else 404)
        if path.startswith("/api/models/me/model/tree/"):
            return self.give(
                [
                    {"type": "file", "path": name, "size": self.server.sizes.get(name, len(data)), "oid": "0" * 40}
                    for name, data in files.items()
                ]
            )
        if found := re.fullmatch(r"/me/model/resolve/(\w+)/(.+)", path):
            data = files[found[2]]
            etag, size = hashlib.sha1(data).hexdigest(), self.server.sizes.get(found[2], len(data))
            return self.answer(data, ETag=f'"{etag}"', X_Repo_Commit=found[1], X_Linked_Size=size)
        self.give({"error": "not found"}, 404)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posted[self.path] = body
        if self.path == "/api/repos/create":
            return self.give({"url": f"http://{self.headers['Host']}/me/model", "id": "me/model", "name": "me/model"})
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            return self.give(
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
            )
        self.give(
            {"commitUrl": f"http://{self.headers['Host']}/me/model/commit/1", "commitOid": "1" * 40, "success": True}
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("hub") / "model")


@pytest.fixture
def service(folder, tmp_path, monkeypatch):
    """A hub that holds the model, and a few things that are none of it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files = {p.name: p.read_bytes() for p in folder.iterdir()}
    server.files |= {"pytorch_model.bin": b"\x80\x04 a pickle", "run.py": b"import os", "graph.onnx": b"x"}
    server.sizes, server.asked, server.posted = {}, [], {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    yield server
    server.shutdown()
    server.server_close()


def text(recognizer) -> str:
    return recognizer.recognize(noise(1.0)).text


def test_a_model_of_the_hub_is_the_model_of_the_folder(service, folder):
    assert text(Recognizer.load("hf:me/model")) == text(Recognizer.load(folder)) != ""


def test_commands_take_a_model_of_the_hub_unless_they_write_into_it(service):
    assert hub.model_folder("hf:me/model") == hub.fetch("hf:me/model")
    assert hub.model_folder("digits") == box_folder("digits")
    with pytest.raises(UserError, match="hf:me/model: calibrate writes into the model's folder"):
        hub.model_folder("hf:me/model", writes="calibrate")


def test_only_files_of_a_model_are_taken(service, folder):
    found = hub.fetch("hf:me/model@v1")
    assert {p.name for p in found.iterdir()} == {p.name for p in folder.iterdir()}
    assert not [path for path in service.asked if path.endswith((".bin", ".py", ".onnx"))]
    assert [path for path in service.asked if "resolve" in path and SHA["v1"] not in path] == []


def test_without_a_network_the_cache_serves(service):
    first = hub.fetch("hf:me/model")
    service.shutdown()
    service.server_close()
    assert hub.fetch("hf:me/model") == first
    with pytest.raises(UserError, match="hf:me/model@v1: "):
        hub.fetch("hf:me/model@v1")


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("config.yaml", None, "no config.yaml"),
        ("config.yaml", 2 << 20, "config.yaml has 2097152 bytes"),
        ("config.yaml", ("lm.path", "/etc/passwd"), "/etc/passwd, which is outside"),
        ("config.yaml", ("lm.path", "../../lm.ngram"), "lm.ngram, which is outside"),
        ("config.yaml", ("runtime.graphs", "graphs"), "names graphs"),
        ("lm.ngram", b"mmap lm http://kheafield.com/code format version 5\n\0", "KenLM's binary"),
    ],
)
def test_a_model_that_reaches_out_is_refused(service, name, change, problem):
    if change is None:
        del service.files[name]
    elif isinstance(change, int):
        service.sizes[name] = change
    elif isinstance(change, tuple):
        tree = OmegaConf.create(service.files[name].decode())
        OmegaConf.update(tree, f"decode.{change[0]}", change[1])
        service.files[name] = OmegaConf.to_yaml(tree).encode()
    else:
        service.files[name] = change
    with pytest.raises(UserError, match=problem):
        hub.fetch("hf:me/model")


@pytest.mark.parametrize("address", ["hf:", "hf:model", "hf:me/model@", "hf:me/../x", "hf:a/b/c", "hf:me/model@../x"])
def test_addresses_that_make_no_sense(address):
    with pytest.raises(UserError, match="hf:ORG/NAME"):
        Recognizer.load(address)


def test_a_revision_that_does_not_exist(service):
    with pytest.raises(UserError, match="hf:me/model@v9: "):
        hub.fetch("hf:me/model@v9")


def test_push_uploads_the_files_of_a_model_and_a_card(service, folder, tmp_path):
    own = shutil.copytree(folder, tmp_path / "model")
    (own / "secret.env").write_text("x")
    (own / "results.json").write_text(json.dumps({"test-5h": {"wer": 12.894}}))
    hub.push(own, "me/model", license="cc-by-4.0", private=True)
    assert json.loads(service.posted["/api/repos/create"])["visibility"] == "private"
    lines = [json.loads(line) for line in service.posted["/api/models/me/model/commit/main"].splitlines()]
    files = {
        line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"
    }
    assert files.keys() == {p.name for p in folder.iterdir()}
    assert files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    head, _, rest = files["README.md"].decode().removeprefix("---\n").partition("\n---\n")
    assert rest.strip() == (folder / "README.md").read_text().strip()
    about = huggingface_hub.ModelCard(files["README.md"].decode()).data
    assert (about.license, about.pipeline_tag, about.library_name) == (
        "cc-by-4.0",
        "automatic-speech-recognition",
        "samba_asr",
    )
    assert "value: 12.89" in head


@pytest.mark.parametrize(
    ("stated", "found"),
    [
        ("CC BY 4.0, as english, from which it was made; its data may add conditions", "cc-by-4.0"),
        ("CC0", "cc0-1.0"),
        ("Apache-2.0", "apache-2.0"),
        ("all rights reserved", None),
        ("", None),
    ],
)
def test_the_head_of_a_card_has_the_language_and_license_that_the_card_states(folder, tmp_path, stated, found):
    own = shutil.copytree(folder, tmp_path / "model")
    (own / "README.md").write_text(
        f"- Language: {'English' if stated else 'not recorded'}\n- License of the weights: {stated}\n"
    )
    about = huggingface_hub.ModelCard(hub.card(own)).data
    assert (about.license, about.language) == (found, "en" if stated else None)
    assert huggingface_hub.ModelCard(hub.card(own, license="mit")).data.license == "mit"


def test_push_of_what_is_no_model(tmp_path):
    with pytest.raises(UserError, match="not a model folder"):
        hub.push(tmp_path, "me/model")
