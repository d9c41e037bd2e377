"""Speech recognition by CTC inside which an encoder is pruned weight by weight: PARP and its baselines.

A linear head on the encoder's last hidden state writes letters or phones. The recipe is fairseq's finetuning of
wav2vec 2.0 (examples/wav2vec/config/finetuning): the convolutions stay as they are, the rest of the encoder waits until
the head has learned something, spans of frames and channels are hidden. What is pruned, and when, is in `parp/`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..files import atomic_write, write_text
from ..model.checkpoint import read_masks, save
from ..model.convert import load_teacher
from ..model.encoder import Dropout, Encoder
from ..model.hub import require_local
from ..model.size import count_parameters
from ..parp.alphabet import KINDS, Alphabet
from ..parp.decoding import Decoder, DecodingSettings, error_rates, make_decoder
from ..parp.masks import Masks, prunable_weights, sparsity_of
from ..parp.rounds import ParpSettings, Pruner, Round, rounds_of
from .corpus import HEADERS_FILE
from .data import Batch, Batches
from .loop import ParameterGroup, Trainer, decayed
from .masking import masked_spans
from .processes import Processes, start_processes
from .provenance import RECIPE_FILE, REPORT_FILE, provenance
from .recipe import REQUIRED, Data, DropoutRates, Optimisation, Run, require, save_recipe
from .schedules import delayed, tri_stage
from .transcripts import Transcribed, find_transcribed, trainable

log = logging.getLogger(__name__)

MODEL_FILE = "parp.safetensors"
HEAD_FILE = "head.safetensors"
HYPOTHESES_FOLDER = "hypotheses"


@dataclass
class LabelledData(Data):
    """Recordings with transcripts; see `training.transcripts` for where those are looked for."""

    labels: str = "letters"  # of English; or the characters of the training transcripts, or phones
    test: list[str] = field(default_factory=list)  # folders and manifests, each decoded and reported by itself
    max_seconds: float = 40.0  # longer recordings are left out, since a crop would not fit its transcript

    def check(self) -> None:
        super().check()
        require(self.labels in KINDS, "data.labels", self.labels, f"be one of {', '.join(KINDS)}")


@dataclass
class HiddenSpans:
    """What the transformer does not see while it learns."""

    frames: float = 0.65  # share of the frames, were spans not to overlap
    frame_span: int = 10
    channels: float = 0.25
    channel_span: int = 64

    def check(self) -> None:
        for name in ("frames", "channels"):
            require(0 <= getattr(self, name) < 1, f"masking.{name}", getattr(self, name), "be from 0 to below 1")
            span = f"{name.removesuffix('s')}_span"
            require(getattr(self, span) >= 1, f"masking.{span}", getattr(self, span), "be at least 1")


@dataclass
class CtcOptimisation(Optimisation):
    """Tri-stage: the rate rises, holds and decays exponentially."""

    learning_rate: float = 5e-5
    warmup: float = 0.1  # share of the steps
    hold: float = 0.4
    final: float = 0.05  # of the peak rate, at the end
    frozen: float = 0.0  # first share of the steps, in which the head alone learns
    weight_decay: float = 0.0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    clip_norm: float | None = None

    def check(self) -> None:
        super().check()
        held = self.warmup + self.hold
        require(self.hold >= 0 and held <= 1, "optimisation.hold", self.hold, "leave warmup + hold at most 1")
        require(0 < self.final <= 1, "optimisation.final", self.final, "be above 0 and at most 1")
        require(0 <= self.frozen < 1, "optimisation.frozen", self.frozen, "be a share from 0 to below 1")


@dataclass
class ParpRecipe:
    """Finetuning with CTC, in the course of which weights are pruned."""

    teacher: str = REQUIRED  # the pre-trained encoder: a published checkpoint, or a model file of this package
    data: LabelledData = field(default_factory=LabelledData)
    parp: ParpSettings = field(default_factory=ParpSettings)
    masking: HiddenSpans = field(default_factory=HiddenSpans)
    dropout: DropoutRates = field(default_factory=DropoutRates)
    optimisation: CtcOptimisation = field(default_factory=CtcOptimisation)
    decoding: DecodingSettings = field(default_factory=DecodingSettings)
    run: Run = field(default_factory=Run)


class Recogniser(nn.Module):
    """An encoder, a linear head that reads its last hidden state, and the vector that stands for hidden frames.

    Args:
        classes: outputs of the head, CTC's blank included.
    """

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.embed_dim, classes)
        self.mask_emb = nn.Parameter(torch.empty(encoder.config.embed_dim))

    @torch.no_grad()
    def reset_head(self, seed: int) -> None:
        """Random values as fairseq's, drawn on the CPU: the same on every device."""
        generator = torch.Generator().manual_seed(seed)
        weight = nn.init.xavier_uniform_(torch.empty(self.head.weight.shape), generator=generator)
        self.head.weight.copy_(weight)
        self.head.bias.zero_()
        self.mask_emb.copy_(torch.rand(self.mask_emb.shape, generator=generator))

    def read(self, hidden: Tensor) -> Tensor:
        """Log probabilities of the classes: (..., d) -> (..., classes)."""
        return self.head(hidden).float().log_softmax(-1)


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
        self.step = step
        filled = [part for part in parts if part.wavs]
        counts = [sum(len(part.wavs) for part in filled), sum(int(self._valid(part).sum()) for part in filled)]
        self.utterances, self.frames = (self.processes.sum_(self.processes.scalar(count)) for count in counts)
        self.total = self.processes.scalar(0.0)

    def loss(self, part: Batch) -> Tensor:
        torch.manual_seed(part.seed)
        valid = self._valid(part)
        scores = self._scores(part, valid)  # (B, T, classes)
        labels = [torch.tensor(self.labels[utterance]) for utterance in part.utterances]
        summed = F.ctc_loss(
            scores.transpose(0, 1),
            self.processes.to_device(torch.cat(labels)),
            valid.sum(1).tolist(),  # of the CPU, where the kernels of every device want the lengths
            [len(label) for label in labels],
            reduction="sum",
            zero_infinity=True,
        )
        loss = summed / self.utterances
        self.total += loss.detach()
        return loss

    def end_step(self) -> None:
        self.processes.sum_(self.total)
        self.pruner.after_backward()

    def after_step(self) -> None:
        self.done = self.step + 1
        self.pruner.after_update(self.done)

    def metrics(self) -> dict[str, Tensor]:
        scalars = {
            "loss": self.total.clone(),
            "sparsity": self.pruner.sparsity(self.done),
            "revived": float(self.pruner.revived),
            "frames": self.frames,
        }
        return {name: self.processes.scalar(value) for name, value in scalars.items()}

    def shown(self) -> Sequence[str]:
        return ("loss", "sparsity")

    def state_dict(self) -> dict[str, Any]:
        return {"recogniser": dict(self.recogniser.state_dict()), "pruner": self.pruner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.recogniser.load_state_dict(state["recogniser"])
        self.pruner.load_state_dict(state["pruner"])

    def _scores(self, part: Batch, valid: Tensor) -> Tensor:
        """Log probabilities (B, T, classes) of what the head reads in a part of which much is hidden."""
        waveforms, _ = self.encoder.prepare(part.wavs, pad_to=part.pad_to)
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


@dataclass(frozen=True)
class ParpReport:
    """What came out.

    sparsity: share of the weights of the pruned matrices that are zero, counted; `pruned` of `prunable` weights.
    matrices: the same for each matrix.
    file_bytes, dense_bytes: the model file, and all parameters in single precision.
    tests: for each test source its error rates, as shares, and how many recordings were decoded.
    """

    method: str
    sparsity: float
    pruned: int
    prunable: int
    matrices: dict[str, float]
    parameters: int
    file_bytes: int
    dense_bytes: int
    steps: int
    recordings: int
    hours: float
    skipped: dict[str, str]
    labels: list[str]
    tests: dict[str, dict[str, float]]


def run_parp(recipe: ParpRecipe) -> Path:
    """Finetune and prune as the recipe says, going on where an earlier launch stopped, and decode the test sources.

    Returns:
        The model file: the finetuned encoder, of its pruned matrices the surviving weights alone. Beside it lie the
        head, a report, what was recognised, the resolved recipe, metrics and the training state; methods of several
        rounds have a folder for each.

    Raises:
        PrunedUpstreamError: of the kinds in `errors.py`.
        KeyboardInterrupt: Ctrl-C; the state is saved.
    """
    with start_processes(recipe.run.device) as processes:
        folder = Path(recipe.run.folder)
        encoder = load_teacher(recipe.teacher, dropout=Dropout(**asdict(recipe.dropout))).to(processes.device)
        data, config = recipe.data, encoder.config
        with processes.main_first():
            cache = folder / HEADERS_FILE
            found = find_transcribed(data.train, data.labels, min_samples=config.receptive_field, cache=cache)
        alphabet = Alphabet.of(data.labels, found.texts)
        speech = trainable(found, alphabet, config, max_seconds=data.max_seconds)
        decoder = make_decoder(alphabet, recipe.decoding)  # before training, for what it may lack
        objective = _train(recipe, encoder, speech, alphabet, processes)
        if processes.is_main:
            save_recipe(recipe, folder / RECIPE_FILE)
            _export(objective, speech, alphabet, decoder, recipe, folder)
        processes.wait()
    return folder / MODEL_FILE


def _train(
    recipe: ParpRecipe, encoder: Encoder, speech: Transcribed, alphabet: Alphabet, processes: Processes
) -> CtcObjective:
    """All rounds of the method; the objective of the last."""
    pretrained = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    labels = [alphabet.encode(text) for text in speech.texts]
    recogniser = Recogniser(encoder, alphabet.classes).to(processes.device)
    recogniser.reset_head(recipe.run.seed)
    plan = rounds_of(recipe.parp)
    for number, round_ in enumerate(plan):
        own = _recipe_of_round(recipe, number, plan)
        pruner = _pruner(own, round_, encoder)
        masks = _first_masks(own, pruner)
        if round_.fresh:
            encoder.load_state_dict(pretrained)
            recogniser.reset_head(recipe.run.seed)
        pruner.start(masks)
        objective = CtcObjective(recogniser, labels, pruner, own, processes)
        batches = Batches(speech.corpus, own.data, seed=own.run.seed, accumulation=own.optimisation.accumulation)
        Trainer(objective, batches, own, processes).fit()
    return objective


def _recipe_of_round(recipe: ParpRecipe, number: int, plan: Sequence[Round]) -> ParpRecipe:
    """Stages share the steps equally, the last takes the rest; only where a head is new it gets a start of its own."""
    if len(plan) == 1:
        return recipe
    options = recipe.optimisation
    require(options.steps >= len(plan), "optimisation.steps", options.steps, f"be at least {len(plan)}, one a round")
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
    objective: CtcObjective,
    speech: Transcribed,
    alphabet: Alphabet,
    decoder: Decoder,
    recipe: ParpRecipe,
    folder: Path,
) -> None:
    """Decode the test sources, and write the head, the report and the model."""
    from safetensors.torch import save_file

    recogniser, masks = objective.recogniser.eval(), objective.pruner.masks
    encoder = recogniser.encoder
    tests = {source: _test(source, recogniser, alphabet, decoder, recipe, folder) for source in recipe.data.test}
    with atomic_write(folder / HEAD_FILE) as temporary:
        symbols = json.dumps({"kind": alphabet.kind, "symbols": alphabet.symbols}, ensure_ascii=False)
        tensors = {name: tensor.detach().cpu() for name, tensor in recogniser.head.state_dict().items()}
        save_file(tensors, temporary, metadata={"alphabet": symbols})
    notes = provenance(recipe, teacher=recipe.teacher, method=recipe.parp.method)
    pruned = any(not mask.all() for mask in masks.values())
    weights = objective.pruner.weights
    gone = {name: int((weight == 0).sum()) for name, weight in weights.items()}
    parameters = count_parameters(encoder.config)
    with atomic_write(folder / MODEL_FILE) as model:  # takes its name last: a run with a model is finished
        save(model, encoder, provenance=notes, masks=masks if pruned else None)
        report = ParpReport(
            method=recipe.parp.method,
            sparsity=sparsity_of(masks),
            pruned=sum(int((~mask).sum()) for mask in masks.values()),
            prunable=sum(weight.numel() for weight in weights.values()),
            matrices={name: gone[name] / weight.numel() for name, weight in weights.items()},
            parameters=parameters,
            file_bytes=model.stat().st_size,
            dense_bytes=4 * parameters,
            steps=recipe.optimisation.steps,
            recordings=len(speech.texts),
            hours=speech.corpus.hours,
            skipped=speech.corpus.skipped,
            labels=list(alphabet.symbols),
            tests=tests,
        )
        write_text(folder / REPORT_FILE, json.dumps(asdict(report), indent=1, ensure_ascii=False))


