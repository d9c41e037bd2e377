"""LightHuBERT (Wang et al., Interspeech 2022): one subnet of its supernet, as a compact encoder.

A file holds {"cfg": {"model": options}, "model": weights} of a supernet, a HuBERT whose weights many widths share
(mechanicalsea/lighthubert, lighthubert/{lighthubert.py, modules/scaling_*.py}, main d53e545). Of width d, a subnet has:

| of the supernet | the subnet's share |
|---|---|
| projections, norms, q, k, v and the output of attention | the first d rows or columns, and the first heads of 64 |
| feed-forward of n times the width | the first d of each of its n stretches, until it has enough |
| position convolution | the first d / groups inputs and d outputs of the weight after its weight norm |
| twelve layers | less those of `DROPPED`, in this order |

Which subnet: the file's own ("subnet", a dictionary as `sample_subnet` of the public code makes it, where somebody
put it there), else the one that s3prl takes (s3prl 0.4.18, upstream/lighthubert/expert.py): the published subnet of the
base or small supernet, and of the first stage (`student_hubert`), which is no supernet yet, the whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import ConfigError
from ...parsing import shown
from ..config import EncoderConfig, Head, TransformerLayer, dense_config
from .fairseq import without_pretraining
from .pickles import plain
from .shapes import BASE, options_of, shape, whole
from .source import Found

SUPERNET, FIRST_STAGE = "hubert_pruner", "student_hubert"
HEAD_WIDTH = 64  # of every subnet
LAYERS = 12  # of every supernet
DROPPED = (11, 7, 3, 10, 6, 2)  # layers that a shallower subnet lacks
PREDICTION_HEADS = "layer_pred_heads."  # to the teacher's hidden states
LAYER = "encoder.layers."
WEIGHT_NORM = ("encoder.pos_conv.0.weight_g", "encoder.pos_conv.0.weight_v")
# of the public class LightHuBERTConfig
DEFAULTS = BASE | {"extractor_mode": "layer_norm", "encoder_layers": LAYERS}


@dataclass(frozen=True)
class Subnet:
    """The sizes of a subnet: of each of its layers, how many heads and how wide a feed-forward."""

    embed_dim: int
    heads: tuple[int, ...]
    ffn: tuple[int, ...]

    @classmethod
    def uniform(cls, embed_dim: int) -> Subnet:
        """As every published one: heads of 64, a feed-forward of four times the width, all layers alike."""
        return cls(embed_dim, (embed_dim // HEAD_WIDTH,) * LAYERS, (4 * embed_dim,) * LAYERS)

    @property
    def layers(self) -> list[int]:
        """The supernet's numbers of the layers it keeps."""
        gone = DROPPED[: LAYERS - len(self.heads)]
        return [i for i in range(LAYERS) if i not in gone]


PUBLISHED = {"base": Subnet.uniform(640), "small": Subnet.uniform(384)}
WHOLE = Subnet.uniform(768)


def recognises(checkpoint: Mapping[str, Any]) -> bool:
    """Whether it is LightHuBERT's supernet or one of its subnets."""
    cfg = plain(checkpoint.get("cfg"))
    model = cfg.get("model") if isinstance(cfg, dict) else None
    return "model" in checkpoint and isinstance(model, dict) and model.get("_name") in (SUPERNET, FIRST_STAGE)


def read(checkpoint: Mapping[str, Any]) -> Found:
    """Raises ConfigError for a subnet that the supernet does not contain, or that no `EncoderConfig` describes."""
    options = options_of(plain(checkpoint["cfg"])["model"], "cfg.model")
    if not options.get("prune_encoder_pos_conv", True):
        raise ConfigError("prune_encoder_pos_conv false: position convolutions wider than the subnet are not supported")
    supernet = shape(options, DEFAULTS)
    given = checkpoint.get("subnet")
    subnet = _default(options) if given is None else _given(options_of(plain(given), "subnet"))
    _require_contained(subnet, supernet)
    weights = {n: t for n, t in without_pretraining(checkpoint["model"]).items() if not n.startswith(PREDICTION_HEADS)}
    return Found(_config(subnet, supernet), _cut(weights, subnet, supernet))


def _default(options: Mapping[str, Any]) -> Subnet:
    if options["_name"] == FIRST_STAGE:
        return WHOLE
    named = str(options.get("pruner_supernet", "")).lower()
    for name, subnet in PUBLISHED.items():
        if named.endswith(f"{name}.yaml"):
            return subnet
    known = " or ".join(f"{name}.yaml" for name in PUBLISHED)
    raise ConfigError(
        f"pruner_supernet is {shown(options.get('pruner_supernet'))}; it should end in {known}, or the file hold "
        "the sizes of a subnet ('subnet')"
    )


def _given(tree: Mapping[str, Any]) -> Subnet:
    missing = {"layer_num", "embed_dim", "heads_num", "ffn_embed"} - tree.keys()
    if missing:
        raise ConfigError(f"the subnet does not say {', '.join(sorted(missing))}")
    depth = whole("layer_num", tree["layer_num"])
    windows = tree.get("slide_wsz") or ["global"]
    if not isinstance(windows, list | tuple) or any(window != "global" for window in windows):
        raise ConfigError(
            f"slide_wsz is {shown(windows)}; attention within a sliding window is not supported, only 'global'"
        )
    sizes = {}
    for key in ("heads_num", "ffn_embed"):
        if not isinstance(tree[key], list | tuple) or len(tree[key]) != depth:
            raise ConfigError(f"{key} is {shown(tree[key])}; it must list a number for each of {depth} layers")
        sizes[key] = tuple(whole(key, size) for size in tree[key])
    return Subnet(whole("embed_dim", tree["embed_dim"]), sizes["heads_num"], sizes["ffn_embed"])


