"""Configuration: files over defaults, overrides over files; what is wrong is named, with the nearest right one."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, is_dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.config import Config, MambaConfig, ModelConfig, OptimConfig, SearchConfig, TrainConfig, find, load, save
from samba_asr.errors import UserError


def write(path, text):
    path.write_text(text)
    return path


# --- what wins


def test_nothing_given_is_the_defaults():
    assert load() == Config()


def test_later_files_win_over_earlier_and_overrides_over_files(tmp_path):
    first = write(tmp_path / "first.yaml", "optim: {lr: 0.1, warmup: 7}\nmodel: {d_model: 10}\n")
    second = write(tmp_path / "second.yaml", "optim: {lr: 0.2}\n")
    config = load([first, second], ["optim.clip=3", "model.mixer.name=mamba", "model.d_model=12"])
    assert config.optim == OptimConfig(lr=0.2, warmup=7, clip=3.0)
    assert config.model == ModelConfig(d_model=12, mixer=MambaConfig())


def test_an_empty_file_changes_nothing(tmp_path):
    assert load([write(tmp_path / "empty.yaml", "")]) == Config()


def test_values_have_the_types_of_their_fields():
    config = load([], ["optim.lr=1e-3", "data.train=[a.jsonl,b.jsonl]", "model.blocks=[]", "data.cache=false"])
    assert config.optim.lr == 0.001
    assert isinstance(config.optim.lr, float)
    assert config.data.train == ("a.jsonl", "b.jsonl")
    assert config.model.blocks == ()
    assert config.data.cache is False


def test_a_text_may_be_taken_back():
    assert load([], ["decode.lm=books.arpa", "decode.lm="]).decode.lm.path == ""


def test_a_value_may_refer_to_another():
    assert load([], ["train.keep_best=${train.keep_last}"]).train.keep_best == Config().train.keep_last


def test_a_configuration_cannot_change_and_can_be_a_key():
    config = load()
    with pytest.raises(FrozenInstanceError):
        config.version = 2
    assert len({config, Config(), replace(config, train=TrainConfig(seed=2))}) == 2


# --- round trip


numbers = st.floats(1e-6, 1e6)
configs = st.builds(
    lambda lr, blocks, speed, train, text: replace(
        Config(),
        optim=OptimConfig(lr=lr),
        model=ModelConfig(blocks=tuple(blocks)),
        augment=replace(Config().augment, speed=tuple(speed)),
        data=replace(Config().data, train=tuple(train)),
        decode=replace(Config().decode, search=SearchConfig(method=text)),
    ),
    numbers,
    st.lists(st.integers(1, 99), max_size=3),
    st.lists(numbers, min_size=1, max_size=3),
    st.lists(st.text("abc: /.-é'\"#", min_size=1, max_size=8), max_size=2),
    st.sampled_from(["greedy", "beam", "no", "1e3", "a: b", "~"]),  # words that YAML likes to misread
)


@settings(max_examples=15)
@given(config=configs)
def test_what_is_saved_is_read_back(config, tmp_path_factory):
    path = tmp_path_factory.mktemp("c") / "config.yaml"
    save(config, path)
    assert load([path]) == config


def test_every_field_is_saved(tmp_path):
    save(Config(), tmp_path / "config.yaml")
    text = (tmp_path / "config.yaml").read_text()

    def names(config):
        for f in fields(config):
            yield f.name
            value = getattr(config, f.name)
            if is_dataclass(value):
                yield from names(value)

    assert all(f"{name}:" in text for name in names(Config()))


# --- what is wrong is named


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=1", r"optim.lrr=1: unknown key optim.lrr \(did you mean optim.lr\?\)"),
        ("optm.lr=1", r"unknown key optm \(did you mean optim\?\)"),
        ("model.mixer.nam=mamba", r"unknown key model.mixer.nam \(did you mean model.mixer.name\?\)"),
        ("qqqq=1", r"unknown key qqqq; there are: version, model, "),
        ("optim.lr=fast", "optim.lr=fast: Value 'fast' of type 'str' could not be converted to Float"),
        ("train.seed=1.5", "could not be converted to Integer"),
        ("optim=3", "optim=3: optim must be a mapping of keys to values"),
        ("optim.betas=[0.9]", "optim.betas="),
        ("data.train=a.jsonl", "data.train=a.jsonl: .* is not a .*list"),
        ("optim.lr", "'optim.lr' is not an override: write key=value"),
        ("optim.lr=[1", "not readable as YAML"),
        ("optim.lr=${nope}", "optim.lr: Interpolation key 'nope' not found"),
    ],
)
def test_a_wrong_override_is_one_line_that_names_it(override, message):
    with pytest.raises(UserError, match=message) as caught:
        load([], [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim: {lrr: 1}", r"bad.yaml: unknown key optim.lrr \(did you mean optim.lr\?\)"),
        ("- 1\n- 2", "bad.yaml: .*mapping"),
        ("a: [1", "bad.yaml: not readable as YAML"),
        ("just words", "bad.yaml: "),
        ("optim: {lr: x}", "bad.yaml: .*'x'"),
        ("model: {features: {sample_rate: 0}}", "sample_rate=0: from 1 to 768000"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as caught:
        load([write(tmp_path / "bad.yaml", text)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nope", "model/nope", "nope.yaml", "/nope.yaml", "/nowhere/at/all.yaml"])
def test_a_missing_file_is_named_with_those_there_are(name):
    with pytest.raises(UserError, match=f"no configuration '{name}': neither a file nor one of"):
        load([name])


def test_a_configuration_of_the_package_goes_by_its_name(tmp_path, monkeypatch):
    from importlib import resources

    (tmp_path / "model").mkdir()
    write(tmp_path / "model" / "small.yaml", "model: {d_model: 32}")
    monkeypatch.setattr(resources, "files", lambda package: tmp_path if package == "samba_asr.conf" else None)
    assert find("model/small") == tmp_path / "model" / "small.yaml"
    assert load(["model/small"]).model.d_model == 32
    with pytest.raises(UserError, match="neither a file nor one of model/small"):
        find("model/large")
