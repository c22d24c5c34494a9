"""Reading and writing the configuration.

Later files win over earlier ones, and overrides win over files.  An unknown key, a wrong type or a missing file is a
`UserError` that names the key and the nearest known one.

The keys of `SEARCH_FILES` name files.  A name that a user gives, in files or overrides, is relative to the current folder
and becomes absolute here.  A name that stays relative is in the model's own folder.
"""

from __future__ import annotations

import difflib
import logging
import math
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, cast

from samba_asr.config.decode import SEARCH_FILES, DecodeConfig, is_search_file
from samba_asr.config.model import (
    DERIVED,
    MIXERS,
    LmConfig,
    ModelConfig,
    PronouncerConfig,
    PunctuationConfig,
    mixer_config,
)
from samba_asr.config.renamed import check_both, modern, warn
from samba_asr.config.training import (
    AugmentConfig,
    DataConfig,
    LossConfig,
    OptimConfig,
    PretrainConfig,
    TokenizerConfig,
    TrainConfig,
)
from samba_asr.errors import UserError

logger = logging.getLogger(__name__)

VERSION = 2
"""Version of the configuration and of the model folder."""

VERSIONS = (1, 2)
"""Versions that can be read.  A folder of another version is an error."""


@dataclass(frozen=True)
class Config:
    """The whole configuration."""

    version: int = VERSION
    model: ModelConfig = field(default_factory=ModelConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    lm: LmConfig = field(default_factory=LmConfig)
    pronouncer: PronouncerConfig = field(default_factory=PronouncerConfig)
    punctuation: PunctuationConfig = field(default_factory=PunctuationConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)


def load(
    files: Sequence[Path | str] = (), overrides: Sequence[str] = (), *, folder: Path | str | None = None
) -> Config:
    """Merge YAML files, then `key=value` overrides, over the defaults.

    files: paths, or names such as `model/small` in the installed `samba_asr.conf`.
    folder: of a model or a run.  Its `config.yaml` is read before `files`, and its file names stay as they are.
    File names in `files` and `overrides` become absolute if the current folder holds such a file.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    tree = OmegaConf.structured(Config)
    by_hand: set[str] = set()
    used: list[str] = []
    for name, part, own in _parts(files, overrides, folder):
        try:
            part, old = _prepared(part, name, own, tree)
            used += old
            if not own:
                by_hand.update(key for key in SEARCH_FILES if _has(part.get("decode"), key))
            tree = OmegaConf.merge(tree, OmegaConf.create(part))
        except UserError:
            raise
        except (OmegaConfBaseException, ValueError) as error:
            raise UserError(f"{name}: {str(error).splitlines()[0]}") from None
    warn(used)
    try:
        return _with_paths(_tuples(OmegaConf.to_object(tree)), by_hand)
    except OmegaConfBaseException as error:  # a ${reference} to an unknown key
        where = getattr(error, "full_key", None)
        raise UserError(f"{where or 'configuration'}: {str(error).splitlines()[0]}") from None


def find(name: Path | str) -> Path:
    """Return the file of this name, or the one under `samba_asr/conf` (`model/small` -> conf/model/small.yaml)."""
    path = Path(name)
    if path.is_file():
        return path
    from importlib import resources

    root = Path(str(resources.files("samba_asr.conf")))
    known = {p.relative_to(root).with_suffix("").as_posix(): p for p in sorted(root.rglob("*.yaml"))}
    if str(name) in known:
        return known[str(name)]
    raise UserError(f"no configuration {str(name)!r}: neither a file nor one of {', '.join(known)}")


def save(config: Config, path: Path) -> None:
    """Write the whole tree as YAML."""
    from omegaconf import OmegaConf

    Path(path).write_text(OmegaConf.to_yaml(OmegaConf.structured(config)))


# ---- the sources, one after another ----------------------------------------------------------------------------------


def _parts(
    files: Sequence[Path | str], overrides: Sequence[str], folder: Path | str | None
) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Yield (name, tree, whether it is the folder's own) of each source.  UserError for an unreadable one."""
    from omegaconf import OmegaConf

    own = [] if folder is None else [Path(folder) / "config.yaml"]
    for number, file in enumerate((*own, *files)):
        yield str(file), _read(str(file), lambda file=file: OmegaConf.load(find(file))), number < len(own)
    check_both({text.split("=")[0] for text in overrides})
    for text in overrides:
        yield text, _read(text, lambda text=text: _override(text)), False


def _read(name: str, act: Callable[[], Any]) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        tree = OmegaConf.to_container(act())
    except UserError:
        raise
    except (OmegaConfBaseException, ValueError, OSError) as error:
        raise UserError(f"{name}: {str(error).splitlines()[0]}") from None
    except Exception as error:  # PyYAML's errors share no base class that omegaconf re-exports
        raise UserError(f"{name}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{name}: the file must be a mapping of keys to values")
    return cast("dict[str, Any]", tree)


def _override(text: str) -> Any:
    from omegaconf import OmegaConf

    if not re.match(r"^[\w.]+=", text):
        raise UserError(f"{text!r} is not an override: write key=value, such as optim.lr=0.001")
    if text.endswith("="):
        text += '""'  # OmegaConf would read an empty value as None, which only the latency may be
    return OmegaConf.from_dotlist([text])


def _prepared(part: dict[str, Any], name: str, own: bool, tree: Any) -> tuple[dict[str, Any], list[str]]:
    """Check a part, give it the keys of this version, and give `tree` the fields of its mixer.  Also return its old keys."""
    version = part.get("version", VERSION)
    if version not in VERSIONS:
        raise UserError(
            f"{name}: a configuration of version {version}; this samba_asr reads versions {VERSIONS[0]} to {VERSION}"
        )
    whole = "version" in part  # a saved tree, not a user's choice of settings
    part = {**part, "version": VERSION} if whole else part
    part = _with_mixer(part, name, whole, tree)
    part, old = modern(part, name, _frame_ms(part, tree))
    if whole and version == 1 and old:
        logger.warning("%s is of version 1: it is read, but its decode.* keys have new names (conf/README.md)", name)
        old = []
    if whole:  # a folder of version 2 may have it, and no user can mend that
        old = [key for key in old if key != "pretrain.name"]
    _check_keys(part, _plain(tree), name)
    if not own:
        part = _without_derived(part, name, whole)
    return part, old


def _with_mixer(part: dict[str, Any], name: str, whole: bool, tree: Any) -> dict[str, Any]:
    """Give `tree` the fields of the mixer that `part` names.

    A saved tree of version 1 has the fields of all mixers.  Those of the other mixers are removed.
    """
    from omegaconf import OmegaConf, read_write

    model = part.get("model")
    if not isinstance(model, dict) or not isinstance(mixer := model.get("mixer"), dict):
        return part
    kind = mixer.get("name", tree.model.mixer.name)
    if kind not in MIXERS:
        near = difflib.get_close_matches(str(kind), MIXERS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise UserError(f"{name}: unknown mixer {kind!r}{hint}; there are: {', '.join(MIXERS)}")
    known = {f.name for f in fields(MIXERS[kind])}
    if kind != tree.model.mixer.name:
        before = cast("dict[str, Any]", OmegaConf.to_container(tree.model.mixer))
        kept = {k: v for k, v in before.items() if k in known and k != "name"}
        with read_write(tree.model):
            tree.model.mixer = OmegaConf.structured(mixer_config(kind, **kept))
    if whole:
        mixer = {k: v for k, v in mixer.items() if k in known or k not in _FIELDS_OF_MIXERS}
    return {**part, "model": {**model, "mixer": mixer}}


_FIELDS_OF_MIXERS = {f.name for kind in MIXERS.values() for f in fields(kind)}


def _frame_ms(part: dict[str, Any], tree: Any) -> float:
    """Return the duration of an encoder frame in milliseconds, as the configuration read so far has it."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    model = part.get("model")
    try:
        merged = OmegaConf.merge(tree.model, OmegaConf.create(model if isinstance(model, dict) else {}))
        return 1000 * merged.features.hop * merged.subsampling / merged.features.sample_rate
    except (OmegaConfBaseException, ZeroDivisionError):
        return ModelConfig().frame_ms  # the error is reported later, when the part is merged


def _without_derived(part: dict[str, Any], name: str, whole: bool) -> dict[str, Any]:
    """Remove derived keys from a part; UserError if a user sets one."""
    model = part.get("model")
    if not isinstance(model, dict):
        return part
    found = [key for key in DERIVED if key.removeprefix("model.") in model]
    if found and not whole:
        raise UserError(f"{name}: {found[0]} follows from {DERIVED[found[0]]}, and cannot be set")
    names = {key.removeprefix("model.") for key in found}
    return {**part, "model": {k: v for k, v in model.items() if k not in names}} if found else part


def _plain(tree: Any) -> Config:
    """Return the dataclasses of the tree so far, for the names of their fields.  References are not resolved."""
    return replace(Config(), model=replace(ModelConfig(), mixer=mixer_config(tree.model.mixer.name)))


def _check_keys(tree: Any, schema: Any, source: str, prefix: str = "") -> None:
    """Raise UserError with an unknown key and the nearest known one.  OmegaConf's message lacks the file and the full key."""
    if not isinstance(tree, dict):
        raise UserError(f"{source}: {prefix.rstrip('.') or 'the file'} must be a mapping of keys to values")
    known = [f.name for f in fields(schema)]
    for key, value in tree.items():
        if key not in known:
            near = _nearest(str(key), schema, prefix)
            hint = f" (did you mean {near}?)" if near else f"; there are: {', '.join(known)}"
            raise UserError(f"{source}: unknown key {prefix}{key}{hint}")
        section = getattr(schema, key)
        if is_dataclass(section) and value is not None:
            _check_keys(value, section, source, f"{prefix}{key}.")


def _nearest(key: str, schema: Any, prefix: str) -> str:
    """Return the known key of the nearest name, in this section or its subsections; "" if none is near."""
    here = {f.name: f"{prefix}{f.name}" for f in fields(schema)}
    sections = {name: getattr(schema, name) for name in here if is_dataclass(getattr(schema, name))}
    inner = {f.name: f"{prefix}{name}.{f.name}" for name, section in sections.items() for f in fields(section)}
    for names, cutoff in ((here, 0.5), (inner, 0.7)):
        if near := difflib.get_close_matches(key, names, n=1, cutoff=cutoff):
            return names[near[0]]
    return ""


def _has(decode: Any, key: str) -> bool:
    section, name = key.split(".")
    return isinstance(decode, dict) and isinstance(decode.get(section), dict) and name in decode[section]


def _with_paths(config: Config, by_hand: Collection[str]) -> Config:
    """Make the file names in `by_hand` absolute where the current folder holds such a file."""
    names = {key: Path(config.decode.file(key)) for key in by_hand if config.decode.file(key)}
    there = {key: str(path.absolute()) for key, path in names.items() if is_search_file(path, key)}
    return replace(config, decode=config.decode.with_files(there))


def _tuples(config: Any, prefix: str = "") -> Any:
    """Turn OmegaConf's lists into tuples, so that the tree is hashable and comparable.  UserError for NaN and inf."""
    values = {}
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            value = _tuples(value, f"{prefix}{f.name}.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{prefix}{f.name}={value}: give a finite number")
        elif isinstance(value, list):
            value = tuple(value)
        values[f.name] = value
    return type(config)(**values)
