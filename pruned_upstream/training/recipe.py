"""A run as data: what a recipe file may say, with its defaults, and how it is read.

A recipe is YAML; `section.key=value` on the command line overrides it, and a file may say `base: NAME` and then only
what it does otherwise than that recipe. Every key is known by name and type, and its
value is checked before anything is loaded. Beside each key stands what may become of it between the launches of one run
(`Kind`). The sections that several kinds of runs share are here; a method's own
recipe stands with the method (`PruneRecipe` in prune.py, whose file `recipes/wavlm_base.yaml` gives the reasons).
"""

from __future__ import annotations

import dataclasses
import difflib
import io
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, get_type_hints, runtime_checkable

from ..errors import ConfigError
from ..files import write_text
from ..parsing import (
    MALFORMED,
    bounded_yaml,
    check_yaml,
    is_text,
    printable,
    require,
    require_one_of,
    shown,
    yaml_fault,
)
from ..resources import recipe_path

if TYPE_CHECKING:
    from ..model.encoder import Encoder

FRAME_SECONDS = 0.025  # what the front ends hear for a first frame
PRECISIONS = ("fp32", "bf16")
LISTS = ("train", "test", "noise")  # of data: one entry may stand without brackets
SOURCES = frozenset(f"data.{key}" for key in LISTS)
SMALLEST, LARGEST = 1e-30, 1e9  # of numbers, in magnitude: beyond these single precision has zeros and infinities
SEED = "run.seed"  # has bounds of its own
BASE = "base"  # key of a recipe file: the recipe that it differs from
NO_SECTIONS = "it must hold sections and keys"
KEY = r"\w+(\.\w+)*"
MOST_PARTS = 1000  # of a batch; those beyond its recordings are empty, and cost time all the same
REQUIRED: Any = "???"  # OmegaConf's mark for a key that must be given


class Kind(StrEnum):
    """What may become of a key between the launches of one run.

    A key's field names its kind (`metadata={"kind": ...}`, as `key` writes it), or a section's field that of all its
    keys; without either it is of the kind TRAINING.
    """

    TRAINING = "training"  # part of what training computes: equal in all launches
    AMENDABLE = "amendable"  # may change on the way, with --amend; state and report tell
    EVALUATION = "evaluation"  # of what comes after training: may change at any launch
    LAUNCH = "launch"  # where and how often: changes no number
    INPUT = "input"  # names a file or folder: its content must stay, its place may change


def key(kind: Kind, default: Any) -> Any:
    """A field of that kind; a list or dataclass is given as its factory."""
    if callable(default):
        return field(default_factory=default, metadata={"kind": kind})
    return field(default=default, metadata={"kind": kind})


@runtime_checkable
class Section(Protocol):
    """A section, or a recipe, that checks its values, once all of them are known."""

    def check(self) -> None:
        """Raises ConfigError, which names the key, when a value is impossible."""


@dataclass
class Data:
    """Recordings and batches."""

    # folders of audio and fairseq manifests (.tsv); one may stand without brackets
    train: list[str] = key(Kind.INPUT, REQUIRED)
    batch_utterances: int = 24  # recordings of a step, those of all processes together
    batch_seconds: float | None = None  # instead: as many as fit, padding included
    max_seconds: float = 15.6  # longer recordings are cropped, anew in every epoch
    mix: float = 0.0  # share of recordings that another of their batch talks over (mixing.py); WavLM's is 0.2
    noise: list[str] | None = key(Kind.INPUT, None)  # folders and manifests of noise, for some of the mixtures
    noise_share: float = 0.1  # of the mixtures, where there is noise
    bucket: int = 20  # batches whose recordings are sorted by length together
    workers: int = key(Kind.LAUNCH, 4)  # loader processes of each training process

    def check(self) -> None:
        """Raise ConfigError unless sources, lengths and shares make sense."""
        named = bool(self.train) and all(self.train)
        noisy = self.noise is None or (bool(self.noise) and all(self.noise))
        require(named, "data.train", self.train, "name at least one folder or manifest")
        require(self.batch_utterances >= 1, "data.batch_utterances", self.batch_utterances, "be at least 1")
        seconds = self.batch_seconds
        require(seconds is None or seconds > 0, "data.batch_seconds", seconds, "be above 0, or null")
        require(self.max_seconds >= FRAME_SECONDS, "data.max_seconds", self.max_seconds, "be at least 0.025, a frame")
        require(0 <= self.mix <= 1, "data.mix", self.mix, "be a share from 0 to 1")
        require(noisy, "data.noise", self.noise, "be null, or name a folder")
        require(self.noise is None or self.mix > 0, "data.mix", self.mix, "be above 0 where data.noise names noise")
        alone = self.batch_seconds is None and self.batch_utterances == 1
        speech = self.mix > 0 and (self.noise is None or self.noise_share < 1)
        least = "be at least 2 where data.mix mixes the recordings of a batch"
        require(not (alone and speech), "data.batch_utterances", self.batch_utterances, least)
        require(0 <= self.noise_share <= 1, "data.noise_share", self.noise_share, "be a share from 0 to 1")
        require(self.bucket >= 1, "data.bucket", self.bucket, "be at least 1")
        require(self.workers >= 0, "data.workers", self.workers, "be at least 0")


