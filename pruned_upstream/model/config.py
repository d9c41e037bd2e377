"""What an encoder looks like, as data.

Dense teacher, gated student and compact model are one class; they differ in this description alone.
A layer lists its living heads with the number each had in the dense model, because WavLM's position
gate reads the slice of the layer's input that belongs to that number (see `attention.py`).

Names follow fairseq's configuration where it has one (`extractor_mode`, `conv_pos`, `layer_norm_first`,
`normalize`); public WavLM: microsoft/unilm, wavlm/WavLM.py.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError, DataError
from ..parsing import parse_json, require, require_one_of, shown

SAMPLE_RATE = 16_000  # samples per second of every waveform
FAMILIES = ("wavlm", "hubert", "wav2vec2", "data2vec", "whisper")
EXTRACTOR_MODES = ("default", "layer_norm", "none")
PADDINGS = ("shares", "exact")

# Far beyond every published encoder (48 layers, 16 heads, width 1920), and small enough that a damaged number ends in a
# sentence and not in hours of building.
MAX_LAYERS = MAX_HEADS = 512
MAX_CONVOLUTIONS = MAX_CONV_POS_DEPTH = 64
MAX_WIDTH = 1 << 17
MAX_BANDS = 1024
MAX_FFT = 1 << 14
MAX_DISTANCE = 1 << 24  # frames
MAX_STREAMING = 1_000_000  # frames
MAX_RECEPTIVE_FIELD = 60 * SAMPLE_RATE  # samples


@dataclass(frozen=True)
class _Typed:
    """Refuses values of another type than its fields', which a foreign file may bring."""

    def __post_init__(self) -> None:
        own: Any = type(self)  # mypy does not know that a class can be hashed
        for name, kind in _simple_fields(own).items():
            value = getattr(self, name)
            require(type(value) is kind, f"{name} of {type(self).__name__}", value, f"be of type {kind.__name__}")


@functools.cache
def _simple_fields(cls: type[_Typed]) -> dict[str, type]:
    """The fields of a dataclass that are numbers, words or yes and no, with their types."""
    kinds = {kind.__name__: kind for kind in (int, bool, str)}
    fields = dataclasses.fields(cls)  # their types are words, as every annotation of this file
    return {field.name: kinds[field.type] for field in fields if isinstance(field.type, str) and field.type in kinds}


def pieces(whole: Any, size: int) -> Any:
    """How many pieces of `size` it takes; of a positive number, also one of a graph, where -(-whole // size) is another
    thing: ONNX divides towards zero."""
    return (whole + size - 1) // size


@dataclass(frozen=True)
class ConvLayer(_Typed):
    """One convolution of the front end; `channels` of its `dense_channels` output channels live.

    norm_channels: how many a layer norm behind it counts, removed ones as zeros; 0 for all of the dense ones. Others
        count the living alone (DPHuBERT, whose norms forget what is removed).
    """

    channels: int
    kernel: int
    stride: int
    dense_channels: int
    norm_channels: int = 0

    @property
    def counted_by_norms(self) -> int:
        """Over how many channels the layer norm takes its mean; those that were pruned count as constants."""
        return self.norm_channels or self.dense_channels

    def densified(self) -> ConvLayer:
        """The layer with all channels of the dense model."""
        return ConvLayer(self.dense_channels, self.kernel, self.stride, self.dense_channels)


@dataclass(frozen=True)
class Head(_Typed):
    """A living attention head: its number in the dense layer, its query/key width and its value/output width."""

    id: int
    qk: int
    vo: int


@dataclass(frozen=True)
class TransformerLayer(_Typed):
    """One transformer layer.

    `attention` and `feed_forward` say whether the sublayer exists. A sublayer that exists without heads
    (without `ffn` dimensions) adds its output bias alone; one that does not exist adds nothing. The layer
    norms stay in every case.
    """

    attention: bool
    heads: tuple[Head, ...]
    feed_forward: bool
    ffn: int

    @property
    def qk(self) -> int:
        """Rows of the query (and of the key) projection."""
        return sum(head.qk for head in self.heads)

    @property
    def vo(self) -> int:
        """Rows of the value projection, columns of the output projection."""
        return sum(head.vo for head in self.heads)


@dataclass(frozen=True)
class RelativePosition(_Typed):
    """WavLM's relative position bias: one table of `buckets` x heads, shared by all layers."""

    buckets: int
    max_distance: int
    gated: bool


