"""The configuration that transformers stores in a folder's config.json."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from ..model.config import EncoderConfig
from ..model.encoder import Dropout
from ..model.hub import MODEL_TYPE
from .remote_code import AUTO_MAP, write_remote_code


class PrunedUpstreamConfig(PreTrainedConfig):
    """An encoder's shape, and what heads and finetuning need, by transformers' names for WavLM.

    Attributes:
        encoder: `EncoderConfig` as a dictionary, exactly as a model file holds it.
        hidden_dropout, attention_dropout, activation_dropout, feat_proj_dropout, layerdrop: in training mode.
        final_dropout: before the CTC head.
        vocab_size, pad_token_id: of the CTC head; the padding token is CTC's blank.
        ctc_loss_reduction, ctc_zero_infinity: as torch.nn.functional.ctc_loss takes them.
        classifier_proj_size: width between the encoder and the classifier.
        use_weighted_layer_sum: the classifier reads all hidden states by learned weights, not the last alone.
    """

    model_type = MODEL_TYPE

    encoder: dict | None = None
    hidden_dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    activation_dropout: float | int = 0.0
    feat_proj_dropout: float | int = 0.0
    layerdrop: float | int = 0.0
    final_dropout: float | int = 0.0
    vocab_size: int | None = None
    pad_token_id: int | None = 0
    ctc_loss_reduction: str = "mean"
    ctc_zero_infinity: bool = False
    classifier_proj_size: int = 256
    use_weighted_layer_sum: bool = False

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoConfig") -> None:
        """Nothing to do: transformers would copy the file of this class into each folder, and it is part of a package.

        `save_pretrained` writes the module that `release` writes, which imports the package.
        """

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **options: Any) -> None:
        """As transformers has it, with the remote code beside config.json."""
        self.auto_map = dict(AUTO_MAP)
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **options)
        write_remote_code(Path(save_directory))

    @classmethod
    def of(cls, config: EncoderConfig, **options: Any) -> PrunedUpstreamConfig:
        """The configuration of an encoder."""
        return cls(encoder=json.loads(config.to_json()), **options)

    @property
    def encoder_config(self) -> EncoderConfig:
        """Raises ConfigError where `encoder` is missing or describes no encoder."""
        return EncoderConfig.from_json(json.dumps(self.encoder))

    @property
    def dropout(self) -> Dropout:
        """The rates, as the encoder takes them."""
        return Dropout(
            hidden=self.hidden_dropout,
            attention=self.attention_dropout,
            activation=self.activation_dropout,
            features=self.feat_proj_dropout,
            layerdrop=self.layerdrop,
        )

    @property
    def hidden_size(self) -> int:
        """Width of a hidden state."""
        return self.encoder_config.embed_dim

    @property
    def num_hidden_layers(self) -> int:
        """Transformer layers."""
        return self.encoder_config.num_layers

    @property
    def num_attention_heads(self) -> int:
        """Of the dense model."""
        return self.encoder_config.num_heads

    @property
    def inputs_to_logits_ratio(self) -> int:
        """Samples to a frame."""
        return self.encoder_config.downsample_rate
