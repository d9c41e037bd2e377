"""Checkpoints in the structure in which others publish theirs, with random weights.

The models are s3prl's own copies of fairseq's classes, so their tensors bear fairseq's names.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import math
import sys
import types
from typing import Any

import numpy as np
import torch
from tiny import fairseq_options, tiny_config
from torch import nn

from pruned_upstream.model.config import dense_config

TINY = fairseq_options(tiny_config(relative_position=None)) | {"final_dim": 10}
# of HuBERT Large and wav2vec 2.0 LV-60
LARGE = dict(extractor_mode="layer_norm", layer_norm_first=True)
# two layers as wide as the published Base (Large) ones; the convolutions as their files write them
BASE_WIDTH = fairseq_options(dense_config(num_layers=2)) | dict(
    conv_feature_layers="[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2", final_dim=256
)
LARGE_WIDTH = BASE_WIDTH | dict(
    encoder_embed_dim=1024, encoder_ffn_embed_dim=4096, encoder_attention_heads=16, final_dim=768, **LARGE
)


def fairseq_model(kind: str, **options: Any) -> tuple[nn.Module, dict[str, Any]]:
    """A model of fairseq in evaluation mode, every parameter random, and its options as fairseq saves them."""
    options = TINY | options
    if kind == "hubert":
        from s3prl.upstream.hubert.hubert_model import HubertConfig, HubertModel, HubertPretrainingConfig

        config = HubertConfig(label_rate=50, **options)
        model = HubertModel(config, HubertPretrainingConfig(), [["a", "b", "c"]])
    elif kind == "wav2vec2":
        from s3prl.upstream.wav2vec2.wav2vec2_model import Wav2Vec2Config, Wav2Vec2Model

        config = Wav2Vec2Config(quantize_targets=True, latent_vars=6, latent_dim=8, **options)
        model = Wav2Vec2Model(config)
    else:
        from s3prl.upstream.data2vec.data2vec_model import Data2VecAudioConfig, Data2VecAudioModel

        options = {"pos_conv_depth": 3, **options, "extractor_mode": "layer_norm"}
        config = Data2VecAudioConfig(**options)
        model = Data2VecAudioModel(config)
    randomise(model)
    return model.eval(), dataclasses.asdict(config) | {"_name": {"data2vec": "data2vec_audio"}.get(kind, kind)}


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0) -> None:
    """Every parameter, norms and biases too, so that none can be forgotten unseen."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1 and name.endswith("weight") or name.endswith(("weight_g", "gru_rel_pos_const")):
            parameter.uniform_(0.5, 1.5, generator=generator)
        elif parameter.dim() == 1:
            parameter.normal_(std=0.2, generator=generator)
        else:
            parameter.normal_(std=math.prod(parameter.shape[1:]) ** -0.5, generator=generator)


def before_hydra(model: nn.Module, options: dict[str, Any], *, normalize: bool) -> dict[str, Any]:
    """As wav2vec_small.pt: one Namespace for everything."""
    flat = {name: value for name, value in options.items() if name != "_name"}
    args = argparse.Namespace(arch=options["_name"], normalize=normalize, lr=[0.0005], **flat)
    return {"args": args, "model": model.state_dict()} | _of_the_trainer()


def since_hydra(model: nn.Module, options: dict[str, Any], *, normalize: bool) -> dict[str, Any]:
    """As hubert_base_ls960.pt: nested dictionaries, and beside them what a trainer and its task remember."""
    cfg = {"_name": None, "common": {"fp16": True}, "model": options, "task": {"_name": "t", "normalize": normalize}}
    weights = model.state_dict()
    if options["_name"] == "data2vec_audio":
        weights["_ema"] = collections.OrderedDict(teacher=torch.zeros(2))
    return {"args": None, "cfg": cfg, "model": weights} | _of_the_trainer()


