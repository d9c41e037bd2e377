"""HuBERT, wav2vec 2.0 and data2vec audio from fairseq, pre-trained or finetuned with CTC, and s3prl's copies of them.

Where the options stand depends on a file's age:

| file | weights | options of the model | of the task |
|---|---|---|---|
| fairseq before hydra (wav2vec_small.pt) | `model` | `args`, a Namespace, for both | |
| fairseq since (hubert_base_ls960.pt) | `model` | `cfg.model` | `cfg.task` |
| s3prl's copies (hub names hubert, wav2vec2 ...) | `model_weight` | `model_cfg` | `task_cfg` |
| finetuned | `model`, under `w2v_encoder.w2v_model.` | the pre-trained model's, in `w2v_args` | as above |

Our names are fairseq's, without the prefix; a layer of several convolutions in front of the transformer (data2vec) is
`encoder.pos_conv.{i}.0`, a single one `encoder.pos_conv.0`. `layer_norm` at the top is the norm of the features, and
`encoder.layer_norm` the transformer's.

Source: facebookresearch/fairseq, fairseq/models/wav2vec/{wav2vec2,wav2vec2_asr}.py, models/hubert/{hubert,
hubert_asr}.py, examples/data2vec/models/data2vec_audio.py, checkpoint_utils.py; s3prl, upstream/*/convert.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...errors import ConfigError
from ...parsing import shown
from ..config import EncoderConfig, dense_config
from .pickles import plain
from .shapes import flag, options_of, shape
from .source import Found

FAMILY_OF_MODEL = {"hubert": "hubert", "wav2vec2": "wav2vec2", "data2vec_audio": "data2vec"}
FINETUNED_MODELS = ("wav2vec_ctc", "hubert_ctc")
FINETUNED_PREFIX = "w2v_encoder.w2v_model."
FINETUNED_HEAD = ("w2v_encoder.proj.weight", "w2v_encoder.proj.bias")  # letters from the last layer

# modules at the top that only pre-training uses
PRETRAINING_ONLY = {
    "mask_emb": "what masked frames are replaced by",
    "final_proj": "to the space of the targets",
    "label_embs_concat": "HuBERT's embeddings of the clusters",
    "quantizer": "wav2vec 2.0's codebook",
    "project_q": "from the codebook to the space of the targets",
    "target_glu": "a gate on the targets",
    "_ema": "data2vec's teacher",
}
# options that came to fairseq after files were published
DEFAULTS = {"conv_bias": False, "pos_conv_depth": 1}


def recognises(checkpoint: Mapping[str, Any]) -> bool:
    """Whether it is fairseq's own file, with its options as `args` or `cfg`."""
    cfg = plain(checkpoint.get("cfg"))
    return "model" in checkpoint and (isinstance(cfg, dict) and "model" in cfg or checkpoint.get("args") is not None)


def read(checkpoint: Mapping[str, Any]) -> Found:
    """Shape and weights of fairseq's own file; ConfigError for options that are not supported."""
    if checkpoint.get("cfg") is not None:
        cfg = plain(checkpoint["cfg"])
        model, task = options_of(cfg["model"], "cfg.model"), options_of(cfg.get("task") or {}, "cfg.task")
    else:
        model = task = options_of(plain(checkpoint["args"]), "args")
    return _found(model, task, checkpoint["model"])


def recognises_copy(checkpoint: Mapping[str, Any]) -> bool:
    """Whether it is a copy in s3prl's form."""
    return {"model_cfg", "task_cfg", "model_weight"} <= checkpoint.keys()


def read_copy(checkpoint: Mapping[str, Any]) -> Found:
    """Shape and weights of a copy in s3prl's form."""
    model, task = (options_of(plain(checkpoint[name]), name) for name in ("model_cfg", "task_cfg"))
    return _found(model, task, checkpoint["model_weight"])


def without_pretraining(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights whose module at the top is not one of `PRETRAINING_ONLY`."""
    return {name: tensor for name, tensor in weights.items() if name.partition(".")[0] not in PRETRAINING_ONLY}


def fairseq_config(model: Mapping[str, Any], task: Mapping[str, Any]) -> EncoderConfig:
    """The shape in the options of a pre-trained model and its task.

    Raises:
        ConfigError: another model, a missing option, or one that is not supported.
    """
    family = FAMILY_OF_MODEL.get(_name(model))
    if family is None:
        known = ", ".join((*FAMILY_OF_MODEL, *FINETUNED_MODELS))
        raise ConfigError(f"a fairseq model {shown(_name(model))}; known are {known}")
    if "normalize" not in task:
        raise ConfigError("the task's options do not say whether waveforms are normalised (normalize)")
    return dense_config(family=family, normalize=flag("normalize", task["normalize"]), **shape(model, DEFAULTS))


def _found(model: Mapping[str, Any], task: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Found:
    if _name(model) in FINETUNED_MODELS:
        model, weights = _pretrained_options(model), _unwrapped(weights)
    return Found(fairseq_config(model, task), without_pretraining(weights))


def _name(model: Mapping[str, Any]) -> str:
    """fairseq's name of the model: `_name` since hydra, `arch` before."""
    return str(model.get("_name") or model.get("arch"))


def _pretrained_options(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """Options of the pre-trained model that a finetuned file keeps within its own."""
    inner = model.get("w2v_args")
    if inner is None:
        raise ConfigError(
            f"a finetuned model ({_name(model)}) that does not hold the pre-trained model's options in w2v_args; take "
            "the pre-trained file, or the finetuned model's transformers folder"
        )
    inner = options_of(inner, "w2v_args")
    return options_of(inner.get("model") or inner, "w2v_args.model")


def _unwrapped(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the pre-trained model inside a finetuned one.

    Raises:
        ConfigError: a tensor that is neither the encoder's nor the head's.
    """
    strange = sorted(n for n in weights if not n.startswith(FINETUNED_PREFIX) and n not in FINETUNED_HEAD)
    if strange:
        raise ConfigError(f"unknown tensors {', '.join(strange[:4])} beside the encoder in {FINETUNED_PREFIX}*")
    return {n.removeprefix(FINETUNED_PREFIX): t for n, t in weights.items() if n not in FINETUNED_HEAD}