@dataclass
class Streaming:
    """Whether the student hears chunks, to be streamed (`model/streaming.py`); its teacher hears the whole."""

    chunk_seconds: float | None = None  # null: the student hears the whole, too
    history_seconds: float = 4.0  # how far attention reaches back before the chunk

    def check(self) -> None:
        """Raise ConfigError for a chunk shorter than a frame, or a history without chunks."""
        chunk, history = self.chunk_seconds, self.history_seconds
        require(chunk is None or chunk >= 0.02, "streaming.chunk_seconds", chunk, "be at least 0.02, a frame, or null")
        require(history >= 0, "streaming.history_seconds", history, "be at least 0")

    def of(self, student: Encoder) -> Encoder:
        """The student as it hears."""
        from ..distillation.student import as_streaming

        if self.chunk_seconds is None:
            return student
        return as_streaming(student, self.chunk_seconds, self.history_seconds)


@dataclass
class Optimisation:
    """AdamW over `steps` batches."""

    LEAST_STEPS: ClassVar[int] = 1

    steps: int = REQUIRED  # updates
    learning_rate: float = 2e-4  # peak; the paper's
    warmup: float = 0.07  # share of the steps over which the rate rises; the paper's
    weight_decay: float = 0.01  # of matrices; biases, norms and scalars are never decayed
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])  # of AdamW
    eps: float = 1e-8  # of AdamW
    clip_norm: float | None = 5.0  # of the gradient of all weights together
    accumulation: int = 1  # parts of a batch that a process computes one after another
    precision: str = "fp32"  # or bf16: autocast, no loss scaling

    def check(self) -> None:
        """Raise ConfigError for steps, rates or a precision out of range."""
        where = "optimisation"
        betas, clip = self.betas, self.clip_norm
        in_range = len(betas) == 2 and all(0 <= beta < 1 for beta in betas)
        require(self.steps >= self.LEAST_STEPS, f"{where}.steps", self.steps, f"be at least {self.LEAST_STEPS}")
        require(self.learning_rate > 0, f"{where}.learning_rate", self.learning_rate, "be above 0")
        require(0 <= self.warmup < 1, f"{where}.warmup", self.warmup, "be a share from 0 to below 1")
        require(self.weight_decay >= 0, f"{where}.weight_decay", self.weight_decay, "be at least 0")
        require(in_range, f"{where}.betas", betas, "be two numbers from 0 to below 1")
        require(self.eps > 0, f"{where}.eps", self.eps, "be above 0")
        require(clip is None or clip > 0, f"{where}.clip_norm", clip, "be above 0, or null")
        parts = self.accumulation
        require(1 <= parts <= MOST_PARTS, f"{where}.accumulation", parts, f"be between 1 and {MOST_PARTS}")
        require_one_of(f"{where}.precision", self.precision, PRECISIONS)


