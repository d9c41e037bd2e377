"""Our model file: one safetensors with everything needed to rebuild the encoder.

| part of the file | what it holds |
|---|---|
| metadata `format`, `version` | "pruned_upstream", the version of this layout |
| metadata `config` | `EncoderConfig` as JSON: front end, transformer shape, living heads of every layer |
| metadata `provenance` | JSON of strings: teacher, recipe, commit, whatever the writer knows |
| `feature_extractor.conv_layers.{i}.0.*` | convolution i (living channels) |
| `feature_extractor.conv_layers.{i}.2.*` / `.2.1.*` | its group norm / layer norm |
| `feature_extractor.scale` | factor a channel, only where fractional channel gates were folded |
| `layer_norm.*`, `post_extract_proj.*` | norm (DistilHuBERT: none) and projection of the features |
| `encoder.pos_conv.{i}.*` | position convolution (`weight_g`, `weight_v`, `bias`; data2vec: `0.weight`, `0.bias`) |
| `encoder.positions` | Whisper's table of positions instead, (frames of a window, d) |
| `encoder.relative_attention_bias.weight` | (buckets, heads of the dense model), shared by all layers |
| `encoder.layers.{i}.self_attn.{q,k}_proj.*` | rows head after head, `head.qk` each; Whisper has no bias in `k_proj` |
| `encoder.layers.{i}.self_attn.v_proj.*` | rows head after head, `head.vo` each |
| `encoder.layers.{i}.self_attn.out_proj.*` | columns head after head; the bias alone where no head lives |
| `encoder.layers.{i}.self_attn.grep_linear.*`, `.grep_a` | WavLM's position gate, one `grep_a` per living head |
| `encoder.layers.{i}.fc1.*`, `.fc2.*` | feed-forward; the bias of fc2 alone where no dimension lives |
| `encoder.layers.{i}.self_attn_layer_norm.*`, `.final_layer_norm.*`, `encoder.layer_norm.*` | always there |
| `prediction_heads.{i}.{0,2}.*` | only where a distilled student kept them |

Widths are exactly ragged; what is padded for computing is never saved.

A weight matrix with zeros here and there (PARP) is stored as what survives. Such a file has the version 2, which adds

| part of the file | what it holds |
|---|---|
| metadata `sparse` | JSON: name of each such tensor -> its shape |
| `{name}.mask` | uint8, one bit per weight in row-major order, lowest bit first, 1 where it lives; spare bits are 0 |
| `{name}.values` | the living weights in that order |

in place of `{name}`, and is loaded as the dense tensor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import CheckpointError, ConfigError
from ..files import atomic_write
from ..parsing import MALFORMED, as_utf8, printable, shown
from .config import EncoderConfig
from .encoder import Dropout, Encoder
from .graphs import FrameGraphs
from .header import (
    CONVERSION,
    FORMAT,
    SPARSE_VERSION,
    VERSION,
    Header,
    check_readable,
    is_onnx,
    is_pickle,
    parse_header,
)
from .hub import local_file
from .onnx_file import read_onnx_header
from .size import count_parameters

MASK, VALUES = ".mask", ".values"
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def save(
    path: str | Path,
    encoder: Encoder,
    *,
    provenance: Mapping[str, str] | None = None,
    masks: Mapping[str, Tensor] | None = None,
) -> None:
    """Write an encoder and its description to one file, whole or not at all.

    Args:
        provenance: where the model comes from (teacher, recipe, commit ...).
        masks: of tensors that are zero where their mask is False; of these the file holds the rest alone.

    Raises:
        ConfigError: `encoder` is no Encoder, or holds other tensors than its `config` describes.
        PrunedUpstreamError: the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    if not isinstance(encoder, Encoder):
        raise ConfigError(
            f"an Encoder can be saved, and this is a {type(encoder).__name__}; give the Encoder in it, of peft "
            "`model.merge_and_unload()`"
        )
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    misfit = _misfit(_blank(encoder.config, encoder.dropout), tensors)
    if misfit:
        raise ConfigError(
            f"the encoder is not what its config describes, so no file of it could be loaded: {misfit}; merge "
            "adapters, masks and parametrizations first, and change `config` with its layers"
        )
    metadata = {
        "format": FORMAT,
        "version": SPARSE_VERSION if masks else VERSION,
        "config": encoder.config.to_json(),
        "provenance": json.dumps({key: as_utf8(value) for key, value in (provenance or {}).items()}, sort_keys=True),
    }
    if masks:
        metadata["sparse"] = json.dumps({name: list(mask.shape) for name, mask in masks.items()}, sort_keys=True)
        for name, mask in masks.items():
            tensors |= _survivors(name, tensors.pop(name), mask.cpu())
    with atomic_write(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:  # its word for a full disk
            raise OSError(str(error)) from error


def read_header(path: str | Path) -> Header:
    """The description inside a model file, or inside an ONNX file that was exported from one.

    Args:
        path: also a name on the hub, as `hub.py` spells them; so wherever a model file is read.

    Raises:
        CheckpointError: the file is missing, damaged, of another kind or of an unknown version.
    """
    path = local_file(path)
    return read_onnx_header(path) if is_onnx(path) else _read(path, with_tensors=False)[0]


def read_masks(path: str | Path) -> dict[str, Tensor]:
    """Which weights live in the tensors that a model file stores as survivors; empty for a dense file.

    Raises:
        CheckpointError: as `read_header`; or a mask is damaged.
    """
    path = local_file(path)
    if not read_header(path).sparse:
        return {}
    header, tensors = _read(path, with_tensors=True)
    return {name: _mask(str(path), name, shape, tensors) for name, shape in header.sparse.items()}


def load(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    dropout: Dropout = Dropout(),
    graphs: bool = False,
) -> Encoder:
    """The encoder of a model file, in evaluation mode.

    Examples:
        >>> encoder = load("compact.safetensors")
        >>> with torch.no_grad():
        ...     hidden_states = encoder.extract(torch.randn(16000)).hidden_states

    Args:
        device: where it computes; `extract` brings audio there.
        dtype: of parameters and hidden states: torch.float32, float64, bfloat16 or float16.
        graphs: on a GPU and without gradients the transformer is replayed from CUDA graphs (`graphs.py`).

    Raises:
        ConfigError: `dtype` is none of these, `dropout` no Dropout, or there is no such device here.
        CheckpointError: as `read_header`; or a tensor is missing, unexpected or of another shape.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype is {dtype}; it must be {', '.join(map(str, DTYPES[:-1]))} or {DTYPES[-1]}")
    if not isinstance(dropout, Dropout):
        raise ConfigError(f"dropout is {dropout}; it must be a Dropout, as Dropout(hidden=0.1)")
    _require_device(device)
    path = local_file(path)
    header, tensors = _read(path, with_tensors=True)
    for name, shape in header.sparse.items():
        mask = _mask(str(path), name, shape, tensors)
        del tensors[name + MASK]
        tensors[name] = torch.zeros(shape, dtype=tensors[name + VALUES].dtype).masked_scatter_(
            mask, tensors.pop(name + VALUES)
        )
    encoder = assemble(header.config, tensors, source=str(path), dropout=dropout).to(device, dtype)
    if graphs:
        encoder.graphs = FrameGraphs()
    return encoder


def _require_device(device: str | torch.device) -> None:
    """Raises ConfigError for a device that torch does not know or does not find."""
    try:
        torch.empty(0, device=device)
    except (
        AssertionError,
        NotImplementedError,
        RuntimeError,
        TypeError,
    ) as error:  # torch's words for it, by kind of device
        reason = printable(str(error)).strip().partition("\n")[0]
        raise ConfigError(f"device is {device}, which cannot be used here ({reason}); use cpu") from error


def assemble(
    config: EncoderConfig, tensors: Mapping[str, Tensor], *, source: str, dropout: Dropout = Dropout()
) -> Encoder:
    """An encoder in evaluation mode with exactly these weights.

    Raises:
        CheckpointError: a tensor is missing, unexpected, of another shape, no dense tensor of floating-point numbers,
            or holds NaN or infinity; it is named, and `source` too.
    """
    _check_storage(config, tensors, source)
    encoder = _blank(config, dropout)
    misfit = _misfit(encoder, tensors)
    if misfit:
        raise CheckpointError(f"{source} does not fit its own description: {misfit}")
    state = {name: tensor.to(torch.float32, copy=True) for name, tensor in tensors.items()}
    _check_finite(state, source)
    nn.Module.load_state_dict(encoder, state, strict=True, assign=True)
    return encoder.eval()


def _blank(config: EncoderConfig, dropout: Dropout) -> Encoder:
    with torch.device("meta"):  # no random weights are drawn to be thrown away
        return Encoder(config, dropout)


def _misfit(blank: Encoder, tensors: Mapping[str, Tensor]) -> str | None:
    """Which tensors an encoder of this shape lacks, has too many or has in another shape; None where all fit."""
    wanted = {name: tuple(tensor.shape) for name, tensor in blank.state_dict().items()}
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or extra:
        return f"missing tensors {_some(missing)}, unexpected {_some(extra)}"
    for name, shape in wanted.items():
        if tuple(tensors[name].shape) != shape:
            return f"tensor {name} has shape {tuple(tensors[name].shape)} where the description wants {shape}"
    return None


def _check_storage(config: EncoderConfig, tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse what is no plain tensor, and a description of far more weights than there are, before any is built."""
    stored: dict[int, int] = {}
    for name, tensor in tensors.items():
        # the file's own word for what it holds, where it holds no numbers as they are
        kind = next((kind for kind, is_so in _NOT_PLAIN.items() if is_so(tensor)), None)
        if kind is not None:
            raise CheckpointError(
                f"{source}: tensor {shown(name)} is {kind}; the weights of an encoder are dense floating-point numbers"
            )
        storage = tensor.untyped_storage()
        stored[storage.data_ptr()] = storage.nbytes()
    wanted = count_parameters(config)
    if wanted > SLACK_FACTOR * sum(stored.values()) + SLACK:
        raise CheckpointError(
            f"{source} describes an encoder of {wanted:,} weights, and holds {sum(stored.values()):,} bytes of them; "
            "its description is damaged"
        )


# a fitting file has at least a byte for each weight; where a tensor is merely missing, its name says more
SLACK_FACTOR, SLACK = 2, 1 << 20
_NOT_PLAIN = {
    "quantised": lambda tensor: tensor.is_quantized,
    "sparse": lambda tensor: tensor.layout != torch.strided,
    "without values (meta)": lambda tensor: tensor.is_meta,
    "of whole or complex numbers": lambda tensor: not tensor.is_floating_point(),
    "stored as fewer numbers than it has": lambda tensor: (
        tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()
    ),
}


def _check_finite(state: Mapping[str, Tensor], source: str) -> None:
    for name, tensor in state.items():
        # a finite sum has finite summands, and takes a tenth of the time; one that is not may be a sum of large ones
        if not tensor.sum().isfinite() and not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            raise CheckpointError(
                f"{source}: tensor {name} holds NaN or infinity ({bad:,} of {tensor.numel():,} values); the model "
                "diverged, or the file is damaged: take another copy"
            )


def _read(path: Path, *, with_tensors: bool) -> tuple[Header, dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    check_readable(path)
    if is_pickle(path):
        raise CheckpointError(f"{path} is a checkpoint of torch, no model file of ours; {CONVERSION.format(path)}")
    if is_onnx(path):
        raise CheckpointError(
            f"{path} is an ONNX file, whose weights onnxruntime alone can use; name the model file it was exported from"
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = parse_header(path, file.metadata() or {})
            if with_tensors:
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            else:
                tensors = {}
                _check_count(path, header, {name: file.get_slice(name).get_shape() for name in file.keys()})
    except MALFORMED as error:
        raise CheckpointError(f"{path} holds tensors that cannot be read ({shown(str(error))})") from error
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a complete safetensors file ({error}); it was truncated, or is of another kind. "
            f"Of a published checkpoint, {CONVERSION.format(path)}"
        ) from error
    return header, tensors


def _check_count(path: Path, header: Header, shapes: Mapping[str, Sequence[int]]) -> None:
    """Hold the described number of weights against that of the tensors; `assemble` would say which do not fit."""
    sparse = {name + ending for name in header.sparse for ending in (MASK, VALUES)}
    held = sum(math.prod(shape) for name, shape in shapes.items() if name not in sparse)
    held += sum(math.prod(shape) for shape in header.sparse.values())
    wanted = count_parameters(header.config) + header.config.positions * header.config.embed_dim  # a table, not learned
    if wanted != held:
        raise CheckpointError(
            f"{path} describes an encoder of {wanted:,} weights, and holds {held:,}; it is damaged, take another copy"
        )


def _survivors(name: str, tensor: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """The two tensors that a sparse tensor is stored as."""
    if tensor.shape != mask.shape or tensor[~mask].count_nonzero():
        raise ValueError(f"{name} has another shape than its mask, or is not zero where the mask is False")
    bits = np.packbits(mask.flatten().numpy(), bitorder="little")
    return {name + MASK: torch.from_numpy(bits), name + VALUES: tensor[mask]}


def _mask(source: str, name: str, shape: tuple[int, ...], tensors: Mapping[str, Tensor]) -> Tensor:
    """The mask of a sparse tensor, of the tensor's shape; raises CheckpointError where it does not fit its values."""
    if name + MASK not in tensors or name + VALUES not in tensors:
        raise CheckpointError(f"{source} calls {name} sparse, but its mask or its values are missing")
    stored, count = tensors[name + MASK], math.prod(shape)
    if stored.dtype != torch.uint8 or stored.numel() != -(-count // 8):
        raise CheckpointError(f"{source}: the mask of {name} is not one bit for each of {count} weights")
    bits = torch.from_numpy(np.unpackbits(stored.flatten().numpy(), bitorder="little")).bool()
    if bits[count:].any() or int(bits.sum()) != tensors[name + VALUES].numel():
        raise CheckpointError(
            f"{source}: the mask of {name} says that {int(bits.sum())} weights live, and the file holds "
            f"{tensors[name + VALUES].numel()}"
        )
    return bits[:count].view(shape)


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:4])
    return f"{shown} and {len(names) - 4} more" if len(names) > 4 else (shown or "none")
