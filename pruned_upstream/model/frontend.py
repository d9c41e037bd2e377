"""From waveform to frames: the convolutional front end and the position convolution.

Shapes: B utterances, S samples, T frames, C channels, d the transformer's width.
Source of structure and parameter names: microsoft/unilm, wavlm/WavLM.py, and facebookresearch/fairseq,
fairseq/models/wav2vec/wav2vec2.py (`ConvFeatureExtractionModel`, `make_conv_pos`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .config import EncoderConfig
from .derived import Kept, at_least_single, eager_on_cpu, in_bf16, is_plain
from .log_mel import LogMelSpectrum
from .streaming import GroupNormOfTheHeard, Heard

if TYPE_CHECKING:
    from .typed import ModuleListOf

TIME_MAJOR_SAMPLES = 8_000  # fewer in a batch: laying out the filters costs more than their layout saves

LARGE_KERNEL = 1 << 20  # weights of a position convolution whose spectrum, ten times as large, is not kept in training
GROUPS_AT_ONCE = 2  # of such a one: their spectra fit into the processor's cache


class ChannelNorm(nn.LayerNorm):
    """Layer norm over `channels` living ones of `dense_channels`; those that are gone count as zeros.

    Keeping the dense count in mean and variance is what makes a pruned front end equal the gated one.
    """

    def __init__(self, channels: int, dense_channels: int) -> None:
        super().__init__(channels)
        self.dense_channels = dense_channels

    def forward(self, x: Tensor) -> Tensor:  # (..., channels)
        """(B, T, C) to (B, T, C), normalised as if the channels that were pruned were there, as zeros."""
        gone = (0, self.dense_channels - x.size(-1))
        if gone == (0, 0):
            return super().forward(x)
        # zeros are put back rather than counted: one kernel, and torch's own rules for every type
        weight, bias = F.pad(self.weight, gone), F.pad(self.bias, gone)
        return F.layer_norm(F.pad(x, gone), (self.dense_channels,), weight, bias, self.eps)[..., : x.size(-1)]


class TransposedChannelNorm(nn.Module):
    """A ChannelNorm on (B, C, T), under the name it has in fairseq's Sequential(TransposeLast, norm, TransposeLast)."""

    def __init__(self, channels: int, dense_channels: int) -> None:
        super().__init__()
        self.add_module("1", ChannelNorm(channels, dense_channels))

    @property
    def inner(self) -> nn.Module:
        """The norm that works on (B, T, C)."""
        return cast(nn.Module, self._modules["1"])

    def forward(self, x: Tensor) -> Tensor:  # (B, C, T)
        """(B, C, T) to (B, C, T), normalised over channels."""
        return self.inner(x.transpose(1, 2)).transpose(1, 2)


class ConvBlock(nn.Module):
    """Convolution, norm, GELU; the children keep the places they have in fairseq's Sequential ("0" and "2")."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int,
        *,
        bias: bool,
        norm: nn.Module | None,
        padding: int = 0,
    ) -> None:
        super().__init__()
        self.add_module("0", nn.Conv1d(in_channels, out_channels, kernel, stride=stride, padding=padding, bias=bias))
        if norm is not None:
            self.add_module("2", norm)
        self.normalises_channels = isinstance(norm, TransposedChannelNorm)

    @property
    def convolution(self) -> nn.Conv1d:
        """The block's child "0"."""
        return cast(nn.Conv1d, self._modules["0"])

    @property
    def norm(self) -> nn.Module | None:
        """The block's child "2", if it has one."""
        return self._modules.get("2")

    def forward(
        self, x: Tensor, gate: Tensor | None = None, heard: Heard | None = None
    ) -> Tensor:  # (B, C_in, T_in) -> (B, C_out, T_out)
        """(B, C_in, T_in) to (B, C_out, T_out). `gate` (C_out,) scales channels; `heard`: a stream's statistics."""
        x = self.convolution(x)
        if gate is not None and self.normalises_channels:
            x = x * gate[:, None]
        norm = self.norm
        if norm is not None:
            x = norm(x, heard) if isinstance(norm, GroupNormOfTheHeard) else norm(x)
        x = F.gelu(x)
        return x if gate is None else x * gate[:, None]

    def is_plain(self) -> bool:
        """Whether nothing was done to this block or its parts: their weights may be used without calling them."""
        parts: list[tuple[nn.Module, type[nn.Module]]] = [(self, ConvBlock), (self.convolution, nn.Conv1d)]
        norm = self.norm
        if self.normalises_channels and norm is not None:
            parts += [(norm, TransposedChannelNorm), (norm.get_submodule("1"), ChannelNorm)]
        elif norm is not None:
            parts += [(norm, nn.GroupNorm)]
        return all(is_plain(module, kind) for module, kind in parts) and self._is_as_built()

    def _is_as_built(self) -> bool:
        """Whether convolution and norm do what is computed for them; torch's classes can do more."""
        convolution, norm = self.convolution, self.norm
        channels = convolution.weight.size(0)
        return (
            (convolution.groups, convolution.dilation, convolution.padding_mode) == (1, (1,), "zeros")
            and isinstance(convolution.padding, tuple)
            and not (isinstance(norm, nn.GroupNorm) and not (norm.affine and norm.num_groups == channels))
        )

    def time_major(self, x: Tensor, gate: Tensor | None = None) -> Tensor:  # (B, T_in, C_in) -> (B, T_out, C_out)
        """The same, channels last: on a CPU the convolutions are up to 1.5 times as fast that way (see benchmarks)."""
        norm = self.norm
        if isinstance(norm, nn.GroupNorm):
            x = normalised_convolution(x, self.convolution, norm)
        else:
            x = time_major_convolution(x, self.convolution)
        if isinstance(norm, TransposedChannelNorm):
            x = norm.inner(x if gate is None else x * gate)
        x = F.gelu(x)
        return x if gate is None else x * gate


