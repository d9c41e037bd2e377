"""Shapes in fairseq's words, which WavLM's and s3prl's files use too."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any

from ...errors import ConfigError
from ...parsing import MALFORMED, MAX_INTEGER, shown
from ..config import MAX_CONVOLUTIONS

LONGEST_NOTATION = 2000  # characters
# what the configurations of WavLM, LightHuBERT and s3prl's Distiller say by default; each module adds what is its own
BASE = {
    "conv_feature_layers": "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2",
    "extractor_mode": "default",
    "conv_bias": False,
    "encoder_layers": 12,
    "encoder_embed_dim": 768,
    "encoder_attention_heads": 12,
    "encoder_ffn_embed_dim": 3072,
    "layer_norm_first": False,
    "conv_pos": 128,
    "conv_pos_groups": 16,
    "pos_conv_depth": 1,
}


def parse_conv_layers(text: str) -> tuple[tuple[int, int, int], ...]:
    """The convolutions in fairseq's notation, lists of (dim, kernel, stride) joined by + and repeated by *.

    >>> parse_conv_layers("[(512,10,5)] + [(512,3,2)] * 2")
    ((512, 10, 5), (512, 3, 2), (512, 3, 2))

    Raises:
        ConfigError: anything else; the string is parsed, never run.
    """
    if not isinstance(text, str) or len(text) > LONGEST_NOTATION:
        raise ConfigError(f"conv_feature_layers {shown(text)} is not text of at most {LONGEST_NOTATION} characters")
    try:
        blocks = _conv_list(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, MemoryError, *MALFORMED) as error:  # MemoryError: Python's word for too many brackets
        raise ConfigError(f"conv_feature_layers {shown(text)} is not a list of (dim, kernel, stride)") from error
    for block in blocks:
        if not (isinstance(block, tuple) and len(block) == 3 and all(type(n) is int for n in block)):
            raise ConfigError(f"conv_feature_layers {shown(text)}: {shown(block)} is not (dim, kernel, stride)")
    return tuple(blocks)


def _conv_list(node: ast.expr) -> list[Any]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _conv_list(node.left) + _conv_list(node.right)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        times = ast.literal_eval(node.right)
        if not isinstance(times, int) or not 1 <= times <= MAX_CONVOLUTIONS:
            raise ValueError(f"a list repeated {times} times")
        blocks = _conv_list(node.left)
        if len(blocks) * times > MAX_CONVOLUTIONS:
            raise ValueError(f"{len(blocks) * times} convolutions")
        return blocks * times
    return list(ast.literal_eval(node))


def whole(name: str, value: Any) -> int:
    """A count among foreign options. Raises ConfigError, which names it, where it is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or abs(value) >= MAX_INTEGER:
        raise ConfigError(f"{name} is {shown(value)}; it must be a whole number")
    return value


def flag(name: str, value: Any) -> bool:
    """A yes or no among foreign options; also as 0 or 1. Raises ConfigError, which names it, where it is neither."""
    if not isinstance(value, bool | int) or value not in (0, 1):
        raise ConfigError(f"{name} is {shown(value)}; it must be true or false")
    return bool(value)


def word(name: str, value: Any) -> str:
    """A name among foreign options. Raises ConfigError where it is none."""
    if not isinstance(value, str):
        raise ConfigError(f"{name} is {shown(value)}; it must be a word")
    return value


def options_of(value: Any, where: str) -> Mapping[str, Any]:
    """Options by name. Raises ConfigError where `value` is no mapping."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} is {shown(value)}; it must map options to values")
    return value


# fairseq's option (fairseq/models/wav2vec/wav2vec2.py, class Wav2Vec2Config) -> argument of `dense_config`
OPTIONS: dict[str, tuple[str, Callable[[str, Any], Any]]] = {
    "conv_feature_layers": ("conv_layers", lambda _, text: parse_conv_layers(text)),
    "extractor_mode": ("extractor_mode", word),
    "conv_bias": ("conv_bias", flag),
    "encoder_layers": ("num_layers", whole),
    "encoder_embed_dim": ("embed_dim", whole),
    "encoder_attention_heads": ("num_heads", whole),
    "encoder_ffn_embed_dim": ("ffn_dim", whole),
    "layer_norm_first": ("layer_norm_first", flag),
    "conv_pos": ("conv_pos", whole),
    "conv_pos_groups": ("conv_pos_groups", whole),
    "pos_conv_depth": ("conv_pos_depth", whole),
}
# options that change what is computed, and the one value each may have
FIXED = {
    "activation_fn": "gelu",
    "layer_type": "transformer",
    "attention_type": "original",
    "quantize_input": False,
    "conv_pos_batch_norm": False,
    "crop_seq_to_multiple": 1,
}


def shape(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `dense_config` from fairseq's options.

    Args:
        defaults: values of options that a file may leave out; every other one of `OPTIONS` must be there.

    Raises:
        ConfigError: an option is missing, or has a value that changes what is computed in a way that is not supported.
    """
    options = options_of(options, "what stands for the options")
    for name, value in FIXED.items():
        if options.get(name, value) != value:
            raise ConfigError(f"{name} {shown(options[name])} is not supported; the published encoders use {value}")
    missing = sorted(OPTIONS.keys() - options.keys() - defaults.keys())
    if missing:
        raise ConfigError(f"the options do not say {', '.join(missing)}, and a shape is not guessed")
    given = {**defaults, **options}
    return {argument: read(name, given[name]) for name, (argument, read) in OPTIONS.items()}