@dataclass
class Run:
    """Where the run lives and how often it reports; none of this but the seed changes what is computed."""

    folder: str = key(Kind.LAUNCH, REQUIRED)  # takes everything that the run writes
    seed: int = 0  # of all that is random: weights, order, crops, gates, dropout
    device: str = key(Kind.LAUNCH, "auto")  # the GPU where there is one; or cpu, cuda, cuda:N
    log_every: int = key(Kind.LAUNCH, 10)  # steps
    checkpoint_every: int = key(Kind.LAUNCH, 1000)  # steps

    def check(self) -> None:
        """Raise ConfigError unless folder, seed and intervals make sense."""
        require(bool(self.folder), "run.folder", self.folder, "name a folder")
        require(not Path(self.folder).is_file(), "run.folder", self.folder, "name a folder, not a file")
        require(0 <= self.seed < 1 << 63, "run.seed", self.seed, "be at least 0 and below 2^63")
        require(self.log_every >= 1, "run.log_every", self.log_every, "be at least 1")
        require(self.checkpoint_every >= 1, "run.checkpoint_every", self.checkpoint_every, "be at least 1")


@dataclass
class DropoutRates:
    """Of the student in training; named as `model.encoder.Dropout`."""

    hidden: float = 0.0  # behind each sublayer and the position convolution
    attention: float = 0.0  # of attention weights
    activation: float = 0.0  # between the feed-forward matrices
    features: float = 0.0  # of the projected features
    layerdrop: float = 0.0  # of whole layers

    def check(self) -> None:
        """Raise ConfigError for a rate outside 0 to 1."""
        for rate in dataclasses.fields(self):
            value = getattr(self, rate.name)
            require(0 <= value < 1, f"dropout.{rate.name}", value, "be from 0 to below 1")


RecipeType = TypeVar("RecipeType")


def load_recipe(source: str | Path, schema: type[RecipeType], overrides: Sequence[str] = ()) -> RecipeType:
    """Read a recipe.

    Args:
        source: a YAML file, or the bare name of a recipe that the package brings.
        schema: dataclass of the recipe's keys.
        overrides: "section.key=value", the value as YAML.

    Raises:
        ConfigError: no such recipe or base, a base of itself, not YAML, an unknown key, a missing one, or an
            impossible value; it is named.
    """
    tree: dict[str, Any] = {}
    for layer in (*_layers(source, _names(schema)), *map(_override, overrides)):
        _check_keys(layer)
        tree = _laid_over(tree, layer)
    return resolve_recipe(tree, schema)


def recipe_from(overrides: Sequence[str], schema: type[RecipeType]) -> RecipeType:
    """A recipe that no file holds, from overrides alone; raises as `load_recipe`."""
    from omegaconf import OmegaConf

    tree: Any = OmegaConf.to_container(OmegaConf.merge(*map(_override, overrides)))
    return resolve_recipe(tree, schema)


def resolve_recipe(tree: dict[str, Any], schema: type[RecipeType]) -> RecipeType:
    """A recipe from plain values, with defaults for what is not given; raises as `load_recipe`."""
    from omegaconf import OmegaConf
    from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

    _check_keys(tree)
    for name, section in _sections(schema).items():
        if name in tree and not isinstance(tree[name], dict):
            first = dataclasses.fields(section)[0].name
            raise ConfigError(
                f"recipe section '{name}' is {shown(tree[name])}; it must hold keys, such as {name}.{first}"
            )
    data = tree.get("data")
    if data is not None:
        alone = {key: [data[key]] for key in LISTS if isinstance(data.get(key), str) and data[key] != REQUIRED}
        tree = {**tree, "data": {**data, **alone}}
    typed = OmegaConf.structured(schema)
    _make_writable(typed)
    try:
        recipe: Any = OmegaConf.to_object(OmegaConf.merge(typed, tree))
    except ConfigKeyError as error:
        raise ConfigError(
            f"there is no recipe key '{error.full_key}'{_suggestion(str(error.full_key), schema)}"
        ) from error
    except MissingMandatoryValue as error:
        raise ConfigError(f"the recipe does not say {error.full_key}; add {error.full_key}=<value>") from error
    except (OmegaConfBaseException, *MALFORMED) as error:
        key = getattr(error, "full_key", None) or _culprit(typed, tree)
        raise ConfigError(f"{f'recipe key {key!r}' if key else 'the recipe'}: {_fault(error)}") from error
    for key, value in flat_keys(recipe).items():
        for single in value if isinstance(value, list) else [value]:
            if isinstance(single, int | float) and key != SEED:
                require(math.isfinite(single), key, single, "be a finite number")
                sized = single == 0 or SMALLEST <= abs(single) <= LARGEST
                require(sized, key, single, f"be 0 or between {SMALLEST:g} and {LARGEST:g} in size")
            written = not isinstance(single, str) or (is_text(single) and "\0" not in single)
            require(written, key, single, "be text in UTF-8 without zero bytes, as names of files are")
            named = key not in SOURCES or single is None or isinstance(single, str)
            require(named, key, value, "hold names of folders and manifests")
    for section in (*(getattr(recipe, key.name) for key in dataclasses.fields(recipe)), recipe):
        if isinstance(section, Section):
            try:
                section.check()
            except TypeError as error:  # a list or mapping inside a list of numbers
                raise ConfigError(f"a value of the recipe is of another kind than its key: {_fault(error)}") from error
    return recipe


