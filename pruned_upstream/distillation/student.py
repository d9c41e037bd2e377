"""Students of another shape than their teacher's: one of fewer layers, and one that hears chunks.

The shallow one is DistilHuBERT's (Chang et al., ICASSP 2022): its teacher's first layers, and heads that predict. All
that is kept of the teacher is copied: front end, projection, position convolution and the first n layers. From the
last of them, each of a few heads predicts one higher layer of the teacher. Departing from the public code (s3prl,
pretrain/distiller/pretrain_expert.py), which starts the norm of the transformer's input anew and leaves out that of the
features, both norms are copied: WavLM's and HuBERT's layers were trained behind them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from torch import Tensor, nn

from ..errors import ConfigError
from ..model.checkpoint import assemble
from ..model.config import SAMPLE_RATE, EncoderConfig, Streaming
from ..model.encoder import Dropout, Encoder
from ..parsing import require_seconds

HEADS = "prediction_heads."


def third_layers(num_layers: int) -> list[int]:
    """The layers that end each third of the depth, counted from 1.

    >>> third_layers(12), third_layers(6), third_layers(2)
    ([4, 8, 12], [2, 4, 6], [1, 2])
    """
    return sorted({math.ceil(third * num_layers / 3) for third in (1, 2, 3)})


def shallow_config(teacher: EncoderConfig, layers: int, heads: int = 0) -> EncoderConfig:
    """The shape of a student of the teacher's first `layers` layers with `heads` prediction heads.

    Raises:
        ConfigError: the teacher has no more layers than that.
    """
    if not 1 <= layers < teacher.num_layers:
        raise ConfigError(
            f"student.layers is {layers}; the teacher has {teacher.num_layers} layers, of which a student takes "
            f"from 1 to {teacher.num_layers - 1}"
        )
    return dataclasses.replace(teacher, layers=teacher.layers[:layers], prediction_heads=heads)


def shallow_student(teacher: Encoder, layers: int, heads: int, dropout: Dropout = Dropout()) -> Encoder:
    """A student that starts from copies; its heads are drawn from torch's global RNG. Raises as `shallow_config`."""
    student = Encoder(shallow_config(teacher.config, layers, heads), dropout)
    weights = student.state_dict()
    copied = {name: tensor for name, tensor in teacher.state_dict().items() if name in weights}
    student.load_state_dict(weights | {name: t for name, t in copied.items() if not name.startswith(HEADS)})
    return student


def without_heads(student: Encoder) -> Encoder:
    """The student as an upstream: the same hidden states, in eval mode, without prediction heads."""
    weights = {name: tensor for name, tensor in student.state_dict().items() if not name.startswith(HEADS)}
    return assemble(dataclasses.replace(student.config, prediction_heads=0), weights, source="the student")


def predictions(student: Encoder, last: Tensor) -> Sequence[Tensor]:
    """What each head makes of the last layer's output: (B, T, d) each."""
    return [head(last) for head in student.prediction_heads]


def scale_gradient(module: nn.Module, factor: float) -> None:
    """Multiply the gradient that reaches a module's output by `factor` (fairseq's `feature_grad_mult`)."""

    def scale(module: nn.Module, inputs: object, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient * factor)

    module.register_forward_hook(scale)


def as_streaming(encoder: Encoder, chunk_seconds: float, history_seconds: float) -> Encoder:
    """A copy that hears chunks (`model/streaming.py`); another function, to be trained before it is of use.

    Its padding is exact: so a batch gives what each recording gives alone.

    Raises:
        ConfigError: the encoder cannot hear chunks, a chunk is shorter than a frame, or one of the two is no number of
            seconds.
    """
    require_seconds("chunk_seconds", chunk_seconds)
    require_seconds("history_seconds", history_seconds)
    rate = encoder.config.downsample_rate
    chunk, history = (round(seconds * SAMPLE_RATE / rate) for seconds in (chunk_seconds, history_seconds))
    config = dataclasses.replace(encoder.config, streaming=Streaming(chunk, history), padding="exact")
    return assemble(config, encoder.state_dict(), source="the student", dropout=encoder.dropout)
