"""Shapes in fairseq's words, which WavLM's and s3prl's files use too."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any

from ...errors import ConfigError


def parse_conv_layers(text: str) -> tuple[tuple[int, int, int], ...]:
    """The convolutions in fairseq's notation, lists of (dim, kernel, stride) joined by + and repeated by *.

    >>> parse_conv_layers("[(512,10,5)] + [(512,3,2)] * 2")
    ((512, 10, 5), (512, 3, 2), (512, 3, 2))

    Raises:
        ConfigError: anything else; the string is parsed, never run.
    """
    try:
        blocks = _conv_list(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"conv_feature_layers {text!r} is not a list of (dim, kernel, stride)") from error
    for block in blocks:
        if not (isinstance(block, tuple) and len(block) == 3 and all(isinstance(n, int) for n in block)):
            raise ConfigError(f"conv_feature_layers {text!r}: {block!r} is not (dim, kernel, stride)")
    return tuple(blocks)


def _conv_list(node: ast.expr) -> list[Any]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _conv_list(node.left) + _conv_list(node.right)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        times = ast.literal_eval(node.right)
        if not isinstance(times, int) or not 1 <= times <= 64:
            raise ValueError(f"a list repeated {times} times")
        return _conv_list(node.left) * times
    return list(ast.literal_eval(node))


# fairseq's option (fairseq/models/wav2vec/wav2vec2.py, class Wav2Vec2Config) -> argument of `dense_config`
OPTIONS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "conv_feature_layers": ("conv_layers", parse_conv_layers),
    "extractor_mode": ("extractor_mode", str),
    "conv_bias": ("conv_bias", bool),
    "encoder_layers": ("num_layers", int),
    "encoder_embed_dim": ("embed_dim", int),
    "encoder_attention_heads": ("num_heads", int),
    "encoder_ffn_embed_dim": ("ffn_dim", int),
    "layer_norm_first": ("layer_norm_first", bool),
    "conv_pos": ("conv_pos", int),
    "conv_pos_groups": ("conv_pos_groups", int),
    "pos_conv_depth": ("conv_pos_depth", int),
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
    if not isinstance(options, Mapping):
        raise ConfigError(f"the options are not a dictionary but {type(options).__name__}")
    for name, value in FIXED.items():
        if options.get(name, value) != value:
            raise ConfigError(f"{name} '{options[name]}' is not supported; the published encoders use {value}")
    missing = sorted(OPTIONS.keys() - options.keys() - defaults.keys())
    if missing:
        raise ConfigError(f"the options do not say {', '.join(missing)}, and a shape is not guessed")
    given = {**defaults, **options}
    return {argument: read(given[name]) for name, (argument, read) in OPTIONS.items()}