def time_major_convolution(x: Tensor, convolution: nn.Conv1d) -> Tensor:
    """`convolution` on (B, T_in, C_in) -> (B, T_out, C_out), without a change of layout on the way in or out."""
    padding = cast(int, convolution.padding[0])  # a word ("same") where torch is asked for one; ours are numbers
    if x.size(2) == 1 and not padding:  # a few samples under each filter: a small matrix product
        windows = x[..., 0].unfold(1, convolution.weight.size(2), convolution.stride[0])  # (B, T_out, k)
        return F.linear(windows, convolution.weight[:, 0], convolution.bias)
    image = x.transpose(1, 2).unsqueeze(2)  # (B, C_in, 1, T_in), of which one place is C_in neighbours in memory
    weight = convolution.weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)
    out = F.conv2d(image, weight, convolution.bias, (1, convolution.stride[0]), (0, padding))
    return out.squeeze(2).transpose(1, 2)


def normalised_convolution(x: Tensor, convolution: nn.Conv1d, norm: nn.GroupNorm) -> Tensor:
    """`norm(convolution(x))` of one-channel input, the norm folded into the filters of each utterance.

    The output of filter w has mean w m and variance w C w', where m and C are mean and covariance of the k
    samples under the filter. So the norm's two passes over 512 channels at 3.2 kHz, the widest tensor of the
    model, become one over the waveform. A bias of the convolution cancels.

    Args:
        x: (B, S, 1)

    Returns:
        (B, T, C)
    """
    windows = x[..., 0].unfold(1, convolution.weight.size(2), convolution.stride[0])  # (B, T, k)
    exact = windows.double()  # filters may cancel all but 1e-3
    mean = exact.mean(1, keepdim=True)  # (B, 1, k)
    centred = exact - mean
    covariance = centred.transpose(1, 2) @ centred / windows.size(1)  # (B, k, k)
    filters = convolution.weight[:, 0].double()  # (C, k)
    variance = (filters @ covariance * filters).sum(-1)  # (B, C)
    scale = norm.weight * torch.rsqrt(variance + norm.eps)  # (B, C)
    bias = norm.bias - (mean @ filters.t())[:, 0] * scale  # (B, C)
    filters = filters * scale.unsqueeze(-1)  # (B, C, k): one set of filters for each utterance
    return torch.baddbmm(bias.to(x.dtype).unsqueeze(1), windows, filters.to(x.dtype).transpose(1, 2))