def with_omegaconf(model: nn.Module, options: dict[str, Any], *, normalize: bool) -> dict[str, Any]:
    """As a training that was saved without making its options plain."""
    from omegaconf import OmegaConf

    checkpoint = since_hydra(model, options, normalize=normalize)
    return checkpoint | {"cfg": OmegaConf.create(checkpoint["cfg"])}


def s3prl_copy(model: nn.Module, options: dict[str, Any], *, normalize: bool) -> dict[str, Any]:
    """As the files behind s3prl's names hubert, wav2vec2 and data2vec."""
    checkpoint = since_hydra(model, options, normalize=normalize)
    copy = {
        "task_cfg": checkpoint["cfg"]["task"],
        "model_cfg": checkpoint["cfg"]["model"],
        "model_weight": checkpoint["model"],
    }
    return copy | ({"dictionaries_symbols": [["a", "b", "c"]]} if options["_name"] == "hubert" else {})


def finetuned(model: nn.Module, options: dict[str, Any], *, normalize: bool) -> dict[str, Any]:
    """As wav2vec_small_960h.pt: the encoder under a linear layer to letters, trained with CTC."""
    checkpoint = since_hydra(model, options, normalize=normalize)
    pretraining = ("quantizer.", "project_q.", "final_proj.", "label_embs_concat", "_ema")
    weights = {n: t for n, t in checkpoint["model"].items() if not n.startswith(pretraining)}
    weights = {f"w2v_encoder.w2v_model.{name}": tensor for name, tensor in weights.items()}
    weights["w2v_encoder.proj.weight"] = torch.zeros(32, options["encoder_embed_dim"])
    weights["w2v_encoder.proj.bias"] = torch.zeros(32)
    cfg = checkpoint["cfg"] | {"model": {"_name": "wav2vec_ctc", "w2v_args": checkpoint["cfg"], "dropout": 0.0}}
    return checkpoint | {"cfg": cfg, "model": weights}


def finetuned_before_hydra(model: nn.Module, options: dict[str, Any], *, normalize: bool) -> dict[str, Any]:
    checkpoint = finetuned(model, options, normalize=normalize)
    w2v_args = before_hydra(model, options, normalize=normalize)["args"]
    args = argparse.Namespace(arch="wav2vec_ctc", normalize=normalize, w2v_args=w2v_args)
    return {"args": args, "model": checkpoint["model"]}


FORMS = {
    form.__name__: form
    for form in (before_hydra, since_hydra, with_omegaconf, s3prl_copy, finetuned, finetuned_before_hydra)
}


def _of_the_trainer() -> dict[str, Any]:
    return {
        "optimizer_history": [{"criterion_name": "HubertCriterion", "num_updates": 400000}],
        "task_state": {"dictionaries": [_dictionary()]},
        "extra_state": {
            "metrics": collections.OrderedDict(train=[(0, "loss", "AverageMeter", {"val": np.float64(2)})])
        },
        "last_optimizer_state": None,
    }


def _dictionary() -> Any:
    """An object of a class that is found as fairseq.data.dictionary.Dictionary while it is pickled."""
    kind = type("Dictionary", (), {"__module__": "fairseq.data.dictionary"})
    dictionary = kind()
    dictionary.symbols, dictionary.indices = ["<s>", "a"], {"<s>": 0, "a": 1}
    return dictionary


@contextlib.contextmanager
def fairseq_is_importable(checkpoint: dict[str, Any]):
    """As long as a checkpoint is written, pickle finds the class of its dictionaries where fairseq has it."""
    names = ("fairseq", "fairseq.data", "fairseq.data.dictionary")
    before = {name: sys.modules.get(name) for name in names}
    modules = {name: types.ModuleType(name) for name in names}
    for dictionary in checkpoint.get("task_state", {}).get("dictionaries", ()):
        modules[names[-1]].Dictionary = type(dictionary)
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            sys.modules.pop(name) if module is None else sys.modules.update({name: module})


def write(checkpoint: dict[str, Any], path: Any, **how: Any) -> None:
    with fairseq_is_importable(checkpoint):
        torch.save(checkpoint, path, **how)
