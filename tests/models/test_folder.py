"""A model's folder: what is saved is what is loaded; what is broken is one line that names the file."""

from __future__ import annotations

import datetime
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from samba_asr.config import Config
from samba_asr.errors import UserError
from samba_asr.models.asr import AsrModel
from samba_asr.models.box import box_folder
from samba_asr.models.card import Card, Origin, origin
from samba_asr.models.folder import load_model, record_result, save_model
from samba_asr.text.tokenizer import CharTokenizer
from tests.models.tiny import FRAME, noise, tiny

TOKENIZER = CharTokenizer(["▁", "a", "b"])  # five ids


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    config = replace(Config(), model=tiny(decoder=1))
    model = AsrModel(config.model).eval()
    model.features.set_statistics(torch.arange(4.0), torch.arange(4.0) + 1)
    save_model(tmp_path / "m", model, config, TOKENIZER)
    return tmp_path / "m", model, config


def test_round_trip(saved):
    folder, model, config = saved
    loaded = load_model(folder)
    assert loaded.config == config
    assert loaded.tokenizer.pieces(range(5)) == TOKENIZER.pieces(range(5))
    assert not loaded.model.training
    want, got = model.state_dict(), loaded.model.state_dict()
    assert want.keys() == got.keys()
    assert all(torch.equal(want[name], got[name]) for name in want)
    audio, lengths = noise(2, 5 * FRAME), torch.tensor([5, 3]) * FRAME
    assert torch.equal(loaded.model.log_probs(audio, lengths)[0], model.log_probs(audio, lengths)[0])


def test_it_holds_the_named_files_and_no_pickle(saved):
    folder, _, _ = saved
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.yaml", "model.safetensors", "tokenizer.json", "README.md", "results.json"}
    assert json.loads((folder / "results.json").read_text()) == {}


def test_scores_are_recorded_by_name(saved):
    folder, _, _ = saved
    for name, wer in (("test", 8.2), ("dev", 7.0), ("test", 8.1)):
        record_result(folder, name, {"wer": wer})
    assert json.loads((folder / "results.json").read_text()) == {"test": {"wer": 8.1}, "dev": {"wer": 7.0}}
    (folder / "results.json").write_text("[")
    with pytest.raises(UserError, match=r"results\.json: cannot record 'test'"):
        record_result(folder, "test", {"wer": 8.0})


def test_a_calibration_of_other_weights_does_not_stay(saved):
    folder, model, config = saved
    (folder / "confidence.json").write_text("{}")
    save_model(folder, model, config, TOKENIZER)
    assert not (folder / "confidence.json").exists()


def test_whoever_may_read_its_configuration_may_read_its_weights(saved):
    folder, _, _ = saved
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.yaml").stat().st_mode


def test_a_readme_that_was_completed_by_hand_is_kept(saved):
    folder, model, config = saved
    (folder / "README.md").write_text("mine")
    save_model(folder, model, config, TOKENIZER)
    assert (folder / "README.md").read_text() == "mine"


def test_the_card_says_what_the_model_is(saved):
    folder, model, _ = saved
    card = (folder / "README.md").read_text()
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters" in card
    assert "mixer hydra" in card
    assert f"- Date: {datetime.date.today().isoformat()}" in card


def test_the_card_has_the_error_rates_that_are_recorded(saved):
    folder, model, config = saved
    assert "None were measured" in (folder / "README.md").read_text()
    record_result(folder, "test-offline", {"wer": 8.237, "interval": [7.1, 9.3], "data": "test"})
    record_result(folder, "dev", {"wer": 7.0})
    rates = (folder / "README.md").read_text().partition("## Error rates")[2]
    assert "| test-offline | test | 8.24 % | 7.10 to 9.30 |" in rates
    assert "| dev |  | 7.00 % |  |" in rates
    save_model(folder, model, config, TOKENIZER, card=Card(license="CC0"))  # other weights
    card = (folder / "README.md").read_text()
    assert "- License of the weights: CC0" in card
    assert "8.24" not in card
    assert "None were measured" in card


def test_error_rates_do_not_touch_a_readme_of_ones_own(saved):
    folder, _, _ = saved
    (folder / "README.md").write_text("# Mine\n\n## Error rates\n\nfew\n")
    record_result(folder, "test", {"wer": 8.2})
    assert (folder / "README.md").read_text() == "# Mine\n\n## Error rates\n\nfew\n"


@pytest.mark.parametrize(
    ("text", "language", "license"),
    [
        ("---\nlanguage: de\nlicense: mit\n---\n\n# A model\n", "de", "mit"),
        ("# A model\n\n- Language: English\n- License of the weights: CC BY 4.0\n", "English", "CC BY 4.0"),
        ("- Language: not recorded\n- License of the weights: not stated; those of its data bind it\n", "", ""),
        ("license: mit\n", "", ""),
    ],
)
def test_what_a_card_states_is_read(tmp_path, text, language, license):
    (tmp_path / "README.md").write_text(text)
    assert origin(tmp_path) == Origin(tmp_path.name, language, license)


def test_the_card_of_the_shipped_model_states_language_and_license():
    assert origin(box_folder("english")) == Origin("english", "English", "CC BY 4.0")