class ConvFeatureExtractor(nn.Module):
    """The stack of convolutions, and the spectra below it where there are; one frame every `config.downsample_rate`
    samples."""

    conv_layers: ModuleListOf[ConvBlock]

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.log_mel = None if config.log_mel is None else LogMelSpectrum(config.log_mel)
        blocks = []
        in_channels = config.input_channels
        for number, layer in enumerate(config.conv):
            norm: nn.Module | None = None
            if config.extractor_mode == "layer_norm":
                norm = TransposedChannelNorm(layer.channels, layer.counted_by_norms)
            elif number == 0 and config.extractor_mode == "default":
                norm = nn.GroupNorm(layer.channels, layer.channels)
                if config.streaming is not None:
                    norm = GroupNormOfTheHeard(layer.channels)
            padding = layer.kernel // 2 if config.conv_padding else 0
            blocks.append(
                ConvBlock(
                    in_channels,
                    layer.channels,
                    layer.kernel,
                    layer.stride,
                    bias=config.conv_bias,
                    norm=norm,
                    padding=padding,
                )
            )
            in_channels = layer.channels
        self.conv_layers = cast("ModuleListOf[ConvBlock]", nn.ModuleList(blocks))
        self.scale = nn.Parameter(torch.ones(in_channels)) if config.feature_scale else None

    def forward(
        self, waveforms: Tensor, gates: Sequence[Tensor | None] | None = None, heard: Heard | None = None
    ) -> Tensor:
        """(B, S) -> (B, T, C); of a streaming model (B K, P) -> (B K, c, C), and `heard` takes note of them."""
        gate_of = [None] * len(self.conv_layers) if gates is None else gates
        time_major = self._pays_time_major(waveforms) and all(block.is_plain() for block in self.conv_layers)
        x = waveforms.unsqueeze(2) if self.log_mel is None else self.log_mel(waveforms)  # (B, S, 1) or (B, M, bands)
        x = x if time_major else x.transpose(1, 2)
        for block, gate in zip(self.conv_layers, gate_of, strict=True):
            x = block.time_major(x, gate) if time_major else block(x, gate, heard)
        if not time_major:
            x = x.transpose(1, 2)
        return x if self.scale is None else x * self.scale

    def _pays_time_major(self, waveforms: Tensor) -> bool:
        """On a CPU, unless there is little to do; in single precision its backward pass takes up to twice as long."""
        if waveforms.numel() < TIME_MAJOR_SAMPLES:
            return False
        learns = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters())
        return eager_on_cpu(waveforms) and (not learns or in_bf16(waveforms))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new convolutions by Kaiming's rule."""
        for block in self.conv_layers:
            nn.init.kaiming_normal_(block.convolution.weight)