@torch.no_grad()
def _test(
    source: str,
    recogniser: Recogniser,
    alphabet: Alphabet,
    decoder: Decoder,
    recipe: ParpRecipe,
    folder: Path,
) -> dict[str, float]:
    """Decode one test source, one recording at a time: what is recognised then depends on nothing else."""
    encoder, device = recogniser.encoder, recogniser.head.weight.device
    speech = find_transcribed([source], recipe.data.labels, min_samples=encoder.config.receptive_field)
    hypotheses = []
    for utterance in speech.corpus.utterances:
        waveform = utterance.read(0, utterance.samples).to(device)
        hidden = encoder.extract([waveform]).hidden_states[-1][0]  # (T, d)
        hypotheses.append(decoder(recogniser.read(hidden)))
    names = [utterance.name for utterance in speech.corpus.utterances]
    lines = [f"{name}\t{said}\t{heard}" for name, said, heard in zip(names, speech.texts, hypotheses, strict=True)]
    file = folder / HYPOTHESES_FOLDER / f"{'-'.join(Path(source).with_suffix('').parts[-2:])}.tsv"
    write_text(file, "\n".join(["recording\tsaid\trecognised", *lines]) + "\n")
    rates = error_rates(alphabet.kind, speech.texts, hypotheses)
    log.info("%s: %s", source, ", ".join(f"{name} {100 * rate:.2f} %" for name, rate in rates.items()))
    return rates | {"recordings": float(len(speech.texts))}