# --- what is broken


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def other_tokenizer(folder):
    CharTokenizer(["▁", "a"]).save(folder)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def damaged(path):
    content = load_file(path)
    name = next(name for name in content if name.endswith("head.weight") or "linear" in name)
    content[name].view(-1)[0] = float("nan")
    save_file(content, path)


def no_units(folder):
    CharTokenizer([]).save(folder)
    edit(folder / "config.yaml", "vocab_size: 5", "vocab_size: 2")


BREAKS = {
    "weights that are not finite": (
        lambda f: damaged(f / "model.safetensors"),
        r"model.safetensors: \S+ holds numbers that are not finite",
    ),
    "weights of another type": (
        lambda f: save_file(
            {k: v.long() for k, v in load_file(f / "model.safetensors").items()}, f / "model.safetensors"
        ),
        r"model.safetensors does not hold this model's weights: \S+ is of type torch.int64, not torch.float32",
    ),
    "a tokenizer without units": (no_units, "tokenizer.json: no units are in this tokenizer"),
    "units that are no characters": (
        lambda f: (f / "tokenizer.json").write_text('{"type": "char", "units": [1, 2, 3]}'),
        "tokenizer.json: not a character tokenizer",
    ),
    "more memory than there is": (
        lambda f: edit(f / "config.yaml", "d_model: 8", "d_model: 4000000"),
        "model.safetensors does not hold this model's weights: .* config.yaml says .*4000000",
    ),
    "layers without end": (
        lambda f: edit(f / "config.yaml", "layers: 2", "layers: 1000000000"),
        "config.yaml has 1000000001 layers, the file",
    ),
    "filters without end": (
        lambda f: edit(f / "config.yaml", "window: 10", "window: 4000000000"),
        "model.features.window=4000000000: from 1 to 65536",
    ),
    "a size below 0": (
        lambda f: edit(f / "config.yaml", "d_model: 8", "d_model: -8"),
        "no model can be built from this",
    ),
    "another version": (
        lambda f: edit(f / "config.yaml", "version: 2", "version: 99"),
        r"m is a model folder of version 99; this samba_asr reads versions 1 to 2: install",
    ),
    "no version": (lambda f: edit(f / "config.yaml", "version: 2\n", ""), "a model folder of version None"),
    "an unknown key": (
        lambda f: edit(f / "config.yaml", "d_model:", "d_modle:"),
        r"config.yaml: unknown key model.d_modle \(did you mean model.d_model\?\)",
    ),
    "not YAML": (lambda f: (f / "config.yaml").write_text("a: [1"), "config.yaml: not readable as YAML"),
    "not a mapping": (lambda f: (f / "config.yaml").write_text("- 1"), "config.yaml"),
    "an empty config": (lambda f: (f / "config.yaml").write_text(""), "a model folder of version None"),
    "no config": (lambda f: (f / "config.yaml").unlink(), "m is not a model folder: it has no config.yaml"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "it has no model.safetensors"),
    "no tokenizer": (
        lambda f: (f / "tokenizer.json").unlink(),
        "none of tokenizer.model, tokenizer.json, lexicon.txt is here",
    ),
    "another tokenizer": (other_tokenizer, "the tokenizer has 4 units, config.yaml says 5: "),
    "cut weights": (lambda f: cut(f / "model.safetensors"), "model.safetensors does not hold this model's weights"),
    "no weights in the file": (
        lambda f: (f / "model.safetensors").write_bytes(b"hello"),
        "model.safetensors does not hold this model's weights",
    ),
    "other sizes": (
        lambda f: edit(f / "config.yaml", "conv_kernel: 5", "conv_kernel: 7"),
        "model.safetensors does not hold this model's weights: .*depthwise",
    ),
    "sizes that fit nothing": (
        lambda f: edit(f / "config.yaml", "conv_kernel: 5", "conv_kernel: 6"),
        "conv_kernel 6 must be odd",
    ),
    "an unknown mixer": (
        lambda f: edit(f / "config.yaml", "name: hydra", "name: hydro"),
        r"unknown mixer 'hydro' \(did you mean 'hydra'\?\)",
    ),
}


@pytest.mark.parametrize(("break_it", "message"), BREAKS.values(), ids=BREAKS)
def test_a_broken_folder_is_one_line_that_names_the_cause(saved, break_it, message):
    folder, _, _ = saved
    break_it(folder)
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=message) as caught:
        load_model(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"nowhere is not a model folder: it has no config\.yaml"):
        load_model(tmp_path / "nowhere")


def test_half_the_bytes(saved, tmp_path):
    folder, model, config = saved
    save_model(tmp_path / "half", model, config, TOKENIZER, torch.bfloat16)
    want, got = model.state_dict(), load_model(tmp_path / "half").model.state_dict()
    for name, x in want.items():
        assert got[name].dtype == x.dtype
        torch.testing.assert_close(got[name], x, rtol=0 if x.dim() < 2 else 1e-2, atol=0)
    assert (tmp_path / "half" / "model.safetensors").stat().st_size < (folder / "model.safetensors").stat().st_size
