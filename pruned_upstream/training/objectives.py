"""Distillation as the training loop sees it: both models encode a batch, a distance between them is learned from.

Pruning, its second stage and the shallow student of DistilHuBERT are three such objectives; they share how a batch is
encoded, how frames are counted, and how parts of a batch add up to what one process would have computed whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..distillation.pairing import LayerPairing
from ..model.encoder import Encoder
from ..model.gating import EncoderGates
from .data import Batch
from .loop import ParameterGroup, decayed
from .processes import Processes
from .recipe import Optimisation
from .schedules import warmup_linear_decay


class Encoded(NamedTuple):
    """Both models' view of a micro-batch, and how much each frame counts.

    student, teacher: projected features before the position convolution, then the output of each layer: (B, T, d) each.
    weights: (B, T), 0 at padding.
    """

    student: list[Tensor]
    teacher: list[Tensor]
    weights: Tensor


class DistillationObjective:
    """A student learns from its teacher's hidden states; a subclass says by which distance.

    by_utterance: whether the loss is a mean over utterances, each of which is a mean over its frames; else it is one
        over all frames of the batch, where long utterances count more.

    Args:
        teacher, student: on the device of `processes`; the teacher is frozen.
        options: the student's weights and biases are learned at these rates.
    """

    by_utterance = False

    # of the step that is being done
    step: int
    frames: Tensor  # of the whole batch, without padding
    summands: Tensor  # frames, or utterances
    distillation: Tensor
    encoded: Encoded | None  # of the step's only part, where choosing pairs has encoded it already; `loss` takes it

    def __init__(self, teacher: Encoder, student: Encoder, options: Optimisation, processes: Processes) -> None:
        self.teacher = teacher.frozen()
        self.student = student.train()
        self.options = options
        self.processes = processes
        self.schedule = warmup_linear_decay(options.steps, options.warmup)
        self.modules = nn.ModuleDict({"student": student})

    def distance(self, encoded: Encoded) -> Tensor:
        """What is learned from a micro-batch, summed over its frames by their weights."""
        raise NotImplementedError

    def parameter_groups(self) -> list[ParameterGroup]:
        """The student's weights and, in a group without decay, its biases and norms."""
        options, learned = self.options, list(self.learned())
        weights = [p for p in learned if decayed(p)]
        others = [p for p in learned if not decayed(p)]
        return [
            ParameterGroup("weights", weights, options.learning_rate, self.schedule, options.weight_decay),
            ParameterGroup("biases", others, options.learning_rate, self.schedule),
        ]

    def learned(self) -> Iterable[nn.Parameter]:
        """The student's parameters that learn."""
        return self.student.parameters()

    def begin_step(self, step: int, parts: Sequence[Batch]) -> None:
        """Count what the loss is averaged over, in all processes."""
        self.step = step
        counts = [sum(self._count(part) for part in parts if part.wavs), sum(len(part.wavs) for part in parts)]
        self.frames, utterances = self.processes.sum_(torch.stack([*map(self.processes.scalar, counts)])).unbind()
        self.summands = utterances if self.by_utterance else self.frames
        self.distillation = self.processes.scalar(0.0)
        self.encoded = None

    def loss(self, part: Batch) -> Tensor:
        """The part's share of the step's distance: a scalar."""
        encoded, self.encoded = self.encoded, None  # it holds the activations of the whole part
        loss = self.distance(self._encode(part) if encoded is None else encoded) / self.summands
        self.distillation += loss.detach()
        return loss

    def end_step(self) -> None:
        """Add the loss up over all processes."""
        self.processes.sum_(self.distillation)

    def after_step(self) -> None:
        """Nothing to project."""

    def metrics(self) -> dict[str, Tensor]:
        """Loss and frames of the step."""
        return {"loss": self.distillation.clone(), "frames": self.frames}

    def shown(self) -> Sequence[str]:
        """The loss."""
        return ("loss",)

    def state_dict(self) -> dict[str, Any]:
        """The student, and whatever learns beside it."""
        return dict(self.modules.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.modules.load_state_dict(state)

    def _gates(self) -> EncoderGates | None:
        """What the student's forward pass is gated by."""
        return None

    def _encode(self, part: Batch) -> Encoded:
        torch.manual_seed(part.seed)
        # the teacher's way: a student that streams normalises what it has heard, of whatever level that is
        waveforms, lengths = self.teacher.prepare(part.wavs, pad_to=part.pad_to)
        waveforms, lengths = self.processes.to_device(waveforms), self.processes.to_device(lengths)
        with torch.no_grad():
            teacher = self.teacher(waveforms, lengths)
        student = self.student(waveforms, lengths, gates=self._gates())
        return Encoded(
            [student.projected, *student.hidden_states[1:]],
            [teacher.projected, *teacher.hidden_states[1:]],
            self._weights(~student.padding_mask),
        )

    def _weights(self, valid: Tensor) -> Tensor:  # (B, T) -> (B, T)
        return valid / valid.sum(1, keepdim=True).clamp(min=1) if self.by_utterance else valid

    def _count(self, part: Batch) -> int:
        """Frames of a part that are not padding."""
        lengths = torch.tensor([len(wav) for wav in part.wavs])
        return int((~self.student.padding_mask(lengths, part.pad_to)).sum())


class PairedDistillation(DistillationObjective):
    """Layers learn from layers (Wang et al. 2023, equation 5, its first term).

    The pairs are chosen from the errors of the whole batch; where a process computes its share in several parts, that
    takes a pass without gradients ahead of the pass with them (same gates, same dropout), since no pair is known before
    the last part.
    """

    pairs: list[int]  # the student layer of each teacher layer

    def __init__(
        self,
        teacher: Encoder,
        student: Encoder,
        pairing: LayerPairing,
        options: Optimisation,
        processes: Processes = Processes(),
        *,
        by_utterance: bool = False,
    ) -> None:
        super().__init__(teacher, student, options, processes)
        self.by_utterance = by_utterance
        self.pairing = pairing
        self.modules["pairing"] = pairing
        layers = student.config.layers
        self._living = torch.tensor([layer.attention or layer.feed_forward for layer in layers]).to(processes.device)

    def parameter_groups(self) -> list[ParameterGroup]:
        """The student's groups, then the layer map's."""
        # decay would pull the layer maps away from the identity they start as
        maps = ParameterGroup("layer_map", list(self.pairing.parameters()), self.options.learning_rate, self.schedule)
        return [*super().parameter_groups(), maps]

    def begin_step(self, step: int, parts: Sequence[Batch]) -> None:
        """Choose the step's pairs over the whole batch."""
        super().begin_step(step, parts)
        filled = [part for part in parts if part.wavs]
        table = self.pairing.empty_table()
        if len(filled) == 1:
            self.encoded = self._encode(filled[0])
            if self.pairing.needs_table:
                table += self.pairing.table(*self.encoded)
        elif self.pairing.needs_table:
            with torch.no_grad():
                for part in filled:
                    table += self.pairing.table(*self._encode(part))
        self.pairs = self.pairing.choose(self.processes.sum_(table), self._alive())

    def distance(self, encoded: Encoded) -> Tensor:
        """Distance of the chosen pairs, summed over what is averaged: a scalar."""
        return self.pairing(*encoded, self.pairs)

    def metrics(self) -> dict[str, Tensor]:
        """Loss, frames, and the pairs: pair/TEACHER_LAYER is the student's layer."""
        pairs = zip(self.pairing.teacher_layers, self.pairs, strict=True)
        chosen = {f"pair/{k}": self.processes.scalar(j) for k, j in pairs}
        return super().metrics() | {"distillation": self.distillation.clone()} | chosen

    def _alive(self) -> Tensor:
        """(L,) bool: layers that do anything."""
        return self._living
