"""Our encoder in transformers' clothes: bare, with a CTC head, and with a classifier.

Inputs are what the folder's feature extractor makes: `input_values` (B, S), normalised where the model wants it and
padded with zeros, and `attention_mask` (B, S), 1 where a sample is the recording's. Heads, their names and their losses
follow transformers' WavLM (huggingface/transformers, models/wavlm/modeling_wavlm.py, main). `hidden_states` are ours:
of pre-norm models the last one is normalised, and equals `last_hidden_state`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput, ModelOutput, SequenceClassifierOutput

from ..errors import DataError
from ..model.attention import SelfAttention
from ..model.derived import captured
from ..model.encoder import Encoder, EncoderOutput
from .configuration import PrunedUpstreamConfig

Answer = TypeVar("Answer", bound=ModelOutput)


class PrunedUpstreamPreTrainedModel(PreTrainedModel):
    """What the three models share: the encoder, under the name `backbone`."""

    config: PrunedUpstreamConfig
    config_class = PrunedUpstreamConfig
    base_model_prefix = "backbone"  # the files of `release` name the encoder's tensors without it
    main_input_name = "input_values"
    input_modalities = "audio"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # losses are means of a batch, which Trainer is to divide by its accumulated batches

    def __init__(self, config: PrunedUpstreamConfig) -> None:
        super().__init__(config)
        self.backbone = Encoder(config.encoder_config, config.dropout)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Encoder):
            module.reset_parameters()
        elif isinstance(module, SelfAttention) and module.heads:
            module.lay_out()  # the indices that follow from the shape, which no file brings
            module.to(module.out_proj.bias.device)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
        elif isinstance(module, PrunedUpstreamForSequenceClassification) and self.config.use_weighted_layer_sum:
            nn.init.constant_(module.layer_weights, 1 / len(module.layer_weights))

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoModel") -> None:
        """Nothing to do, as for the configuration, which writes the remote code."""

    @staticmethod
    def _load_pretrained_model(
        model: PreTrainedModel, state_dict: Any, files: Any, load_config: Any, *more: Any
    ) -> Any:
        """Tensors go by the names they have in the file; transformers 5 renames each `weight_g` by itself
        (conversion_mapping.py, "legacy")."""
        by_name = dataclasses.replace(load_config, weight_mapping=[])
        return PreTrainedModel._load_pretrained_model(model, state_dict, files, by_name, *more)

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Any = None, every_n_layers: int = 1
    ) -> None:
        if every_n_layers != 1:
            raise ValueError(f"every_n_layers is {every_n_layers}; this model recomputes each layer or none")
        self.backbone.encoder.checkpoint = gradient_checkpointing_func if enable else None

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether layers are computed again in the backward pass."""
        return self.backbone.encoder.checkpoint is not None

    def freeze_feature_encoder(self) -> None:
        """The convolutions learn nothing from here on."""
        self.backbone.feature_extractor.requires_grad_(False)

    def freeze_base_model(self) -> None:
        """The encoder learns nothing from here on; a head does."""
        self.backbone.requires_grad_(False)

    def encode(self, input_values: Tensor, attention_mask: Tensor | None) -> EncoderOutput:
        """Args:
        input_values: (B, S).
        attention_mask: (B, S), 1 at samples of the recording, which stand before the padding; None for no padding.

        Raises:
        DataError: the mask has another shape, or a recording stands behind its padding.
        """
        if attention_mask is None:
            return self.backbone(input_values)
        for name, given in (("input_values", input_values), ("attention_mask", attention_mask)):
            if not isinstance(given, Tensor):
                raise DataError(f"{name} is {type(given).__name__}; it must be a tensor (B, samples)")
        if attention_mask.shape != input_values.shape:
            raise DataError(
                f"attention_mask is of shape {tuple(attention_mask.shape)} and input_values of "
                f"{tuple(input_values.shape)}; both must be (B, samples)"
            )
        lengths = (attention_mask != 0).sum(-1)
        if not captured():
            before_padding = torch.arange(input_values.size(1), device=lengths.device) < lengths.unsqueeze(1)
            if not torch.equal(before_padding, attention_mask.bool()):
                raise DataError("attention_mask is 1 behind a 0; a recording must stand before its padding")
        return self.backbone(input_values, lengths)

    def _refuse(self, others: Mapping[str, Any]) -> None:
        """Raises TypeError for an argument that would do nothing, be it misspelt; transformers passes some as None."""
        for name, value in others.items():
            if value is not None and value is not False:
                reason = (
                    "attention weights are never laid out" if name == "output_attentions" else "it would do nothing"
                )
                raise TypeError(f"{type(self).__name__} takes no {name}: {reason}; leave it out")

    def frames(self, samples: Tensor) -> Tensor:
        """Frames that the front end makes of so many samples."""
        return self.config.encoder_config.frames_below(samples)

    def _answer(
        self,
        kind: type[Answer],
        states: Sequence[Tensor],
        output_hidden_states: bool | None,
        return_dict: bool | None,
        **values: Tensor | None,
    ) -> Answer | tuple:
        """`values` as transformers' class `kind`, or as a tuple; hidden states and form as asked, or as configured."""
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        named = self.config.return_dict if return_dict is None else return_dict
        answer = kind(**values, hidden_states=tuple(states) if wanted else None)
        return answer if named else answer.to_tuple()