def recipe_yaml(recipe: object) -> str:
    """The resolved form: every key with its value."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.structured(recipe))


def save_recipe(recipe: object, path: str | Path) -> None:
    """Write the resolved form; `load_recipe` reads it back to an equal recipe."""
    write_text(path, recipe_yaml(recipe))


def flat_keys(tree: Any, prefix: str = "") -> dict[str, Any]:
    """A recipe (or its class) as {"section.key": value (or type)}."""
    keys: dict[str, Any] = {}
    for key in dataclasses.fields(tree):
        value = getattr(tree, key.name, None) if not isinstance(tree, type) else key.default_factory
        if dataclasses.is_dataclass(value):
            keys |= flat_keys(value, f"{prefix}{key.name}.")
        else:
            keys[prefix + key.name] = value
    return keys


def key_kinds(schema: type, inherited: Kind = Kind.TRAINING, prefix: str = "") -> dict[str, Kind]:
    """The kind of each key of a recipe's class, as {"section.key": kind}."""
    kinds: dict[str, Kind] = {}
    types = get_type_hints(schema)
    for entry in dataclasses.fields(schema):
        kind = Kind(entry.metadata.get("kind", inherited))
        if dataclasses.is_dataclass(types[entry.name]):
            kinds |= key_kinds(types[entry.name], kind, f"{prefix}{entry.name}.")
        else:
            kinds[prefix + entry.name] = kind
    return kinds


def default_keys(recipe: Any, prefix: str = "") -> dict[str, Any]:
    """What a recipe's keys are where nobody says otherwise, as {"section.key": value}."""
    keys: dict[str, Any] = {}
    for key in dataclasses.fields(recipe):
        value = getattr(recipe, key.name)
        if dataclasses.is_dataclass(value):
            keys |= default_keys(value, f"{prefix}{key.name}.")
        elif key.default_factory is not dataclasses.MISSING:
            keys[prefix + key.name] = key.default_factory()
        else:
            keys[prefix + key.name] = key.default
    return keys


def _layers(source: str | Path, known: Sequence[str], below: tuple[Path, ...] = ()) -> list[dict[str, Any]]:
    """A recipe's file and those that it is based on, the deepest first.

    Args:
        known: names of sections, and of keys without one.
        below: files that led here, each based on the next.
    """
    path = recipe_path(source).resolve()
    chain = (*below, path)
    if path in below:
        raise ConfigError(f"a recipe cannot be its own base: {' -> '.join(file.name for file in chain)}")
    tree = _read(path, known)
    base = tree.pop(BASE, None)
    if base is None:
        return [tree]
    if not isinstance(base, str):
        raise ConfigError(f"{path.name}: {BASE} must be the name or path of one recipe, not {shown(base)}")
    beside = path.parent / f"{base.removesuffix('.yaml')}.yaml"
    try:
        found = beside if os.path.isfile(beside) else recipe_path(base)
    except ConfigError as error:
        raise ConfigError(f"{path.name} is based on a recipe that is not there: {error}") from error
    if found.suffix != ".yaml":
        raise ConfigError(f"{path.name}: {BASE} is {shown(base)}; recipes end in .yaml")
    return [*_layers(found, known, chain), tree]


