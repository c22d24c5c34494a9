"""Search tables as a file of the cache folder: mapped as they were made, made again whenever they are not those."""

from __future__ import annotations

import os
from dataclasses import fields

import numpy as np
import pytest

from samba_asr import cache
from samba_asr.decoding.compiled import store
from samba_asr.decoding.compiled.tables import Tables, of_guide
from samba_asr.decoding.words import WordGuide
from tests.decoding.toys import PHONES, model


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMBA_ASR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tables"


@pytest.fixture
def tables(tmp_path) -> Tables:
    return of_guide(WordGuide(PHONES, model(tmp_path), weight=0.8, bonus=0.7))


@pytest.fixture
def source(tmp_path):
    (tmp_path / "lm").write_bytes(b"language model")
    (tmp_path / "lexicon").write_bytes(b"lexicon")
    return {"lm.path": tmp_path / "lm", "tokenizer": tmp_path / "lexicon"}


class Maker:
    """Counts how often tables are made."""

    def __init__(self, tables: Tables):
        self.tables, self.times = tables, 0

    def __call__(self) -> Tables:
        self.times += 1
        return self.tables


def leaves(tables: Tables):
    for field in fields(Tables):
        value = getattr(tables, field.name)
        yield from (
            ((f"{field.name}.{n}", x) for n, x in value._asdict().items())
            if isinstance(value, tuple)
            else [(field.name, value)]
        )


def same(one: Tables, other: Tables) -> None:
    for (name, x), (_, y) in zip(leaves(one), leaves(other), strict=True):
        assert np.array_equal(x, y), name
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype
            assert not y.flags.writeable  # one type for the kernels, mapped or not
            assert y.flags.aligned
            assert y.flags.c_contiguous


def test_tables_are_made_once_and_mapped_after(folder, tables, source):
    make = Maker(tables)
    for _ in range(3):
        same(tables, store.tables_for(source, make))
    assert make.times == 1
    assert len(list(folder.iterdir())) == 1


def test_the_file_is_a_safetensors_file(folder, tables, source):
    from safetensors.numpy import load_file

    store.tables_for(source, Maker(tables))
    (path,) = folder.iterdir()
    found = load_file(path)
    assert np.array_equal(found["grams.log_prob"], tables.grams.log_prob)
    assert np.array_equal(found["tree.ahead"], tables.tree.ahead)


@pytest.mark.parametrize("changed", ["lm", "lexicon", "version"])
def test_of_another_model_lexicon_or_version_they_are_made_again(
    folder, tables, source, tmp_path, monkeypatch, changed
):
    make = Maker(tables)
    store.tables_for(source, make)
    if changed == "version":
        monkeypatch.setattr(store, "FORMAT", store.FORMAT + 1)
    else:
        (tmp_path / changed).write_bytes(b"another")
    store.tables_for(source, make)
    assert make.times == 2


@pytest.mark.parametrize("size", [0, 5, 300, -1])
def test_a_file_that_is_cut_is_made_again(folder, tables, source, size):
    make = Maker(tables)
    store.tables_for(source, make)
    (path,) = folder.iterdir()
    content = path.read_bytes()
    path.write_bytes(content[:size])
    same(tables, store.tables_for(source, make))
    assert make.times == 2
    assert path.read_bytes() == content


def test_a_foreign_file_is_made_again(folder, tables, source):
    make = Maker(tables)
    store.tables_for(source, make)
    (path,) = folder.iterdir()
    for foreign in (b"no tables at all", (5).to_bytes(8, "little") + b"[1,2]", (2).to_bytes(8, "little") + b"{}"):
        path.write_bytes(foreign)
        same(tables, store.tables_for(source, make))
    assert make.times == 4


def test_without_the_right_to_write_they_stay_in_memory(tmp_path, tables, source, monkeypatch):
    (tmp_path / "file").write_text("a file where the folder should be")
    monkeypatch.setenv("SAMBA_ASR_CACHE", str(tmp_path / "file"))
    make = Maker(tables)
    assert store.tables_for(source, make) is tables
    assert store.tables_for(source, make) is tables
    assert make.times == 2


def test_without_room_they_stay_in_memory_and_nothing_is_left(folder, tables, source, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert store.tables_for(source, Maker(tables)) is tables
    assert list(folder.iterdir()) == []


def test_few_bytes_are_kept(folder, tables, source, tmp_path, monkeypatch):
    for n in range(6):
        (tmp_path / "lm").write_bytes(b"%d" % n)
        store.tables_for(source, Maker(tables))
        monkeypatch.setattr(store, "MOST", 3 * next(folder.iterdir()).stat().st_size)
    assert len(list(folder.iterdir())) == 3
    make = Maker(tables)
    store.tables_for(source, make)
    assert make.times == 0  # the newest is there


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("SAMBA_ASR_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert cache.cache_folder() == tmp_path / "samba_asr"
