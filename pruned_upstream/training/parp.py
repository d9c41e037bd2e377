"""Speech recognition by CTC inside which an encoder is pruned weight by weight: PARP and its baselines.

A linear head on the encoder's last hidden state writes letters or phones. The recipe is fairseq's finetuning of
wav2vec 2.0 (examples/wav2vec/config/finetuning): the convolutions stay as they are, the rest of the encoder waits until
the head has learned something, spans of frames and channels are hidden. What is pruned, and when, is in `parp/`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError
from ..files import atomic_write, write_text
from ..model.checkpoint import read_masks, save
from ..model.convert import load_teacher
from ..model.encoder import Dropout, Encoder
from ..model.hub import require_local
from ..model.memory import require_memory
from ..model.size import count_parameters
from ..parp.alphabet import KINDS, Alphabet
from ..parp.decoding import DecodingSettings
from ..parp.masks import Masks, prunable_weights, sparsity_of
from ..parp.rounds import ParpSettings, Pruner, Round, rounds_of
from ..parsing import require, require_one_of
from .corpus import HEADERS_FILE
from .data import Batch, Batches
from .fingerprints import OF_TEACHER, encoder_fingerprint, lines_fingerprint, tensors_fingerprint
from .loop import ParameterGroup, Trainer, decayed
from .masking import check_spans, masked_spans
from .processes import Processes, start_processes
from .provenance import RECIPE_FILE, REPORT_FILE, provenance
from .recipe import REQUIRED, Data, DropoutRates, Kind, Optimisation, Run, key, save_recipe
from .recognition import HEAD_FILE, MODEL_FILE, Recogniser, check_recognition, decode_run
from .reports import TrainingReport, training_facts
from .schedules import delayed, tri_stage
from .transcripts import Transcribed, find_transcribed, trainable

log = logging.getLogger(__name__)


@dataclass
class LabelledData(Data):
    """Recordings with transcripts; see `training.transcripts` for where those are looked for."""

    labels: str = "letters"  # of English; or the characters of the training transcripts, or phones
    test: list[str] = key(Kind.EVALUATION, list)  # folders and manifests, each decoded and reported by itself
    max_seconds: float = 40.0  # longer recordings are left out, since a crop would not fit its transcript

    def check(self) -> None:
        """Raise ConfigError for unknown labels, or a test source without a name."""
        super().check()
        require(all(self.test), "data.test", self.test, "name folders or manifests; '' would be the folder one is in")
        require_one_of("data.labels", self.labels, KINDS)


@dataclass
class HiddenSpans:
    """What the transformer does not see while it learns."""

    frames: float = 0.65  # share of the frames, were spans not to overlap
    frame_span: int = 10  # frames that are hidden together
    channels: float = 0.25  # share of the channels, were spans not to overlap
    channel_span: int = 64  # channels that are hidden together

    def check(self) -> None:
        """Raise ConfigError for shares or widths of spans out of range."""
        for name in ("frames", "channels"):
            require(0 <= getattr(self, name) < 1, f"masking.{name}", getattr(self, name), "be from 0 to below 1")
            span = f"{name.removesuffix('s')}_span"
            require(getattr(self, span) >= 1, f"masking.{span}", getattr(self, span), "be at least 1")


@dataclass
class CtcOptimisation(Optimisation):
    """Tri-stage: the rate rises, holds and decays exponentially."""

    learning_rate: float = 5e-5
    warmup: float = 0.1  # share of the steps
    hold: float = 0.4  # share of the steps with the peak rate, behind the warm-up
    final: float = 0.05  # of the peak rate, at the end
    frozen: float = 0.0  # first share of the steps, in which the head alone learns
    weight_decay: float = 0.0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    clip_norm: float | None = None

    def check(self) -> None:
        """Raise ConfigError for a schedule whose phases do not fit."""
        super().check()
        held = self.warmup + self.hold
        require(self.hold >= 0 and held <= 1, "optimisation.hold", self.hold, "leave warmup + hold at most 1")
        require(0 < self.final <= 1, "optimisation.final", self.final, "be above 0 and at most 1")
        require(0 <= self.frozen < 1, "optimisation.frozen", self.frozen, "be a share from 0 to below 1")


@dataclass
class ParpRecipe:
    """Finetuning with CTC, in the course of which weights are pruned."""

    # the pre-trained encoder: a published checkpoint, or a model file of this package
    teacher: str = key(Kind.INPUT, REQUIRED)
    data: LabelledData = field(default_factory=LabelledData)
    parp: ParpSettings = field(default_factory=ParpSettings)
    masking: HiddenSpans = field(default_factory=HiddenSpans)
    dropout: DropoutRates = key(Kind.AMENDABLE, DropoutRates)
    optimisation: CtcOptimisation = key(Kind.AMENDABLE, CtcOptimisation)
    decoding: DecodingSettings = key(Kind.EVALUATION, DecodingSettings)
    run: Run = field(default_factory=Run)


class CtcObjective:
    """Mean CTC loss of the utterances of a batch, and the pruning that goes with each update.

    Args:
        recogniser: pruned in place; on the device of `processes`.
        labels: of each recording of the corpus.
        pruner: holds weights of the encoder, and has its first masks.
        recipe: of this round.
    """

    # of the step that is being done
    step: int
    utterances: Tensor  # of the whole batch
    frames: Tensor
    total: Tensor

    def __init__(
        self,
        recogniser: Recogniser,
        labels: Sequence[Sequence[int]],
        pruner: Pruner,
        recipe: ParpRecipe,
        processes: Processes = Processes(),
    ) -> None:
        self.recogniser = recogniser.train()
        self.encoder = recogniser.encoder
        self.encoder.feature_extractor.requires_grad_(False)
        self.labels = labels
        self.pruner = pruner
        self.recipe = recipe
        self.processes = processes
        self.done = 0

    def parameter_groups(self) -> list[ParameterGroup]:
        """The encoder's, which wait until the head has warmed up, and the head's."""
        options = self.recipe.optimisation
        learned = tri_stage(options.steps, options.warmup, options.hold, options.final)
        after_head = delayed(learned, self.pruner.frozen)
        parameters = [p for p in self.encoder.parameters() if p.requires_grad] + [self.recogniser.mask_emb]
        weights, others = [p for p in parameters if decayed(p)], [p for p in parameters if not decayed(p)]
        rate = options.learning_rate
        return [
            ParameterGroup("weights", weights, rate, after_head, options.weight_decay),
            ParameterGroup("biases", others, rate, after_head),
            ParameterGroup("head", list(self.recogniser.head.parameters()), rate, learned),
        ]

    def begin_step(self, step: int, parts: Sequence[Batch]) -> None:
        """Count recordings and frames of the step in all processes."""
        self.step = step
        filled = [part for part in parts if part.wavs]
        counts = [sum(len(part.wavs) for part in filled), sum(int(self._valid(part).sum()) for part in filled)]
        self.utterances, self.frames = (self.processes.sum_(self.processes.scalar(count)) for count in counts)
        self.total = self.processes.scalar(0.0)

    def loss(self, part: Batch) -> Tensor:
        """The part's CTC loss, over the step's recordings: a scalar."""
        torch.manual_seed(part.seed)
        valid = self._valid(part)
        scores = self._scores(part, valid)  # (B, T, classes)
        labels = [torch.tensor(self.labels[utterance]) for utterance in part.utterances]
        summed = F.ctc_loss(
            scores.transpose(0, 1),
            self.processes.to_device(torch.cat(labels)),
            # lists, of the CPU, where the kernels of every device want the lengths; torch's types know tensors alone
            valid.sum(1).tolist(),  # type: ignore[arg-type]
            [len(label) for label in labels],  # type: ignore[arg-type]
            reduction="sum",
            zero_infinity=True,
        )
        loss = summed / self.utterances
        self.total += loss.detach()
        return loss

    def end_step(self) -> None:
        """Add the loss up, and let the pruner see the gradients."""
        self.processes.sum_(self.total)
        self.pruner.after_backward()

    def after_step(self) -> None:
        """Let the pruner set its zeros and, when it is time, its masks."""
        self.done = self.step + 1
        self.pruner.after_update(self.done)

    def metrics(self) -> dict[str, Tensor]:
        """Loss, sparsity and weights that came back to life."""
        scalars: dict[str, float | Tensor] = {
            "loss": self.total.clone(),
            "sparsity": self.pruner.sparsity(self.done),
            "revived": float(self.pruner.revived),
            "frames": self.frames,
        }
        return {name: self.processes.scalar(value) for name, value in scalars.items()}

    def shown(self) -> Sequence[str]:
        """Loss and sparsity."""
        return ("loss", "sparsity")

    def state_dict(self) -> dict[str, Any]:
        """The recogniser and the masks."""
        return {"recogniser": dict(self.recogniser.state_dict()), "pruner": self.pruner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.recogniser.load_state_dict(state["recogniser"])
        self.pruner.load_state_dict(state["pruner"])

    def _scores(self, part: Batch, valid: Tensor) -> Tensor:
        """Log probabilities (B, T, classes) of what the head reads in a part of which much is hidden."""
        waveforms, _ = self.encoder.prepare(part.wavs, pad_to=part.pad_to)
        require_memory(self.encoder.config, len(waveforms), waveforms.size(1), self.processes.device)
        with torch.no_grad():
            features = self.encoder.features(self.processes.to_device(waveforms))
        learns = torch.is_grad_enabled() and self.step >= self.pruner.frozen
        with torch.set_grad_enabled(learns):
            visible = self._hide(self.encoder.project(features), valid)
            hidden = self.encoder.contextualize(visible, self.processes.to_device(~valid))[-1]
        return self.recogniser.read(hidden)

    def _hide(self, projected: Tensor, valid: Tensor) -> Tensor:  # (B, T, d) -> (B, T, d)
        """Spans of frames become one learned vector, spans of channels become zero."""
        options = self.recipe.masking
        frames = masked_spans(valid, options.frames / options.frame_span, options.frame_span)
        everywhere = torch.ones(projected.size(0), projected.size(2), dtype=torch.bool)
        channels = masked_spans(everywhere, options.channels / options.channel_span, options.channel_span)
        frames, channels = self.processes.to_device(frames), self.processes.to_device(channels)
        shown = torch.where(frames.unsqueeze(-1), self.recogniser.mask_emb.to(projected.dtype), projected)
        return shown.masked_fill(channels.unsqueeze(1), 0.0)

    def _valid(self, part: Batch) -> Tensor:
        """(B, T), True at frames that are not padding."""
        return ~self.encoder.padding_mask(torch.tensor([len(wav) for wav in part.wavs]), part.pad_to)


@dataclass(frozen=True, kw_only=True)
class ParpReport(TrainingReport):
    """What came out.

    sparsity: share of the weights of the pruned matrices that are zero, counted; `pruned` of `prunable` weights.
    matrices: the same for each matrix.
    file_bytes, dense_bytes: the model file, and all parameters in single precision.
    tests: what `recognition.decode_run` found with the recipe's own settings; empty until then.
    """

    method: str
    sparsity: float
    pruned: int
    prunable: int
    matrices: dict[str, float]
    parameters: int
    file_bytes: int
    dense_bytes: int
    labels: list[str]
    tests: dict[str, dict[str, float]] = field(default_factory=dict)


def run_parp(recipe: ParpRecipe, *, amend: bool = False) -> Path:
    """Finetune and prune as the recipe says, going on where an earlier launch stopped; then decode the test sources.

    What decoding needs is looked at before training starts, and the model is written before it is decoded.

    Args:
        amend: go on although amendable keys (`recipe.Kind`) differ from those that the run was begun with.

    Returns:
        The model file: the finetuned encoder, of its pruned matrices the surviving weights alone. Beside it lie the
        head, a report, what was recognised, the resolved recipe, metrics and the training state; methods of several
        rounds have a folder for each.

    Raises:
        PrunedUpstreamError: of the kinds in `errors.py`.
        KeyboardInterrupt: Ctrl-C; the state is saved.
    """
    folder = Path(recipe.run.folder)
    with start_processes(recipe.run.device) as processes, processes.alone_in(folder):
        encoder = load_teacher(recipe.teacher, dropout=Dropout(**asdict(recipe.dropout))).to(processes.device)
        data, config = recipe.data, encoder.config
        if config.whole_windows:
            raise ConfigError(
                f"{recipe.teacher} hears windows filled up with silence, where no frame can be hidden; make a teacher "
                "that hears recordings at their own length: `pruned-upstream convert --own-length`"
            )
        with processes.main_first():
            cache = folder / HEADERS_FILE
            found = find_transcribed(data.train, data.labels, min_samples=config.receptive_field, cache=cache)
        alphabet = Alphabet.of(data.labels, found.texts)
        speech = trainable(found, alphabet, config, max_seconds=data.max_seconds)
        if recipe.masking.frames:
            frames = [config.frames(utterance.samples) for utterance in speech.corpus.utterances]
            check_spans(frames, recipe.masking.frame_span, "masking.frame_span")
        with processes.main_first():
            if processes.is_main:
                check_recognition(recipe, alphabet, config, folder)
        objective, trainers = _train(recipe, encoder, speech, alphabet, processes, amend)
        if processes.is_main:
            save_recipe(recipe, folder / RECIPE_FILE)
            facts = training_facts(speech.corpus, trainers, steps=recipe.optimisation.steps)
            _export(objective, alphabet, recipe, facts, folder)
    if processes.is_main:  # the others are gone: nobody waits while one decodes
        with processes.alone_in(folder):
            decode_run(folder, recipe, processes.device)
    return folder / MODEL_FILE


def _train(
    recipe: ParpRecipe,
    encoder: Encoder,
    speech: Transcribed,
    alphabet: Alphabet,
    processes: Processes,
    amend: bool,
) -> tuple[CtcObjective, list[Trainer]]:
    """All rounds of the method; the objective of the last."""
    pretrained = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    labels = [alphabet.encode(text) for text in speech.texts]
    recogniser = Recogniser(encoder, alphabet.classes).to(processes.device)
    recogniser.reset_head(recipe.run.seed)
    inputs = {OF_TEACHER: encoder_fingerprint(encoder), "transcripts": lines_fingerprint(speech.texts)}
    plan = rounds_of(recipe.parp)
    trainers: list[Trainer] = []
    for number, round_ in enumerate(plan):
        own = _recipe_of_round(recipe, number, plan)
        pruner = _pruner(own, round_, encoder)
        masks = _first_masks(own, pruner)
        if recipe.parp.mask is not None:
            inputs["first masks"] = tensors_fingerprint(masks)
        if round_.fresh:
            encoder.load_state_dict(pretrained)
            recogniser.reset_head(recipe.run.seed)
        pruner.start(masks)
        if number:
            inputs[f"weights of round {number}"] = encoder_fingerprint(encoder)
            inputs[f"masks of round {number}"] = tensors_fingerprint(masks)
        objective = CtcObjective(recogniser, labels, pruner, own, processes)
        batches = Batches(speech.corpus, own.data, seed=own.run.seed, accumulation=own.optimisation.accumulation)
        trainers.append(Trainer(objective, batches, own, processes, inputs=inputs, amend=amend))
        trainers[-1].fit()
    return objective, trainers


def _recipe_of_round(recipe: ParpRecipe, number: int, plan: Sequence[Round]) -> ParpRecipe:
    """Stages share the steps equally, the last takes the rest; only where a head is new it gets a start of its own."""
    if len(plan) == 1:
        return recipe
    options = recipe.optimisation
    require(options.steps >= len(plan), "optimisation.steps", options.steps, f"be at least {len(plan)}, one per round")
    share = options.steps // len(plan)
    steps = share if number < len(plan) - 1 else options.steps - share * number
    frozen = options.frozen if number == 0 or plan[number].fresh else 0.0
    return replace(
        recipe,
        optimisation=replace(options, steps=steps, frozen=frozen),
        run=replace(recipe.run, folder=str(Path(recipe.run.folder) / f"round{number + 1}")),
    )


def _pruner(recipe: ParpRecipe, round_: Round, encoder: Encoder) -> Pruner:
    options, settings = recipe.optimisation, recipe.parp
    return Pruner(
        prunable_weights(encoder, settings.modules),
        round_,
        steps=options.steps,
        every=settings.every,
        frozen=round(options.frozen * options.steps),
        rise=settings.rise,
        scope=settings.scope,
    )


def _first_masks(recipe: ParpRecipe, pruner: Pruner) -> Masks:
    if recipe.parp.mask is not None:
        return pruner.check(read_masks(require_local(recipe.parp.mask)), recipe.parp.mask)
    return pruner.first_masks(seed=recipe.run.seed)


def _export(
    objective: CtcObjective, alphabet: Alphabet, recipe: ParpRecipe, facts: Mapping[str, Any], folder: Path
) -> None:
    """Write the head, the model and the report, to which decoding adds."""
    from safetensors.torch import save_file

    recogniser, masks = objective.recogniser.eval(), objective.pruner.masks
    encoder = recogniser.encoder
    with atomic_write(folder / HEAD_FILE) as temporary:
        symbols = json.dumps({"kind": alphabet.kind, "symbols": alphabet.symbols}, ensure_ascii=False)
        tensors = {name: tensor.detach().cpu() for name, tensor in recogniser.head.state_dict().items()}
        save_file(tensors, temporary, metadata={"alphabet": symbols})
    notes = provenance(recipe, facts["amendments"], teacher=recipe.teacher, method=recipe.parp.method)
    pruned = any(not mask.all() for mask in masks.values())
    weights = objective.pruner.weights
    gone = {name: int((weight == 0).sum()) for name, weight in weights.items()}
    parameters = count_parameters(encoder.config)
    save(folder / MODEL_FILE, encoder, provenance=notes, masks=masks if pruned else None)
    report = ParpReport(
        **facts,
        method=recipe.parp.method,
        sparsity=sparsity_of(masks),
        pruned=sum(int((~mask).sum()) for mask in masks.values()),
        prunable=sum(weight.numel() for weight in weights.values()),
        matrices={name: gone[name] / weight.numel() for name, weight in weights.items()},
        parameters=parameters,
        file_bytes=(folder / MODEL_FILE).stat().st_size,
        dense_bytes=4 * parameters,
        labels=list(alphabet.symbols),
    )
    write_text(folder / REPORT_FILE, json.dumps(asdict(report), indent=1, ensure_ascii=False))