@dataclass(frozen=True)
class LogMel(_Typed):
    """Whisper's spectra, which its convolutions read instead of samples (`log_mel.py`).

    A recording is cut into windows as long as the table of positions (30 s for every published model). With
    `whole_windows` the last one is filled with silence, and its frames attend to that, as in Whisper's training; frames
    of silence are left out of what the encoder returns. Without, the last one is as long as what is left of the
    recording: another function, and for short recordings a much cheaper one.
    """

    bands: int
    n_fft: int = 400  # samples under one spectrum
    hop: int = 160  # samples from one spectrum to the next
    whole_windows: bool = True


@dataclass(frozen=True)
class Streaming(_Typed):
    """A model that hears chunks (`streaming.py`): in frames, how long they are, and how far attention reaches back."""

    chunk: int
    history: int


@dataclass(frozen=True)
class EncoderConfig(_Typed):
    """The shape of an encoder; everything needed to build it and to load its weights."""

    family: str
    conv: tuple[ConvLayer, ...]
    extractor_mode: str  # "default": a group norm in the first block; "layer_norm": one in every block; or "none"
    conv_bias: bool
    normalize: bool  # each waveform is brought to zero mean and unit variance first
    embed_dim: int
    num_heads: int  # of the dense model: fixes the head width and the columns of the bias table
    ffn_dim: int  # of the dense model
    layer_norm_first: bool
    conv_pos: int  # kernel of the convolutional position embedding
    conv_pos_groups: int
    layers: tuple[TransformerLayer, ...]
    conv_pos_depth: int = 1  # data2vec stacks several, each with a layer norm of its own; Whisper has none
    relative_position: RelativePosition | None = None
    feature_norm: bool = True  # a layer norm on the features; DistilHuBERT has none
    padding: str = "shares"  # which frames of a padded utterance are padding; see `Encoder.padding_mask`
    feature_scale: bool = False  # one factor per channel after the front end, where fractional gates cannot be folded
    prediction_heads: int = 0  # kept from distillation, one per predicted teacher layer (`encoder.prediction_head`)
    log_mel: LogMel | None = None  # what the convolutions read; None for the waveform itself
    conv_padding: bool = False  # zeros of half a kernel on both sides of every convolution, which keep the ends
    positions: int = 0  # rows of the table that is added instead of a position convolution, and frames of a window
    key_bias: bool = True  # Whisper's keys have none
    streaming: Streaming | None = None  # None: every frame sees the whole recording

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check()

    @property
    def head_dim(self) -> int:
        """Width of a dense head; the attention scale stays head_dim ** -0.5 whatever is left of a head."""
        return self.embed_dim // self.num_heads

    @property
    def num_layers(self) -> int:
        """L, the number of transformer layers, those without any sublayer, too."""
        return len(self.layers)

    @property
    def feature_dim(self) -> int:
        """Living channels the front end gives."""
        return self.conv[-1].channels

    @property
    def has_projection(self) -> bool:
        """fairseq leaves the projection out when front end and transformer are equally wide."""
        return self.conv[-1].dense_channels != self.embed_dim

    @property
    def input_channels(self) -> int:
        """What the first convolution reads: one waveform, or the bands of a spectrum."""
        return 1 if self.log_mel is None else self.log_mel.bands

    @property
    def downsample_rate(self) -> int:
        """Samples per frame (320 for every published model)."""
        rate = 1 if self.log_mel is None else self.log_mel.hop
        for layer in self.conv:
            rate *= layer.stride
        return rate

    @property
    def receptive_field(self) -> int:
        """Samples under one frame (400 for every published model that reads the waveform, 1040 for Whisper)."""
        samples = 1
        for layer in reversed(self.conv):
            samples = (samples - 1) * layer.stride + layer.kernel
        return samples if self.log_mel is None else (samples - 1) * self.log_mel.hop + self.log_mel.n_fft

    @property
    def position_kernel(self) -> int:
        """Frames under each position convolution; data2vec spreads `conv_pos` over its depth
        (fairseq, wav2vec2.py `make_conv_block`)."""
        return self.conv_pos if self.conv_pos_depth == 1 else max(3, self.conv_pos // max(1, self.conv_pos_depth))

    @property
    def whole_windows(self) -> bool:
        """Whether recordings are filled up to whole windows of the table of positions, as Whisper's are."""
        return self.log_mel is not None and self.log_mel.whole_windows

    @property
    def normalizes_whole(self) -> bool:
        """Whether a waveform is normalised before the model hears it; a streaming model does so as it hears."""
        return self.normalize and self.streaming is None

    @property
    def is_dense(self) -> bool:
        """Whether nothing was pruned."""
        return self == self.densified()

    def frames(self, samples: int) -> int:
        """Frames that the front end makes of a waveform of `samples` samples (0 when it is too short)."""
        frames = self.frames_below(samples)
        return frames if frames > 0 else 0

    def frames_below(self, samples: Any) -> Any:
        """`frames` of a number or of a tensor of them, 0 or negative where a waveform is too short."""
        *_, frames = self.outputs_of_convolutions(samples)
        return frames

    def outputs_of_convolutions(self, samples: Any) -> Iterator[Any]:
        """How many places each convolution has, of a waveform of `samples` samples: a number, or a tensor of them."""
        places = samples if self.log_mel is None else pieces(samples, self.log_mel.hop)
        for layer in self.conv:
            added = layer.kernel // 2 * 2 if self.conv_padding else 0
            places = (places + added - layer.kernel) // layer.stride + 1
            yield places

    def require_frames(self, samples: int) -> None:
        """Raises DataError where a waveform of `samples` samples is too short to make a frame."""
        if self.frames(samples) < 1:
            raise DataError(
                f"waveforms of {samples} samples are shorter than the front end's receptive field of "
                f"{self.receptive_field}; pad them or leave them out"
            )

    def require_streaming(self) -> Streaming:
        """How the model hears chunks. Raises ConfigError where it does not."""
        if self.streaming is None:
            raise ConfigError(
                "this model attends to the whole of a recording and cannot be streamed exactly; `chunks` computes it "
                "by windows, and the recipe `streaming` trains one that hears chunks"
            )
        return self.streaming

    def dense_layer(self) -> TransformerLayer:
        """A transformer layer with all of its heads and dimensions."""
        heads = tuple(Head(i, self.head_dim, self.head_dim) for i in range(self.num_heads))
        return TransformerLayer(attention=True, heads=heads, feed_forward=True, ffn=self.ffn_dim)

    def densified(self) -> EncoderConfig:
        """The same encoder before anything was pruned."""
        conv = tuple(layer.densified() for layer in self.conv)
        layers = (self.dense_layer(),) * self.num_layers
        return dataclasses.replace(self, conv=conv, layers=layers, feature_scale=False)  # which comes of folded gates

    def to_json(self) -> str:
        """The shape as a line of JSON, which `from_json` reads."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> EncoderConfig:
        """Read what `to_json` wrote.

        Raises:
            ConfigError: unknown or missing key, wrong type, or a shape that cannot be built.
        """
        try:
            tree = parse_json(text)
        except ValueError as error:
            raise ConfigError(f"the encoder config cannot be read: {error}") from error
        tree = _fields(cls, tree, "config")
        conv, layers = _list(tree, "conv", "config"), _list(tree, "layers", "config")
        tree["conv"] = tuple(ConvLayer(**_fields(ConvLayer, c, f"conv[{i}]")) for i, c in enumerate(conv))
        tree["layers"] = tuple(_layer(layer, f"layers[{i}]") for i, layer in enumerate(layers))
        if tree.get("relative_position") is not None:
            relative = _fields(RelativePosition, tree["relative_position"], "relative_position")
            tree["relative_position"] = RelativePosition(**relative)
        if tree.get("log_mel") is not None:
            tree["log_mel"] = LogMel(**_fields(LogMel, tree["log_mel"], "log_mel"))
        if tree.get("streaming") is not None:
            tree["streaming"] = Streaming(**_fields(Streaming, tree["streaming"], "streaming"))
        return cls(**tree)

    def _check(self) -> None:
        require_one_of("the model's family", self.family, FAMILIES)
        require_one_of("extractor_mode", self.extractor_mode, EXTRACTOR_MODES)
        self._check_input()
        if self.streaming is not None:
            if self.log_mel is not None or self.conv_padding:
                raise ConfigError("a model of log-mel windows cannot be made to stream")
            _in_range("streaming.chunk", self.streaming.chunk, 1, MAX_STREAMING)
            _in_range("streaming.history", self.streaming.history, 0, MAX_STREAMING)
        require_one_of("padding", self.padding, PADDINGS)
        for name, most in _MOST.items():
            _in_range(name, getattr(self, name), 1, most)
        _in_range("conv_pos_depth", self.conv_pos_depth, 0, MAX_CONV_POS_DEPTH)
        _in_range("prediction_heads", self.prediction_heads, 0, MAX_LAYERS)
        _in_range("the number of convolutions", len(self.conv), 1, MAX_CONVOLUTIONS)
        _in_range("the number of layers", len(self.layers), 1, MAX_LAYERS)
        for name in ("num_heads", "conv_pos_groups"):
            if self.embed_dim % getattr(self, name):
                raise ConfigError(f"embed_dim {self.embed_dim} is not divisible by {name} {getattr(self, name)}")
        for i, conv in enumerate(self.conv):
            fits = 1 <= conv.channels <= conv.counted_by_norms <= conv.dense_channels
            if not fits or conv.kernel < 1 or conv.stride < 1:
                raise ConfigError(f"conv[{i}] cannot be built: {conv}")
            _in_range(f"conv[{i}].dense_channels", conv.dense_channels, 1, MAX_WIDTH)
        _in_range("the receptive field of the front end", self.receptive_field, 1, MAX_RECEPTIVE_FIELD)
        if self.relative_position is not None:
            self._check_positions(self.relative_position)
        if not self.has_projection and self.feature_dim != self.embed_dim:
            raise ConfigError("the last convolution of a model without a projection cannot lose channels")
        for i, layer in enumerate(self.layers, start=1):
            self._check_layer(i, layer)

    def _check_input(self) -> None:
        """Spectra go with a table of positions, waveforms with a position convolution."""
        mel, table, depth = self.log_mel, self.positions, self.conv_pos_depth
        if (table != 0, depth != 0) != ((False, True) if mel is None else (True, False)):
            raise ConfigError(f"log_mel {mel}, positions {table} and conv_pos_depth {depth} do not fit together")
        if mel is None:
            return
        if self.extractor_mode == "default":
            raise ConfigError("extractor_mode 'default' normalises waveforms; a model of spectra has another")
        _in_range("positions", table, 1, MAX_WIDTH)
        _in_range("log_mel.bands", mel.bands, 1, MAX_BANDS)
        _in_range("log_mel.n_fft", mel.n_fft, 2, MAX_FFT)
        _in_range("log_mel.hop", mel.hop, 1, mel.n_fft)

    def _check_positions(self, relative: RelativePosition) -> None:
        _in_range("relative_position.buckets", relative.buckets, 4, MAX_WIDTH)
        exact = relative.buckets // 4  # distances with a bucket of their own; the rest is logarithmic
        _in_range("relative_position.max_distance", relative.max_distance, exact + 1, MAX_DISTANCE)

    def _check_layer(self, number: int, layer: TransformerLayer) -> None:
        ids = [head.id for head in layer.heads]
        if ids != sorted(set(ids)) or any(not 0 <= i < self.num_heads for i in ids):
            raise ConfigError(f"layer {number}: head numbers {ids} are not rising and below {self.num_heads}")
        for head in layer.heads:
            if not (0 <= head.qk <= self.head_dim and 1 <= head.vo <= self.head_dim):
                raise ConfigError(f"layer {number}: {head} does not fit heads of width {self.head_dim}")
        if not 0 <= layer.ffn <= self.ffn_dim:
            raise ConfigError(f"layer {number}: ffn width {layer.ffn} is not between 0 and {self.ffn_dim}")
        if (layer.heads and not layer.attention) or (layer.ffn and not layer.feed_forward):
            raise ConfigError(f"layer {number}: a sublayer that is gone cannot have heads or dimensions")


_MOST = {
    "embed_dim": MAX_WIDTH,
    "num_heads": MAX_HEADS,
    "ffn_dim": MAX_WIDTH,
    "conv_pos": MAX_WIDTH,
    "conv_pos_groups": MAX_WIDTH,
}


def _in_range(name: str, value: int, least: int, most: int) -> None:
    require(least <= value <= most, name, value, f"be from {least} to {most:,}")


def _list(tree: dict[str, Any], key: str, where: str) -> list[Any]:
    require(isinstance(tree[key], list), f"{where}.{key}", tree[key], "be a list")
    return tree[key]


def _fields(cls: type, tree: Any, where: str) -> dict[str, Any]:
    """The key-value pairs of `tree`, refused unless they are exactly the fields of `cls`."""
    if not isinstance(tree, dict):
        raise ConfigError(f"{where} is not a JSON object but {type(tree).__name__}")
    known = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(tree.keys() - known.keys())
    missing = sorted(n for n, f in known.items() if n not in tree and f.default is dataclasses.MISSING)
    if unknown or missing:
        raise ConfigError(
            f"{where}: unknown keys {shown(unknown)}, missing keys {missing}; did a newer version write it?"
        )
    for name, value in tree.items():
        kind = _simple_fields(cls).get(name)
        if kind is not None:
            require(type(value) is kind, f"{where}.{name}", value, f"be of type {kind.__name__}")
    return dict(tree)


def _layer(tree: Any, where: str) -> TransformerLayer:
    tree = _fields(TransformerLayer, tree, where)
    heads = _list(tree, "heads", where)
    tree["heads"] = tuple(Head(**_fields(Head, h, f"{where}.heads[{i}]")) for i, h in enumerate(heads))
    return TransformerLayer(**tree)


def _conv_stack(*blocks: tuple[int, int, int]) -> tuple[ConvLayer, ...]:
    return tuple(ConvLayer(dim, kernel, stride, dim) for dim, kernel, stride in blocks)


# (512,10,5) + (512,3,2) x 4 + (512,2,2) x 2: the front end of every published model (wav2vec 2.0, section 4.2)
CONV_FEATURE_LAYERS = ((512, 10, 5),) + ((512, 3, 2),) * 4 + ((512, 2, 2),) * 2


# (share of the last convolution's channels, kernel, stride): as many samples per frame and under a frame as above, so
# that frames and padding are those of every published model, with 4.9 % of its multiply-accumulates
LIGHT_LAYERS = ((8, 10, 5), (4, 7, 4), (2, 7, 4), (1, 4, 4))


def light_front_end(config: EncoderConfig) -> EncoderConfig:
    """The encoder with four strided convolutions in place of its own; norms, projection and all after them stay.

    Raises:
        ConfigError: its frames are not 320 samples apart and 400 wide, as they are in every published model that hears
            waveforms.
    """
    if config.log_mel is not None:
        raise ConfigError(
            f"a light front end hears waveforms; the front end of a {config.family} encoder is light already"
        )
    width = config.conv[-1].dense_channels
    conv = _conv_stack(*((max(1, width // share), kernel, stride) for share, kernel, stride in LIGHT_LAYERS))
    light = dataclasses.replace(config, conv=conv, feature_scale=False)
    if (config.downsample_rate, config.receptive_field) != (light.downsample_rate, light.receptive_field):
        raise ConfigError(
            f"a light front end gives a frame of {light.receptive_field} samples every {light.downsample_rate}; this "
            f"encoder has {config.receptive_field} and {config.downsample_rate}"
        )
    return light


# as fairseq's wav2vec2.py and data2vec_audio.py; its hubert.py, and WavLM after it, deal shares
PADDING_OF_FAMILY = {"wav2vec2": "exact", "data2vec": "exact", "whisper": "exact"}


def dense_config(
    *,
    family: str = "wavlm",
    conv_layers: tuple[tuple[int, int, int], ...] = CONV_FEATURE_LAYERS,
    num_layers: int = 12,
    embed_dim: int = 768,
    num_heads: int = 12,
    ffn_dim: int = 3072,
    extractor_mode: str = "default",
    conv_bias: bool = False,
    normalize: bool = False,
    layer_norm_first: bool = False,
    conv_pos: int = 128,
    conv_pos_groups: int = 16,
    conv_pos_depth: int = 1,
    relative_position: RelativePosition | None = None,
    feature_norm: bool = True,
    padding: str | None = None,
    prediction_heads: int = 0,
    log_mel: LogMel | None = None,
    conv_padding: bool = False,
    positions: int = 0,
    key_bias: bool = True,
) -> EncoderConfig:
    """A dense encoder; the defaults are the shape of HuBERT Base without its family name.

    Args:
        conv_layers: (channels, kernel, stride) of each convolution, as fairseq's `conv_feature_layers`.
        padding: the family's own by default.
    """
    _in_range("num_layers", num_layers, 1, MAX_LAYERS)
    _in_range("num_heads", num_heads, 1, MAX_HEADS)
    if embed_dim < 1 or embed_dim % num_heads:
        raise ConfigError(f"embed_dim {embed_dim} is not divisible by num_heads {num_heads}")
    width = embed_dim // num_heads
    layer = TransformerLayer(True, tuple(Head(i, width, width) for i in range(num_heads)), True, ffn_dim)
    return EncoderConfig(
        family=family,
        conv=_conv_stack(*conv_layers),
        extractor_mode=extractor_mode,
        conv_bias=conv_bias,
        normalize=normalize,
        embed_dim=embed_dim,
        num_heads=num_heads,
        ffn_dim=ffn_dim,
        layer_norm_first=layer_norm_first,
        conv_pos=conv_pos,
        conv_pos_groups=conv_pos_groups,
        conv_pos_depth=conv_pos_depth,
        layers=(layer,) * num_layers,
        relative_position=relative_position,
        feature_norm=feature_norm,
        padding=padding or PADDING_OF_FAMILY.get(family, "shares"),
        prediction_heads=prediction_heads,
        log_mel=log_mel,
        conv_padding=conv_padding,
        positions=positions,
        key_bias=key_bias,
    )


# WavLM's; max_distance 800 is what the released checkpoints' own cfg says, and a file's cfg wins
GATED_POSITIONS = RelativePosition(buckets=320, max_distance=800, gated=True)


def wavlm_base_config() -> EncoderConfig:
    """WavLM Base and Base+."""
    return dense_config(relative_position=GATED_POSITIONS)


def wavlm_large_config() -> EncoderConfig:
    """The shape of WavLM Large: 24 layers of 1024."""
    return _large_config("wavlm", conv_bias=False, relative_position=GATED_POSITIONS)


def hubert_base_config() -> EncoderConfig:
    """The shape of HuBERT Base: 12 layers of 768."""
    return dense_config(family="hubert")


def hubert_large_config() -> EncoderConfig:
    """The shape of HuBERT Large: 24 layers of 1024."""
    return _large_config("hubert", conv_bias=False)


def wav2vec2_base_config() -> EncoderConfig:
    """The shape of wav2vec 2.0 Base: 12 layers of 768."""
    return dense_config(family="wav2vec2")


def wav2vec2_large_config() -> EncoderConfig:
    """wav2vec 2.0 Large of Libri-light's 60 000 hours (LV-60), and XLS-R's 300M; LibriSpeech's Large has post-norms."""
    return _large_config("wav2vec2", conv_bias=True)


def data2vec_base_config() -> EncoderConfig:
    """The shape of data2vec audio Base: 12 layers of 768, with a stack of position convolutions."""
    return dense_config(family="data2vec", extractor_mode="layer_norm", normalize=True, conv_pos=95, conv_pos_depth=5)


def whisper_config(
    *,
    num_layers: int = 6,
    embed_dim: int = 512,
    num_heads: int = 8,
    ffn_dim: int | None = None,
    positions: int = 1500,
    log_mel: LogMel = LogMel(bands=80),
) -> EncoderConfig:
    """Whisper's encoder (openai/whisper, whisper/model.py, `AudioEncoder`); the defaults are the shape of base.

    Args:
        ffn_dim: four times the width by default, as OpenAI's code has it.
        positions: frames of a window.
    """
    return dense_config(
        family="whisper",
        conv_layers=((embed_dim, 3, 1), (embed_dim, 3, 2)),
        num_layers=num_layers,
        embed_dim=embed_dim,
        num_heads=num_heads,
        ffn_dim=4 * embed_dim if ffn_dim is None else ffn_dim,
        extractor_mode="none",
        conv_bias=True,
        conv_padding=True,
        layer_norm_first=True,
        conv_pos=1,
        conv_pos_groups=1,
        conv_pos_depth=0,
        positions=positions,
        feature_norm=False,
        key_bias=False,
        log_mel=log_mel,
    )


def _large_config(family: str, *, conv_bias: bool, relative_position: RelativePosition | None = None) -> EncoderConfig:
    return dense_config(
        family=family,
        num_layers=24,
        embed_dim=1024,
        num_heads=16,
        ffn_dim=4096,
        extractor_mode="layer_norm",
        conv_bias=conv_bias,
        normalize=True,
        layer_norm_first=True,
        relative_position=relative_position,
    )