def _read(path: Path, known: Sequence[str]) -> dict[str, Any]:
    """A recipe's file as plain values; references to other keys (${...}) stay as they are written.

    What stands in a file that is no recipe is not quoted: the path may lead to what is nobody's business.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        tree: Any = OmegaConf.to_container(OmegaConf.load(io.StringIO(bounded_yaml(path))))
    except OSError as error:
        raise ConfigError(f"the recipe {path} cannot be read: {error.strerror or NO_SECTIONS}") from error
    except (OmegaConfBaseException, yaml.YAMLError, *MALFORMED) as error:  # YAMLError: keys given twice, odd escapes
        raise ConfigError(f"the recipe {path} is not YAML: {yaml_fault(error)}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"the recipe {path} cannot be read: {NO_SECTIONS}")
    if tree and not any(str(key).partition(".")[0] in known for key in tree):
        raise ConfigError(f"{path} is no such recipe: it has none of the sections {', '.join(known)}")
    return tree


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Keys of both, of sections too; where both say something, what `above` says."""
    merged = dict(below)
    for key, value in above.items():
        here = below.get(key)
        if isinstance(value, dict) and isinstance(here, dict):
            merged[key] = _laid_over(here, value)
        elif key not in below or value != REQUIRED:
            merged[key] = value
    return merged


def _override(text: str) -> dict[str, Any]:
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"'{text}' does not override anything; write section.key=value")
    if not re.fullmatch(KEY, key):
        raise ConfigError(f"'{key}' is no recipe key; write section.key=value, and a list as key=[a,b]")
    try:
        check_yaml(value)
        tree: Any = OmegaConf.to_container(OmegaConf.from_dotlist([text]))
        return tree
    except (yaml.YAMLError, OmegaConfBaseException, *MALFORMED) as error:
        raise ConfigError(f"the value of {key} is not YAML: {_fault(error)}") from error


def _check_keys(tree: Any, prefix: str = "") -> None:
    """Raises ConfigError where a key is no word, or a section is written flat."""
    for key, value in tree.items() if isinstance(tree, dict) else ():
        if not isinstance(key, str) or not re.fullmatch(KEY, key):
            raise ConfigError(f"the recipe key {prefix}{shown(key)} is no word; check what stands there")
        if "." in key:
            section, _, rest = key.partition(".")
            raise ConfigError(
                f"the recipe has the key '{prefix}{key}' in one piece, as an override on the command line is written; "
                f"in a file it is a section: write '{section}:', and '{rest}:' indented below it"
            )
        _check_keys(value, f"{prefix}{key}.")


def _culprit(typed: Any, tree: dict[str, Any]) -> str | None:
    """The first key whose value does not fit, where OmegaConf does not say which; None if each alone does."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for section, keys in tree.items():
        for key, value in keys.items() if isinstance(keys, dict) else ():
            try:
                OmegaConf.merge(typed, {section: {key: value}})
            except (OmegaConfBaseException, *MALFORMED):
                return f"{section}.{key}"
    return None


def _fault(error: Exception) -> str:
    """The first line of a foreign message."""
    return printable(str(error)).partition("\n")[0][:300] or type(error).__name__


def _make_writable(typed: Any) -> None:
    """Sections that are frozen dataclasses are read-only to OmegaConf, but a recipe is where they get their values."""
    from omegaconf import OmegaConf

    for key in typed:
        if not OmegaConf.is_missing(typed, key) and OmegaConf.is_config(typed[key]):
            OmegaConf.set_readonly(typed[key], False)
            if OmegaConf.is_dict(typed[key]):
                _make_writable(typed[key])


def _names(schema: type) -> tuple[str, ...]:
    """Of what may stand at the left edge of a recipe's file."""
    return (*(key.name for key in dataclasses.fields(schema)), BASE)


def _sections(schema: type) -> dict[str, type]:
    found: dict[str, Any] = {key.name: key.default_factory for key in dataclasses.fields(schema)}
    return {name: kind for name, kind in found.items() if isinstance(kind, type) and dataclasses.is_dataclass(kind)}


def _suggestion(key: str, schema: type) -> str:
    """Near names of the same section, or all that it has."""
    section, _, name = key.rpartition(".")
    prefix = f"{section}." if section else ""
    inside = [known.removeprefix(prefix) for known in flat_keys(schema) if known.startswith(prefix)]
    siblings = list(dict.fromkeys(known.partition(".")[0] for known in inside))
    near = difflib.get_close_matches(name, siblings, n=1)
    if near:
        return f"; did you mean '{prefix}{near[0]}'?"
    return f"; {section or 'a recipe'} has {', '.join(siblings)}"