class PrunedUpstreamModel(PrunedUpstreamPreTrainedModel):
    """The encoder alone.

    >>> output = model(torch.randn(1, 16000), output_hidden_states=True)
    >>> output.last_hidden_state.shape, len(output.hidden_states)
    (torch.Size([1, 49, 768]), 13)
    """

    def __init__(self, config: PrunedUpstreamConfig) -> None:
        super().__init__(config)
        self.post_init()

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **others: Any,
    ) -> BaseModelOutput | tuple:
        """`last_hidden_state` (B, T, d); `hidden_states` L + 1 tensors (B, T, d) where asked for."""
        self._refuse(others)
        states = self.encode(input_values, attention_mask).hidden_states
        return self._answer(BaseModelOutput, states, output_hidden_states, return_dict, last_hidden_state=states[-1])


class PrunedUpstreamForCTC(PrunedUpstreamPreTrainedModel):
    """A linear CTC head on the last hidden state.

    Raises:
        ValueError: the configuration does not say `vocab_size`, a whole number above 0.
    """

    def __init__(self, config: PrunedUpstreamConfig) -> None:
        super().__init__(config)
        if not isinstance(config.vocab_size, int) or config.vocab_size < 1:
            raise ValueError(
                f"a CTC head needs vocab_size, which is {config.vocab_size}; "
                "PrunedUpstreamForCTC.from_pretrained(FOLDER, vocab_size=32)"
            )
        self.dropout = nn.Dropout(config.final_dropout)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **others: Any,
    ) -> CausalLMOutput | tuple:
        """Args:
        labels: (B, N), -100 where padded.
        """
        self._refuse(others)
        states = self.encode(input_values, attention_mask).hidden_states
        logits = self.lm_head(self.dropout(states[-1]))  # (B, T, vocab_size)
        loss = None
        if labels is not None:
            if labels.numel() and labels.max() >= logits.size(-1):
                raise ValueError(f"a label is {int(labels.max())}, and vocab_size is {logits.size(-1)}")
            loss = self._loss(logits, input_values, attention_mask, labels)
        return self._answer(CausalLMOutput, states, output_hidden_states, return_dict, loss=loss, logits=logits)

    def _loss(self, logits: Tensor, input_values: Tensor, attention_mask: Tensor | None, labels: Tensor) -> Tensor:
        mask = torch.ones_like(input_values, dtype=torch.long) if attention_mask is None else attention_mask
        given = labels >= 0
        log_probabilities = F.log_softmax(logits, dim=-1, dtype=torch.float32).transpose(0, 1)  # (T, B, vocab_size)
        with torch.backends.cudnn.flags(enabled=False):
            return F.ctc_loss(
                log_probabilities,
                labels.masked_select(given),
                self.frames(mask.sum(-1)).long(),
                given.sum(-1),
                blank=cast(int, self.config.pad_token_id),
                reduction=self.config.ctc_loss_reduction,
                zero_infinity=self.config.ctc_zero_infinity,
            )


class PrunedUpstreamForSequenceClassification(PrunedUpstreamPreTrainedModel):
    """A classifier on the mean over time of the last hidden state, or of all of them by learned weights."""

    def __init__(self, config: PrunedUpstreamConfig) -> None:
        super().__init__(config)
        if config.use_weighted_layer_sum:
            states = config.num_hidden_layers + 1
            self.layer_weights = nn.Parameter(torch.ones(states) / states)
        self.projector = nn.Linear(config.hidden_size, config.classifier_proj_size)
        self.classifier = nn.Linear(config.classifier_proj_size, cast(int, config.num_labels))
        self.post_init()

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **others: Any,
    ) -> SequenceClassifierOutput | tuple:
        """Args:
        labels: (B,) classes.
        """
        self._refuse(others)
        encoded = self.encode(input_values, attention_mask)
        hidden = encoded.hidden_states[-1]
        if self.config.use_weighted_layer_sum:
            weights = self.layer_weights.softmax(-1)
            hidden = sum(weight * state for weight, state in zip(weights, encoded.hidden_states, strict=True))
        hidden = self.projector(hidden)  # (B, T, classifier_proj_size)
        if encoded.padding_mask is None:
            pooled = hidden.mean(1)
        else:
            valid = ~encoded.padding_mask
            pooled = hidden.masked_fill(encoded.padding_mask.unsqueeze(-1), 0.0).sum(1) / valid.sum(1, keepdim=True)
        logits = self.classifier(pooled)  # (B, num_labels)
        loss = None if labels is None else F.cross_entropy(logits, labels.view(-1))
        states = encoded.hidden_states
        return self._answer(
            SequenceClassifierOutput, states, output_hidden_states, return_dict, loss=loss, logits=logits
        )
