"""The encoder: WavLM, HuBERT, wav2vec 2.0, data2vec audio and Whisper; dense, gated or compact.

waveform -> convolutions -> norm, projection -> + position convolution -> transformer layers -> hidden states
waveform -> log-mel spectra -> convolutions -> + table of positions -> transformer layers -> hidden states    (Whisper)

Shapes: B utterances, S samples, T frames, C front-end channels, d the transformer's width, L layers.
Parameter names are the official WavLM names (microsoft/unilm, wavlm/WavLM.py) with one exception: the table
of the relative position bias belongs to the encoder, not to layer 0, whose attention may be pruned away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import DataError
from ..parsing import require
from . import streaming
from .attention import BiasOnly, PositionBias, SelfAttention, relative_position_bias, windows_pay
from .config import EncoderConfig, TransformerLayer, pieces
from .derived import captured, transformed
from .extraction import Extracts
from .frontend import ChannelNorm, ConvFeatureExtractor, PositionBlock, WeightNormConv, position_convolution
from .gating import EncoderGates, LayerGates, gated_inputs
from .graphs import FrameGraphs
from .log_mel import FramesInWindows, sinusoids, waveforms_in_windows
from .memory import require_memory
from .waveforms import as_lengths

if TYPE_CHECKING:
    from .typed import ModuleListOf

WAVEFORM_EPS = 1e-5  # of F.layer_norm, which normalises whole waveforms


@dataclass(frozen=True)
class Dropout:
    """Probabilities of dropout in training mode; names of fairseq's options in brackets."""

    hidden: float = 0.0  # after each sublayer and after the position convolution (dropout)
    attention: float = 0.0  # on attention weights (attention_dropout)
    activation: float = 0.0  # between the feed-forward matrices (activation_dropout)
    features: float = 0.0  # on the projected features (dropout_input)
    layerdrop: float = 0.0  # of a whole layer (encoder_layerdrop)

    def __post_init__(self) -> None:
        """Raises ConfigError: one of them is no probability."""
        for name, p in vars(self).items():
            known = isinstance(p, (int, float)) and 0 <= p <= 1
            require(known, f"dropout of {name}", p, "be a probability, from 0 to 1")


class EncoderOutput(NamedTuple):
    """What `Encoder.forward` gives.

    Attributes:
        hidden_states: L + 1 tensors (B, T, d): the input of each layer, then the output of the last, as s3prl's
            WavLM expert gives them (the final norm of pre-norm models is applied to the last alone).
        padding_mask: (B, T), True at padded frames; None when nothing is padded.
        projected: (B, T, d), the projected features before the position convolution.
    """

    hidden_states: list[Tensor]
    padding_mask: Tensor | None
    projected: Tensor