class WeightNormConv(nn.Module):
    """The convolutional position embedding of wav2vec 2.0, HuBERT and WavLM.

    Its weight is v * g / |v|, the norm taken for each tap of the kernel; `weight_g` (1, 1, k) and
    `weight_v` (d, d / groups, k) are the parameters, as torch's weight_norm(dim=2) names them.

    With 128 taps a CPU is several times faster in the frequency domain (see benchmarks): input segments of
    three kernel lengths are transformed, multiplied, and transformed back (overlap-save).
    """

    def __init__(self, dim: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight_g = nn.Parameter(torch.ones(1, 1, kernel))
        self.weight_v = nn.Parameter(torch.empty(dim, dim // groups, kernel))
        self.bias = nn.Parameter(torch.zeros(dim))
        self._kept = Kept()

    def trust_weights(self) -> None:
        """See `Encoder.frozen`."""
        self._kept.trusting = True

    @property
    def kernel(self) -> int:
        """Frames under the kernel."""
        return self.weight_v.size(-1)

    @property
    def reach(self) -> int:
        """Frames before its own that a frame sees."""
        return self.kernel // 2

    @property
    def segment(self) -> int:
        """Frames of a segment, where the convolution is computed as a matrix product."""
        return 3 * self.kernel

    def forward(self, x: Tensor) -> Tensor:  # (B, d, T) -> (B, d, T)
        """(B, d, T) to (B, d, T): the convolution, cut to as many frames as it was given, then GELU."""
        parameters = self.weight_v, self.weight_g
        if eager_on_cpu(x):
            if torch.is_grad_enabled() and any(p.requires_grad for p in parameters):
                out = self._learning(x)
            else:
                out = self._in_frequency_domain(x, self._kept.get(self._spectrum, *parameters))
            return F.gelu(out + self.bias[:, None])
        out = F.conv1d(x, self._weight(*parameters), self.bias, padding=self.kernel // 2, groups=self.groups)
        return F.gelu(out[..., : x.size(-1)])  # an even kernel gives one frame too many

    def _learning(self, x: Tensor) -> Tensor:  # (B, d, T) -> (B, d, T)
        """Of a large kernel a few groups at a time, whose spectra are computed once more in the backward pass."""
        if self.weight_v.numel() < LARGE_KERNEL:
            return self._in_frequency_domain(x, self._spectrum(self.weight_v, self.weight_g))
        scale = self._scale(self.weight_v, self.weight_g)
        channels = GROUPS_AT_ONCE * self.weight_v.size(1)
        parts = zip(x.split(channels, dim=1), self.weight_v.split(channels), strict=True)
        recomputed = partial(checkpoint, self._groups, use_reentrant=False, preserve_rng_state=False)
        return torch.cat([recomputed(*part, scale) for part in parts], dim=1)

    def _groups(self, x: Tensor, weight_v: Tensor, scale: Tensor) -> Tensor:  # (B, c, T) -> (B, c, T)
        return self._in_frequency_domain(x, self._transformed(weight_v * scale))

    def _scale(self, weight_v: Tensor, weight_g: Tensor) -> Tensor:  # (1, 1, k)
        return weight_g / torch.linalg.vector_norm(weight_v, dim=(0, 1), keepdim=True)

    def _weight(self, weight_v: Tensor, weight_g: Tensor) -> Tensor:  # (d, d / groups, k)
        return weight_v * self._scale(weight_v, weight_g)

    def _spectrum(self, weight_v: Tensor, weight_g: Tensor) -> Tensor:
        return self._transformed(self._weight(weight_v, weight_g))

    def _transformed(self, weight: Tensor) -> Tensor:
        """Of some groups' weight (c, d / groups, k): (frequencies, groups, d / groups, d / groups)."""
        # conjugate, since what networks call convolution is correlation
        spectrum = torch.fft.rfft(at_least_single(weight), self.segment).conj()  # (c, d / groups, frequencies)
        spectrum = spectrum.unflatten(0, (-1, weight.size(1)))  # (groups, out, in, frequencies)
        return spectrum.permute(3, 0, 2, 1).contiguous()

    def _in_frequency_domain(self, x: Tensor, spectrum: Tensor) -> Tensor:  # (B, d, T) -> (B, d, T), without bias
        batch, dim, frames = x.shape
        hop = self.segment - self.kernel + 1  # frames that each segment completes
        count = -(-frames // hop)
        before = self.kernel // 2
        after = (count - 1) * hop + self.segment - before - frames
        segments = F.pad(at_least_single(x), (before, after)).unfold(2, self.segment, hop)  # (B, d, count, segment)
        inputs = torch.fft.rfft(segments).unflatten(1, (spectrum.size(1), -1))  # (B, groups, in, count, frequencies)
        inputs = inputs.permute(4, 1, 0, 3, 2).flatten(2, 3)  # (frequencies, groups, B * count, in)
        outputs = inputs @ spectrum  # (frequencies, groups, B * count, out)
        out = torch.fft.irfft(outputs.permute(2, 1, 3, 0), self.segment)[..., :hop]  # (B * count, groups, out, hop)
        out = out.reshape(batch, count, dim, hop).transpose(1, 2).flatten(2)[..., :frames]  # (B, d, T)
        return out.to(x.dtype)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw a new kernel as fairseq does, and take its norms as the scales."""
        dim, _, kernel = self.weight_v.shape
        nn.init.normal_(self.weight_v, std=math.sqrt(4.0 / (kernel * dim)))
        self.weight_g.copy_(torch.linalg.vector_norm(self.weight_v, dim=(0, 1), keepdim=True))
        nn.init.zeros_(self.bias)


class StackedPositionBlock(nn.Module):
    """One of data2vec audio's position convolutions: convolution, layer norm without parameters, GELU."""

    def __init__(self, dim: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.add_module("0", nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=groups))
        self.reach = kernel // 2  # frames before its own that a frame sees

    def forward(self, x: Tensor) -> Tensor:  # (B, d, T) -> (B, d, T)
        """(B, d, T) to (B, d, T): convolution, a norm without parameters over channels, GELU."""
        length = x.size(-1)
        x = self.get_submodule("0")(x)[..., :length].transpose(1, 2)
        return F.gelu(F.layer_norm(x, x.shape[-1:])).transpose(1, 2)


PositionBlock: TypeAlias = WeightNormConv | StackedPositionBlock


def position_convolution(config: EncoderConfig) -> ModuleListOf[PositionBlock]:
    """The position embedding's blocks, applied one after another on (B, d, T).

    data2vec has several (fairseq, examples/data2vec/models and wav2vec2.py `make_conv_block`), Whisper none.
    """
    dim, depth, groups, kernel = config.embed_dim, config.conv_pos_depth, config.conv_pos_groups, config.position_kernel
    if depth == 1:
        blocks = nn.ModuleList([WeightNormConv(dim, kernel, groups)])
    else:
        blocks = nn.ModuleList(StackedPositionBlock(dim, kernel, groups) for _ in range(depth))
    return cast("ModuleListOf[PositionBlock]", blocks)
