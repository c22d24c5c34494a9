"""Every recipe makes validated sets that share no speaker."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from samba_asr import recipes
from samba_asr.data.manifest import read_manifest
from samba_asr.errors import UserError
from tests.shared import needs_shared, shared


def speech(folder, chapter: str, number: int = 0) -> None:
    """One utterance `speaker-chapter-number` in a LibriSpeech split."""
    place = folder.joinpath(*chapter.split("-"))
    place.mkdir(parents=True, exist_ok=True)
    soundfile.write(place / f"{chapter}-{number:04d}.flac", np.zeros(8000), 16000)
    with open(place / f"{chapter}.trans.txt", "a") as file:
        file.write(f"{chapter}-{number:04d} HI\n")


def ids(manifests) -> dict[str, list[str]]:
    return {name: [u.id for u in read_manifest(path)] for name, path in manifests.items()}


def speakers(manifests) -> dict[str, set[str]]:
    return {name: {u.speaker for u in read_manifest(path)} for name, path in manifests.items()}


def test_every_recipe_loads_and_an_unknown_one_is_named():
    assert all(callable(recipes.load(name).prepare) for name in recipes.RECIPES)
    with pytest.raises(UserError, match="no recipe 'timit': choose from digits"):
        recipes.load("timit")


def test_librispeech_joins_its_training_parts(tmp_path):
    for split, chapter in (("train-clean-100", "1-1"), ("train-clean-360", "2-1"), ("dev-clean", "3-1")):
        speech(tmp_path / "c" / "LibriSpeech" / split, chapter)
    subsets = ("train-clean-100", "train-clean-360", "dev-clean")
    manifests = recipes.load("librispeech").prepare(tmp_path / "c", tmp_path / "data", subsets=subsets)
    assert ids(manifests) == {"train": ["1-1-0000", "2-1-0000"], "dev-clean": ["3-1-0000"]}
    with pytest.raises(UserError, match=r"test-other: no such folder"):
        recipes.load("librispeech").prepare(tmp_path / "c", tmp_path / "data", subsets=("test-other",))
    with pytest.raises(UserError, match="no subset 'train-7'"):
        recipes.load("librispeech").prepare(tmp_path / "c", tmp_path / "data", subsets=("train-7",))


def test_mini_librispeech_holds_three_speakers_out_of_training(tmp_path):
    for split, chapter in (("train-clean-5", "1-1"), ("train-clean-5", "1970-1"), ("dev-clean-2", "3-1")):
        speech(tmp_path / "c" / split, chapter)
    manifests = recipes.load("mini_librispeech").prepare(tmp_path / "c", tmp_path / "data")
    assert ids(manifests) == {"train": ["1-1-0000"], "dev": ["1970-1-0000"], "test": ["3-1-0000"]}


@needs_shared("data/LibriSpeech/train-5h")
def test_mini_librispeech_of_the_shared_folder(tmp_path, monkeypatch):
    recipe = recipes.load("mini_librispeech")
    monkeypatch.chdir(shared("data").parents[1])
    assert recipe.local_source().resolve() == shared("data/LibriSpeech").resolve()
    manifests = recipe.prepare(None, tmp_path / "data")
    assert {name: len(found) for name, found in speakers(manifests).items()} == {"train": 20, "dev": 3, "test": 3}
    assert {name: len(found) for name, found in ids(manifests).items()} == {"train": 1324, "dev": 119, "test": 185}


def test_fsdd_keeps_its_own_rule(tmp_path):
    for n in (0, 4, 5, 9, 10):
        soundfile.write(tmp_path / f"3_jo_{n}.wav", np.zeros(4000), 8000)
    recipe = recipes.load("fsdd")
    manifests = recipe.prepare(tmp_path, tmp_path / "data")
    assert ids(manifests) == {"train": ["3_jo_10"], "dev": ["3_jo_5", "3_jo_9"], "test": ["3_jo_0", "3_jo_4"]}
    manifests = recipe.prepare(tmp_path, tmp_path / "data", dev=False)
    assert ids(manifests) == {"train": ["3_jo_10", "3_jo_5", "3_jo_9"], "test": ["3_jo_0", "3_jo_4"]}


def test_digits_of_the_repository(tmp_path):
    recipe = recipes.load("digits")
    if recipe.local_source() is None:
        pytest.skip("egs/digits/data is not here")
    manifests = recipe.prepare(None, tmp_path / "data")
    found = speakers(manifests)
    assert found["dev"] == set(recipe.DEV_SPEAKERS)
    assert not found["train"] & found["test"]
    assert {name: len(utterances) for name, utterances in ids(manifests).items()} == {
        "train": 574,
        "dev": 28,
        "test": 112,
    }
