"""Masked prediction: how the demo's teacher, and any small teacher of one's own, comes to be.

Hsu et al., "HuBERT" (2021), equation 2: spans of frames are hidden from the transformer, which has to name the unit of
each hidden frame. In the first iteration units are clusters of cepstra; a later one goes on from the model before it,
with labels of its own. Small models do not get off the ground that way, because random
convolutions give the transformer nothing to read; so the front end first learns, alone, to predict the log mel
energies of its frames.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError, DataError
from ..files import write_text
from ..model.checkpoint import load, save
from ..model.config import SAMPLE_RATE, EncoderConfig, RelativePosition, dense_config
from ..model.encoder import Dropout, Encoder
from ..model.hub import require_local
from ..model.memory import require_memory
from ..parsing import require, shown
from .corpus import HEADERS_FILE, Corpus, find_corpus
from .data import Batch, Batches
from .fingerprints import encoder_fingerprint
from .loop import ParameterGroup, Trainer, decayed
from .masking import check_spans, masked_spans
from .processes import Processes, start_processes
from .provenance import REPORT_FILE, provenance
from .recipe import REQUIRED, Data, DropoutRates, Kind, Optimisation, Run, key
from .reports import TrainingReport, training_facts
from .schedules import warmup_linear_decay
from .units import MELS, FrameLabels, Targets, log_mel

log = logging.getLogger(__name__)

MODEL_FILE = "teacher.safetensors"
TARGETS_FILE = "targets.pt"


@dataclass
class Shape:
    """A WavLM-shaped encoder: seven convolutions of the published kernels and strides, `channels` wide."""

    channels: int = 96  # of each convolution
    layers: int = 6  # of the transformer
    dim: int = 192  # width of the transformer
    heads: int = 6  # of each layer
    ffn: int = 768  # feed-forward width
    conv_pos: int = 64  # kernel of the position convolution, in frames
    conv_pos_groups: int = 8  # its groups
    buckets: int = 320  # of relative positions, both directions together
    max_distance: int = 800  # frames; what is farther apart shares a bucket

    def config(self) -> EncoderConfig:
        """Raises ConfigError for a shape that cannot be built."""
        stack = ((10, 5),) + ((3, 2),) * 4 + ((2, 2),) * 2
        return dense_config(
            conv_layers=tuple((self.channels, kernel, stride) for kernel, stride in stack),
            num_layers=self.layers,
            embed_dim=self.dim,
            num_heads=self.heads,
            ffn_dim=self.ffn,
            conv_pos=self.conv_pos,
            conv_pos_groups=self.conv_pos_groups,
            relative_position=RelativePosition(self.buckets, self.max_distance, gated=True),
        )


@dataclass
class Masking:
    """Which frames are hidden, and what is predicted there."""

    start: float = 0.065  # probability that a span starts at a frame
    span: int = 10  # frames
    units: int = 64  # clusters of frames, which are the classes to predict
    unmasked: float = 0.0  # weight of frames that are not hidden, against 1 of those that are (HuBERT's (1 - a) / a)
    labels: str | None = None  # ending of files of frame labels beside the manifests ("km"): units that are given
    smoothing: int = 5  # frames that a cepstrum is averaged over
    fit_batches: int = 60  # batches whose frames the units are fitted on
    front_end_steps: int = 300  # of the run's steps: the front end alone, towards log mel energies

    def __post_init__(self) -> None:
        require(0 < self.start < 1, "masking.start", self.start, "lie between 0 and 1, both excluded")
        for name in ("span", "fit_batches"):
            require(getattr(self, name) >= 1, f"masking.{name}", getattr(self, name), "be at least 1")
        require(0 <= self.unmasked <= 1, "masking.unmasked", self.unmasked, "be from 0 to 1")
        ending = self.labels is None or (self.labels != "" and not self.labels.startswith("."))
        require(ending, "masking.labels", self.labels, "be null or an ending without its dot, such as km")
        require(self.units >= 2, "masking.units", self.units, "be at least 2")
        require(self.smoothing % 2 == 1, "masking.smoothing", self.smoothing, "be an odd number of frames")
        require(self.front_end_steps >= 0, "masking.front_end_steps", self.front_end_steps, "be at least 0")


@dataclass
class PretrainRecipe:
    """An encoder from scratch, or from where another training has brought it."""

    start: str | None = key(Kind.INPUT, None)  # a model file of this package, in place of random weights
    data: Data = field(default_factory=Data)
    shape: Shape = field(default_factory=Shape)
    masking: Masking = field(default_factory=Masking)
    dropout: DropoutRates = key(Kind.AMENDABLE, DropoutRates)
    optimisation: Optimisation = key(Kind.AMENDABLE, Optimisation)
    run: Run = field(default_factory=lambda: Run(folder=REQUIRED))
    # of the model file: half the size, read back in single precision
    half_precision: bool = key(Kind.EVALUATION, False)

    def check(self) -> None:
        """Raise ConfigError unless the front end leaves steps for the rest."""
        require(
            self.masking.front_end_steps < self.optimisation.steps,
            "masking.front_end_steps",
            self.masking.front_end_steps,
            "be below optimisation.steps",
        )


class MaskedPrediction:
    """First the front end towards log mel energies, then the whole encoder towards the units of hidden frames."""

    def __init__(
        self,
        encoder: Encoder,
        targets: Targets,
        labels: FrameLabels | None,
        recipe: PretrainRecipe,
        processes: Processes = Processes(),
    ) -> None:
        self.encoder = encoder.train()
        self.targets = targets
        self.labels = labels
        self.recipe = recipe
        self.processes = processes
        dim = encoder.config.embed_dim
        self.heads = nn.ModuleDict({"mel": nn.Linear(dim, MELS), "units": nn.Linear(dim, recipe.masking.units)}).to(
            processes.device
        )
        self.mask_emb = nn.Parameter(torch.rand(dim, device=processes.device))
        self.modules = nn.ModuleDict({"encoder": encoder, "heads": self.heads})

    def parameter_groups(self) -> list[ParameterGroup]:
        """Encoder, prediction heads and the vector that stands for hidden frames."""
        options = self.recipe.optimisation
        parameters = [*self.modules.parameters(), self.mask_emb]
        schedule = partial(
            _two_phases,
            first=warmup_linear_decay(max(1, self._front_end_steps), options.warmup),
            second=warmup_linear_decay(options.steps - self._front_end_steps, options.warmup),
            turn=self._front_end_steps,
        )
        return [
            ParameterGroup(
                "weights", [p for p in parameters if decayed(p)], options.learning_rate, schedule, options.weight_decay
            ),
            ParameterGroup("biases", [p for p in parameters if not decayed(p)], options.learning_rate, schedule),
        ]

    def begin_step(self, step: int, parts: Sequence[Batch]) -> None:
        """Count the frames that are predicted, in all processes."""
        self.predicts_units = step >= self._front_end_steps
        hidden = valid = 0
        for part in parts:
            if part.wavs:
                hidden += int(self._hidden(part).sum())
                valid += int(self._valid(part).sum())
        shown = self.recipe.masking.unmasked if self.predicts_units else 1.0  # weight of frames that are not hidden
        counts = (hidden + shown * (valid - hidden), hidden)
        self.frames, self.hidden = (self.processes.sum_(self.processes.scalar(count)) for count in counts)
        self.total, self.correct = self.processes.scalar(0.0), self.processes.scalar(0.0)

    def loss(self, part: Batch) -> Tensor:
        """Cross entropy of the part's frames over the step's: a scalar."""
        hidden = self.processes.to_device(self._hidden(part))  # seeds torch's RNG, then dropout goes on from it
        waveforms, lengths = self.encoder.prepare(part.wavs, pad_to=part.pad_to)
        require_memory(self.encoder.config, len(waveforms), waveforms.size(1), self.processes.device)
        target = self.processes.to_device(self._target(part, waveforms))
        waveforms, lengths = self.processes.to_device(waveforms), self.processes.to_device(lengths)
        projected = self.encoder.project(self.encoder.features(waveforms))
        padding = self.encoder.padding_mask(lengths, waveforms.size(1))
        if self.predicts_units:
            projected = torch.where(hidden.unsqueeze(-1), self.mask_emb.to(projected.dtype), projected)
            logits = self.heads["units"](self.encoder.contextualize(projected, padding)[-1])  # (B, T, units)
            losses = F.cross_entropy(logits.float().transpose(1, 2), target, reduction="none")  # (B, T)
            summed = (losses * torch.where(hidden, 1.0, self.recipe.masking.unmasked) * ~padding).sum()
            self.correct += ((logits.argmax(-1) == target) & hidden).sum()
        else:
            errors = (self.heads["mel"](projected).float() - target).square().mean(-1)  # (B, T)
            summed = errors.masked_fill(padding, 0.0).sum()
        loss = summed / self.frames.clamp(min=1.0)
        self.total += loss.detach()
        return loss

    def end_step(self) -> None:
        """Add loss and right answers up over all processes."""
        self.processes.sum_(self.total)
        self.processes.sum_(self.correct)

    def after_step(self) -> None:
        """Nothing to project."""

    def metrics(self) -> dict[str, Tensor]:
        """Loss, accuracy on hidden frames, and frames."""
        return {
            "loss": self.total.clone(),
            "accuracy": self.correct / self.hidden.clamp(min=1.0),  # of hidden frames; 0 while the front end learns
            "frames": self.frames,
        }

    def shown(self) -> Sequence[str]:
        """Loss and accuracy."""
        return ("loss", "accuracy")

    def state_dict(self) -> dict[str, Any]:
        """The modules and the vector of hidden frames."""
        return dict(self.modules.state_dict()) | {"mask_emb": self.mask_emb.detach()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        state = dict(state)
        with torch.no_grad():
            self.mask_emb.copy_(state.pop("mask_emb"))
        self.modules.load_state_dict(state)

    @property
    def _front_end_steps(self) -> int:
        return self.recipe.masking.front_end_steps

    def _target(self, part: Batch, waveforms: Tensor) -> Tensor:
        """Units (B, T), or normalised log mel energies (B, T, 40) while the front end learns alone."""
        config = self.encoder.config
        if self.predicts_units and self.labels is not None:
            return self.labels(part, config)
        mel = log_mel(waveforms, config)
        clusters = self.targets.clusters if self.predicts_units else None
        return self.targets.mel(mel) if clusters is None else clusters(mel)

    def _valid(self, part: Batch) -> Tensor:
        """(B, T), True at frames that are not padding."""
        lengths = torch.tensor([len(wav) for wav in part.wavs])
        return ~self.encoder.padding_mask(lengths, part.pad_to)

    def _hidden(self, part: Batch) -> Tensor:
        """(B, T), True at frames that are hidden from the transformer: none while the front end learns alone."""
        torch.manual_seed(part.seed)
        masking, valid = self.recipe.masking, self._valid(part)
        return masked_spans(valid, masking.start, masking.span) if self.predicts_units else torch.zeros_like(valid)


def _two_phases(step: int, *, first: Any, second: Any, turn: int) -> float:
    return first(step) if step < turn else second(step - turn)


def run_pretrain(recipe: PretrainRecipe, *, amend: bool = False) -> Path:
    """Train an encoder as the recipe says, from scratch or from a model that is there already; where an earlier launch
    stopped, this one goes on.

    Args:
        amend: go on although amendable keys (`recipe.Kind`) differ from those that the run was begun with.

    Returns:
        The model file; beside it lie a report, the resolved recipe, the targets, metrics and the training state.

    Raises:
        PrunedUpstreamError: of the kinds in `errors.py`.
        KeyboardInterrupt: Ctrl-C; the state is saved.
    """
    config = recipe.shape.config()
    with start_processes(recipe.run.device) as processes, processes.alone_in(Path(recipe.run.folder)) as folder:
        with processes.main_first():
            corpus = find_corpus(recipe.data.train, min_samples=config.receptive_field, cache=folder / HEADERS_FILE)
            longest = int(recipe.data.max_seconds * SAMPLE_RATE)
            frames = [config.frames(min(utterance.samples, longest)) for utterance in corpus.utterances]
            check_spans(frames, recipe.masking.span, "masking.span")
            batches = Batches(corpus, recipe.data, seed=recipe.run.seed, accumulation=recipe.optimisation.accumulation)
            torch.manual_seed(recipe.run.seed)
            encoder = _encoder(config, recipe).to(processes.device)
            labels = _labels(config, corpus, recipe)
            targets = _targets(folder / TARGETS_FILE, config, batches, recipe)
        inputs = {} if recipe.start is None else {"weights to start from": encoder_fingerprint(encoder)}
        if labels is not None:
            inputs["frame labels"] = labels.fingerprint
        objective = MaskedPrediction(encoder, targets, labels, recipe, processes)
        trainer = Trainer(objective, batches, recipe, processes, inputs=inputs, amend=amend)
        trainer.fit()
        if processes.is_main:
            report = TrainingReport(**training_facts(corpus, [trainer], steps=recipe.optimisation.steps))
            model = encoder.half() if recipe.half_precision else encoder
            source = provenance(recipe, report.amendments, method="masked prediction")
            save(folder / MODEL_FILE, model, provenance=source)
            write_text(folder / REPORT_FILE, json.dumps(asdict(report), indent=1))  # last: then the run is finished
    return folder / MODEL_FILE


def _encoder(config: EncoderConfig, recipe: PretrainRecipe) -> Encoder:
    dropout = Dropout(**asdict(recipe.dropout))
    if recipe.start is None:
        return Encoder(config, dropout)
    encoder = load(require_local(recipe.start), dropout=dropout)
    if encoder.config != config:
        here, there = asdict(config), asdict(encoder.config)
        differing = [
            f"{key} ({shown(there[key])} there, {shown(here[key])} here)" for key in here if there[key] != here[key]
        ]
        raise ConfigError(
            f"{recipe.start} holds a model of another shape than the recipe's section shape: {', '.join(differing)}; "
            "describe that shape, or leave start out"
        )
    return encoder


def _targets(path: Path, config: EncoderConfig, batches: Batches, recipe: PretrainRecipe) -> Targets:
    """Fitted once per run: units of another fit would be other labels."""
    masking = recipe.masking
    units = masking.units if masking.labels is None else None
    settings = {
        "units": units,
        "smoothing": masking.smoothing,
        "fit_batches": masking.fit_batches,
        "seed": recipe.run.seed,
        "corpus": batches.corpus.fingerprint,
    }
    if path.exists() and (kept := Targets.load(path)).settings == settings:
        return kept  # else of a launch that was given up before its first state
    log.info("fitting targets on %d batches", masking.fit_batches)
    targets = Targets.fit(
        _whole_waveforms(batches, masking.fit_batches),
        config,
        units=units,
        smoothing=masking.smoothing,
        seed=recipe.run.seed,
        settings=settings,
    )
    targets.save(path)
    return targets


def _labels(config: EncoderConfig, corpus: Corpus, recipe: PretrainRecipe) -> FrameLabels | None:
    if recipe.masking.labels is None:
        return None
    return FrameLabels.read(recipe.data.train, recipe.masking.labels, corpus, config, units=recipe.masking.units)


def _whole_waveforms(batches: Batches, count: int) -> Iterator[Tensor]:
    """The waveforms of the first steps, (1, S) each, as they are before any padding."""
    found = 0
    for step in range(count):
        for part in batches[step]:
            for wav in part.wavs:
                found += 1
                yield wav.unsqueeze(0)
    if not found:
        raise DataError("no recording of the first batches could be read; see the warnings above")