def _require_contained(subnet: Subnet, supernet: Mapping[str, Any]) -> None:
    d, depth = subnet.embed_dim, len(subnet.heads)
    if supernet["num_layers"] != LAYERS or not LAYERS - len(DROPPED) <= depth <= LAYERS:
        raise ConfigError(
            f"{depth} of {supernet['num_layers']} layers; LightHuBERT's code knows which {LAYERS - len(DROPPED)} to "
            f"{LAYERS} of {LAYERS} to take"
        )
    if supernet["embed_dim"] != HEAD_WIDTH * supernet["num_heads"]:
        raise ConfigError(f"{supernet['num_heads']} heads in a width of {supernet['embed_dim']}; a head has 64")
    if supernet["embed_dim"] < 1 or supernet["ffn_dim"] % supernet["embed_dim"]:
        raise ConfigError(
            f"a feed-forward of {supernet['ffn_dim']} in a width of {supernet['embed_dim']} has no splits"
        )
    if not 1 <= d <= supernet["embed_dim"] or d % HEAD_WIDTH:
        raise ConfigError(f"embed_dim {d} of a subnet is not a multiple of 64 from 64 to {supernet['embed_dim']}")
    if d == supernet["conv_layers"][-1][0] != supernet["embed_dim"]:
        raise ConfigError(
            f"embed_dim {d} is the width of the features too; then an encoder of ours has no projection between them, "
            "and this subnet has one"
        )
    if not all(1 <= heads <= d // HEAD_WIDTH for heads in subnet.heads):
        raise ConfigError(
            f"heads_num {shown(list(subnet.heads))}: an encoder of width {d} has at most {d // HEAD_WIDTH} heads of 64"
        )
    most = supernet["ffn_dim"] // supernet["embed_dim"] * d
    if not all(1 <= ffn <= most for ffn in subnet.ffn):
        raise ConfigError(f"ffn_embed {shown(list(subnet.ffn))}: at a width of {d} the supernet has at most {most}")


def _config(subnet: Subnet, supernet: Mapping[str, Any]) -> EncoderConfig:
    heads = [Head(i, HEAD_WIDTH, HEAD_WIDTH) for i in range(max(subnet.heads))]
    layers = tuple(
        TransformerLayer(attention=True, heads=tuple(heads[:count]), feed_forward=True, ffn=ffn)
        for count, ffn in zip(subnet.heads, subnet.ffn, strict=True)
    )
    own = {
        "num_layers": len(layers),
        "embed_dim": subnet.embed_dim,
        "num_heads": subnet.embed_dim // HEAD_WIDTH,
        "ffn_dim": max(subnet.ffn),
    }
    # s3prl's expert normalises waveforms, whatever the front end
    return dataclasses.replace(dense_config(family="hubert", normalize=True, **{**supernet, **own}), layers=layers)


def _cut(weights: Mapping[str, Tensor], subnet: Subnet, supernet: Mapping[str, Any]) -> dict[str, Tensor]:
    """The subnet's share of every tensor; tensors of an unknown name are left as they are, for the loader to refuse."""
    d, groups = subnet.embed_dim, supernet["conv_pos_groups"]
    kept = {number: own for own, number in enumerate(subnet.layers)}
    cut: dict[str, Tensor] = {}
    for name, tensor in _without_weight_norm(weights).items():
        if name.startswith(("post_extract_proj.", "encoder.layer_norm.")):
            cut[name] = tensor[:d]
        elif name.startswith("encoder.pos_conv."):
            cut[name] = tensor[:d] if tensor.dim() == 1 else tensor[:d, : d // groups]
        elif name.startswith(LAYER):
            number, _, inside = name.removeprefix(LAYER).partition(".")
            own = kept.get(int(number))
            if own is not None:
                ffn = _ffn(subnet.ffn[own], d, supernet)
                share = _of_layer(inside, tensor, d, HEAD_WIDTH * subnet.heads[own], ffn)
                cut[f"{LAYER}{own}.{inside}"] = share
        else:
            cut[name] = tensor
    return _with_weight_norm(cut)


def _of_layer(name: str, tensor: Tensor, d: int, attention: int, ffn: Tensor) -> Tensor:
    module, _, kind = name.rpartition(".")
    is_weight = kind == "weight"
    if module in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
        return tensor[:attention, :d] if is_weight else tensor[:attention]
    if module == "self_attn.out_proj" and is_weight:
        return tensor[:d, :attention]
    if module == "fc1":
        return tensor[ffn, :d] if is_weight else tensor[ffn]
    if module == "fc2" and is_weight:
        return tensor[:d, ffn]
    return tensor[:d]


def _ffn(size: int, d: int, supernet: Mapping[str, Any]) -> Tensor:
    """The numbers of the feed-forward's dimensions: the first d of every stretch as long as the supernet is wide."""
    whole_ffn, width = supernet["ffn_dim"], supernet["embed_dim"]
    dimensions = torch.arange(whole_ffn)
    if size == whole_ffn or whole_ffn == width:
        return dimensions[:size]
    return dimensions.view(-1, width)[:, :d].flatten()[:size]


def _without_weight_norm(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not all(name in weights for name in WEIGHT_NORM):
        return dict(weights)
    g, v = (weights[name] for name in WEIGHT_NORM)
    rest = {name: tensor for name, tensor in weights.items() if name not in WEIGHT_NORM}
    return rest | {WEIGHT_NORM[1]: v * (g / v.norm(dim=(0, 1), keepdim=True))}


def _with_weight_norm(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A share of a weight, whose norm is another than the whole weight's."""
    v = weights.get(WEIGHT_NORM[1])
    if v is None or v.dim() != 3:
        return weights
    return weights | {WEIGHT_NORM[0]: v.norm(dim=(0, 1), keepdim=True)}