class TransformerEncoderLayer(nn.Module):
    """One layer; which of its sublayers exist, and how wide they are, is in `layer`."""

    def __init__(self, config: EncoderConfig, layer: TransformerLayer, dropout: Dropout) -> None:
        super().__init__()
        d = config.embed_dim
        self.layer_norm_first = config.layer_norm_first
        self.dropout = dropout
        self.self_attn = SelfAttention(config, layer, dropout=dropout.attention) if layer.attention else None
        self.self_attn_layer_norm = nn.LayerNorm(d)
        self.fc1 = nn.Linear(d, layer.ffn) if layer.ffn else None
        self.fc2 = (nn.Linear(layer.ffn, d) if layer.ffn else BiasOnly(d)) if layer.feed_forward else None
        self.final_layer_norm = nn.LayerNorm(d)

    def forward(
        self,
        x: Tensor,
        position_bias: PositionBias | None,
        key_bias: Tensor | None,
        gates: LayerGates | None,
        memory: streaming.Memory | None = None,
    ) -> Tensor:  # (B, T, d) -> (B, T, d)
        """(B, T, d) to (B, T, d): attention, then the feed-forward network, each with its residual, if it exists."""
        if self.layer_norm_first:
            x = self._attend(x, self.self_attn_layer_norm(x), position_bias, key_bias, gates, memory)
            return self._feed_forward(x, self.final_layer_norm(x), gates)
        x = self.self_attn_layer_norm(self._attend(x, x, position_bias, key_bias, gates, memory))
        return self.final_layer_norm(self._feed_forward(x, x, gates))

    def _attend(
        self,
        residual: Tensor,
        x: Tensor,
        position_bias: PositionBias | None,
        key_bias: Tensor | None,
        gates: LayerGates | None,
        memory: streaming.Memory | None,
    ) -> Tensor:
        if self.self_attn is None:
            return residual
        out = self.self_attn(x, position_bias, key_bias, gates, memory)
        if gates is not None and gates.attention is not None:
            out = out * gates.attention
        return residual + F.dropout(out, self.dropout.hidden, self.training)

    def _feed_forward(self, residual: Tensor, x: Tensor, gates: LayerGates | None) -> Tensor:
        if self.fc2 is None:
            return residual
        if self.fc1 is None:
            out = self.fc2(x)
        else:
            inner = F.dropout(F.gelu(self.fc1(x)), self.dropout.activation, self.training)  # (B, T, ffn)
            out = gated_inputs(self.fc2, inner, None if gates is None else gates.ffn)
        if gates is not None and gates.feed_forward is not None:
            out = out * gates.feed_forward
        return residual + F.dropout(out, self.dropout.hidden, self.training)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new weights as fairseq does: normal with a deviation of 0.02."""
        if self.self_attn is not None:
            self.self_attn.reset_parameters()
        for linear in (self.fc1, self.fc2):
            if isinstance(linear, nn.Linear):
                nn.init.normal_(linear.weight, std=0.02)
                nn.init.zeros_(linear.bias)


class TransformerEncoder(nn.Module):
    """Position convolution or table of positions, layers, and the bias table that the layers share."""

    pos_conv: ModuleListOf[PositionBlock]
    layers: ModuleListOf[TransformerEncoderLayer]
    positions: Tensor  # of Whisper, (frames of a window, d)

    def __init__(self, config: EncoderConfig, dropout: Dropout) -> None:
        super().__init__()
        self.config = config
        self.dropout = dropout
        self.pos_conv = position_convolution(config)
        layers = nn.ModuleList(TransformerEncoderLayer(config, layer, dropout) for layer in config.layers)
        self.layers = cast("ModuleListOf[TransformerEncoderLayer]", layers)
        self.layer_norm = nn.LayerNorm(config.embed_dim)
        # called with a layer and its arguments in training, as torch.utils.checkpoint is: `gradient_checkpointing`
        self.checkpoint: Callable[..., Any] | None = None
        if config.relative_position is not None:
            self.relative_attention_bias = nn.Embedding(config.relative_position.buckets, config.num_heads)
        if config.positions:  # a buffer, for Whisper never learns it
            self.register_buffer("positions", sinusoids(config.positions, config.embed_dim))

    def forward(
        self,
        x: Tensor,
        padding_mask: Tensor | None,
        gates: EncoderGates | None,
        carried: streaming.Carried | None = None,
    ) -> list[Tensor]:
        """Features (B, T, d) to hidden states 0 to L, (B, T, d) each. `padding_mask` (B, T) is True on padding."""
        windows = None
        if self.config.positions:
            windows = FramesInWindows(x.size(1), self.config.positions)
            x, padding_mask = windows.cut(x, padding_mask)
        key_bias = None
        if padding_mask is not None:
            x = x.masked_fill(padding_mask.unsqueeze(-1), 0.0)
            if carried is not None and carried.unheard is not None:
                padding_mask = torch.cat([carried.unheard, padding_mask], 1)  # of all keys
            key_bias = torch.zeros(padding_mask.shape, dtype=x.dtype, device=x.device)
            key_bias = key_bias.masked_fill(padding_mask, -torch.inf)[:, None, None, :]  # (B, 1, 1, T)
        if self.config.streaming is not None and carried is None:
            reached = streaming.mask(x.size(1), self.config.streaming, padding_mask, x.device)  # (B, T, T)
            key_bias = torch.zeros(reached.shape, dtype=x.dtype, device=x.device)
            key_bias = key_bias.masked_fill(~reached, -torch.inf).unsqueeze(1)  # (B, 1, T, T)
            if self.config.relative_position is not None and windows_pay(x):
                key_bias = key_bias.flip(2)  # queries from last to first, as the position bias has them
        x = x + self._positions(x, carried)
        if not self.config.layer_norm_first:
            x = self.layer_norm(x)
        x = F.dropout(x, self.dropout.hidden, self.training)
        past = 0 if carried is None else carried.frames
        position_bias = self._position_bias(past + x.size(1), x.size(1))
        hidden_states = [x]
        for number, layer in enumerate(self.layers):
            if not self._drops_layer():
                layer_gates = None if gates is None else gates.layers[number]
                memory = None if carried is None else carried.layers[number]
                arguments = (x, position_bias, key_bias, layer_gates, memory)
                recompute = self.checkpoint if self.training else None
                x = layer(*arguments) if recompute is None else recompute(layer, *arguments)
            hidden_states.append(x)
        if carried is not None:
            carried.frames = min(carried.frames + x.size(1), carried.history)
        if self.config.layer_norm_first:
            hidden_states[-1] = self.layer_norm(hidden_states[-1])
        return hidden_states if windows is None else [windows.join(state) for state in hidden_states]

    def _positions(self, x: Tensor, carried: streaming.Carried | None) -> Tensor:  # (B, T, d) -> (B, T, d)
        if self.config.positions:
            return self.positions[: x.size(1)]
        if self.config.streaming is not None:
            return self._positions_of_chunks(x, carried, self.config.streaming.chunk)
        return self._convolved(x.transpose(1, 2)).transpose(1, 2)

    def _convolved(self, x: Tensor) -> Tensor:  # (B, d, T) -> (B, d, T)
        for block in self.pos_conv:
            x = block(x)
        return x

    def _positions_of_chunks(
        self, x: Tensor, carried: streaming.Carried | None, chunk: int
    ) -> Tensor:  # (B, T, d) -> (B, T, d)
        """Each chunk sees the frames before it, zeros before the first, and zeros behind its own end."""
        batch, frames, dim = x.shape
        before = sum(block.reach for block in self.pos_conv)
        past = x.new_zeros(batch, before, dim) if carried is None or carried.projected is None else carried.projected
        chunks = pieces(frames, chunk)
        x = F.pad(torch.cat([past, x], 1), (0, 0, 0, chunks * chunk - frames))  # (B, before + K c, d)
        if carried is not None:
            carried.projected = x[:, frames : frames + before]
        places = streaming.windows(chunks, before + chunk, chunk, x.device)
        windows = x[:, places].flatten(0, 1).transpose(1, 2)  # (B K, d, before + c)
        out = self._convolved(windows)[..., before:].transpose(1, 2)  # (B K, c, d)
        return out.reshape(batch, -1, dim)[:, :frames]

    def _position_bias(self, frames: int, queries: int) -> PositionBias | None:
        if self.config.relative_position is None:
            return None
        return relative_position_bias(self.relative_attention_bias, frames, self.config.relative_position, queries)

    def _drops_layer(self) -> bool:
        return self.training and self.dropout.layerdrop > 0 and torch.rand(()).item() < self.dropout.layerdrop

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new weights for positions, layers and the position bias."""
        for block in self.pos_conv:
            if isinstance(block, WeightNormConv):
                block.reset_parameters()
        for layer in self.layers:
            layer.reset_parameters()
        if self.config.relative_position is not None:
            nn.init.normal_(self.relative_attention_bias.weight, std=0.02)


def prediction_head(dim: int) -> nn.Sequential:
    """From a student's last layer to one of its teacher's, (B, T, d) -> (B, T, d).

    Two linear layers (s3prl, upstream/distiller/model.py, out_layer_type "expand-last"). `Encoder.forward` never runs
    a head: who wants a prediction applies `encoder.prediction_heads[i]` to the last hidden state.
    """
    return nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))


class Encoder(nn.Module, Extracts[EncoderOutput]):
    """A self-supervised speech encoder in the shape that `config` describes.

    Args:
        dropout: what training mode drops; a loaded model drops nothing.

    Examples:
        >>> encoder = Encoder(wavlm_base_config()).eval()
        >>> encoder.extract(torch.randn(16000)).hidden_states[-1].shape
        torch.Size([1, 49, 768])
    """

    def __init__(self, config: EncoderConfig, dropout: Dropout = Dropout()) -> None:
        super().__init__()
        self.config = config
        self.dropout = dropout
        self.feature_extractor = ConvFeatureExtractor(config)
        norm = ChannelNorm(config.feature_dim, config.conv[-1].counted_by_norms)
        self.layer_norm = norm if config.feature_norm else None
        self.post_extract_proj = nn.Linear(config.feature_dim, config.embed_dim) if config.has_projection else None
        self.encoder = TransformerEncoder(config, dropout)
        self.prediction_heads = nn.ModuleList(prediction_head(config.embed_dim) for _ in range(config.prediction_heads))
        self.graphs: FrameGraphs | None = None  # where the transformer is to be replayed on a GPU
        if not self.encoder.layer_norm.weight.is_meta:  # where drawing nothing takes half of the time of `load`
            self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Random weights as fairseq starts pre-training with (`init_bert_params`), from torch's global RNG."""
        self.feature_extractor.reset_parameters()
        self.encoder.reset_parameters()
        if self.post_extract_proj is not None:
            nn.init.normal_(self.post_extract_proj.weight, std=0.02)
            nn.init.zeros_(self.post_extract_proj.bias)

    def forward(
        self,
        waveforms: Tensor,
        lengths: Tensor | Sequence[int] | None = None,
        *,
        gates: EncoderGates | None = None,
    ) -> EncoderOutput:
        """Args:
            waveforms: (B, S), zero-padded, as `prepare` gives them.
            lengths: (B,) samples of each utterance, whole numbers from 0 to S; None when none is padded.
            gates: multipliers; None for an encoder without gates.

        Raises:
            DataError: the batch is no (B, S) of floating point numbers, or of another precision than the model's, or
                `lengths` are none of it (their values are looked at on a CPU alone); it is shorter than the front
                end's receptive field, or too long for the memory that is free.
        """
        if not isinstance(waveforms, Tensor):
            raise DataError(
                f"waveforms are {type(waveforms).__name__}; they must be a tensor (B, samples). `extract` takes other "
                "forms"
            )
        if waveforms.dim() != 2 or not waveforms.is_floating_point():
            raise DataError(
                f"waveforms are of shape {tuple(waveforms.shape)} and type {waveforms.dtype}; they must be (B, "
                "samples) of floating point numbers. `extract` takes other forms"
            )
        samples = waveforms.size(1)
        self.config.require_frames(samples)
        if lengths is not None:
            lengths = as_lengths(lengths, waveforms.size(0))
            lengths = lengths if lengths.device == waveforms.device else lengths.to(waveforms.device)
        if not (captured() or transformed()):
            if not len(waveforms):
                raise DataError("there is no waveform to compute; give at least one")
            if lengths is not None and lengths.is_cpu and not (lengths.min() >= 0 and lengths.max() <= samples):
                raise DataError(
                    f"lengths go from {lengths.min()} to {lengths.max()}, and waveforms have {samples} samples"
                )
            self._require_precision(waveforms)
            require_memory(self.config, len(waveforms), samples, waveforms.device)
        projected = self.project(self.features(waveforms, gates=gates), gates=gates)
        mask = None if lengths is None else self.padding_mask(lengths, samples)
        if not self.config.whole_windows:
            return EncoderOutput(self.contextualize(projected, mask, gates=gates), mask, projected)
        frames = self.config.frames(samples)
        hidden_states = self.contextualize(projected, gates=gates)  # silence is attended to
        return EncoderOutput([state[:, :frames] for state in hidden_states], mask, projected[:, :frames])

    def _require_precision(self, waveforms: Tensor) -> None:
        """Raises DataError: the front end computes in another precision, and no autocast brings the two together."""
        like = next((p for p in self.feature_extractor.parameters() if p.is_floating_point()), waveforms)
        if like.dtype != waveforms.dtype and not torch.is_autocast_enabled(waveforms.device.type):
            raise DataError(
                f"waveforms are of type {waveforms.dtype} and the model of type {like.dtype}; give waveforms.to("
                f"{like.dtype}), after `prepare`. `extract` does that itself"
            )

    def frozen(self) -> Encoder:
        """This encoder, for evaluation alone, from a caller who promises to write no weight behind torch's back.

        No parameter learns from here on. What is kept between calls on a CPU is kept without comparing values, 2 ms
        per call at WavLM Base's width. Writes that torch counts are seen as ever (`copy_`, `load_state_dict`, an
        optimiser's step); those through `.data` or numpy are not. A copy makes no promise.
        """
        for block in self.encoder.pos_conv:
            if isinstance(block, WeightNormConv):
                block.trust_weights()
        return self.eval().requires_grad_(False)

    def gradient_checkpointing(self, enable: bool = True) -> None:
        """In training mode, keep of each layer its input alone and compute the layer again in the backward pass.

        Longer recordings and larger batches fit into memory; a step computes each layer's forward pass twice.
        Gradients are the same, dropout's included.
        """
        from torch.utils.checkpoint import checkpoint

        self.encoder.checkpoint = partial(checkpoint, use_reentrant=False) if enable else None

    def compute(self, waveforms: Sequence[Tensor]) -> EncoderOutput:
        """Hidden states of waveforms (samples,) in one batch, where the parameters are and in their precision."""
        like = next(parameter for parameter in self.parameters() if parameter.is_floating_point())
        batch, lengths = self.prepare([waveform.to(like.device) for waveform in waveforms])
        padded = any(len(waveform) != batch.size(1) for waveform in waveforms)
        return self(batch.to(like.dtype), lengths if padded else None)

    def prepare(self, wavs: Sequence[Tensor], pad_to: int | None = None) -> tuple[Tensor, Tensor]:
        """Normalise each waveform if the model wants it, and pad with zeros.

        Args:
            pad_to: samples to pad to; the longest waveform by default.

        Returns:
            (B, S) waveforms and (B,) lengths in samples.
        """
        if self.config.normalizes_whole:
            wavs = [F.layer_norm(wav, wav.shape) for wav in wavs]
        samples = max(len(wav) for wav in wavs) if pad_to is None else pad_to
        waveforms = torch.stack([F.pad(wav, (0, samples - len(wav))) for wav in wavs])
        return waveforms, torch.tensor([len(wav) for wav in wavs], device=waveforms.device)

    def features(self, waveforms: Tensor, *, gates: EncoderGates | None = None) -> Tensor:
        """Front end alone: (B, S) -> (B, T, C), before any norm; of whole windows where the model hears those."""
        conv_gates = None if gates is None else gates.conv
        if self.config.streaming is not None:
            chunks = streaming.cut(waveforms, self.config, self.config.streaming)  # (B, K, P)
            waveform, first_block = streaming.Heard(waveforms.size(0)), streaming.Heard(waveforms.size(0))
            features = self.features_of_chunks(chunks, waveform, first_block, conv_gates)
            return features[:, : self.config.frames(waveforms.size(1))]
        if self.config.log_mel is None:
            return self.feature_extractor(waveforms, conv_gates)
        samples = waveforms.size(1)
        windows = waveforms_in_windows(waveforms, self.config)  # (B W, P)
        features = self.feature_extractor(windows, conv_gates).unflatten(0, (waveforms.size(0), -1)).flatten(1, 2)
        return features if self.config.whole_windows else features[:, : self.config.frames(samples)]

    def features_of_chunks(
        self,
        chunks: Tensor,
        waveform: streaming.Heard,
        first_block: streaming.Heard,
        gates: Sequence[Tensor | None] | None = None,
    ) -> Tensor:
        """Of a streaming model: (B, K, P) -> (B, K c, C), and what norms remember takes note of them."""
        batch, windows = chunks.size(0), chunks.flatten(0, 1)
        if self.config.normalize:
            windows = waveform.normalised(windows.unsqueeze(1), WAVEFORM_EPS).squeeze(1)
        return self.feature_extractor(windows, gates, first_block).unflatten(0, (batch, -1)).flatten(1, 2)

    def stream(self, pieces: Iterable[Any]) -> Iterator[EncoderOutput]:
        """Hidden states of a live recording, a chunk as soon as its samples are there: (1, frames of the chunk, d).

        What comes is, within rounding, what `extract` gives of the whole; nothing learns from it.

        >>> for output in encoder.stream(microphone):  # an iterator of arrays of any length
        ...     show(output.hidden_states[-1][0])

        Args:
            pieces: the recording in pieces of any length, each a waveform as `extract` takes one.

        Raises:
            ConfigError: the model attends to whole recordings (`config.streaming` is None).
            DataError: a piece is no audio, or the recording ends before its first frame.
        """
        return streaming.stream(self, pieces)

    @torch.no_grad()
    def hear(
        self, samples: Tensor, frames: int, carried: streaming.Carried, valid: Tensor | None = None
    ) -> EncoderOutput:
        """One chunk of a stream, hidden states (1, frames, d), of the samples (P,) under it.

        Args:
            carried: takes note of the chunk.
            valid: (1,), of these frames so many are the recording's, where a graph wants all chunks alike.
        """
        features = self.features_of_chunks(samples.view(1, 1, -1), carried.waveform, carried.first_block)[:, :frames]
        projected = self.project(features)
        padding = None
        if valid is not None:
            padding = (torch.arange(frames, device=valid.device) >= valid).unsqueeze(0)
        return EncoderOutput(self.encoder(projected, padding, None, carried), None, projected)

    def project(self, features: Tensor, *, gates: EncoderGates | None = None) -> Tensor:
        """Norm and projection: (B, T, C) -> (B, T, d).

        A channel's gate counts on both sides of the norm, for the norm's own bias would let a closed one through.
        """
        if self.layer_norm is not None:
            features = self.layer_norm(features)
        if gates is not None and gates.conv is not None and gates.conv[-1] is not None:
            features = features * gates.conv[-1]
        if self.post_extract_proj is not None:
            features = self.post_extract_proj(features)
        return F.dropout(features, self.dropout.features, self.training)

    def contextualize(
        self, x: Tensor, padding_mask: Tensor | None = None, *, gates: EncoderGates | None = None
    ) -> list[Tensor]:
        """Position convolution and transformer: (B, T, d) -> L + 1 hidden states (B, T, d)."""
        if self.graphs is not None and gates is None and self.graphs.serves(self.encoder, x):
            # of several position convolutions, the later ones hear what the first makes of padding
            pads = self.config.conv_pos_depth == 1
            return self.graphs.run(
                self.encoder, lambda x, mask: self.encoder(x, mask, None), x, padding_mask, pads=pads
            )
        return self.encoder(x, padding_mask, gates)

    def padding_mask(self, lengths: Tensor, samples: int) -> Tensor:
        """(B, T), True where a frame of utterances padded to `samples` is padding.

        By the rule that the model was trained with. "exact": a frame counts when all samples under it are the
        utterance's. "shares": the samples are dealt to the frames in equal shares, and a frame is padding when its
        whole share is (fairseq, hubert.py, `forward_padding_mask`), which at times lets one frame more count.

        Args:
            lengths: (B,) samples of each utterance.
        """
        frames = self.config.frames(samples)
        frame = torch.arange(frames, device=lengths.device)
        if self.config.padding == "shares":
            return frame * (samples // frames) >= lengths.unsqueeze(1)
        return frame >= self.config.frames_below(lengths).clamp(min=1).unsqueeze(1)
