"""Speech for what needs no gradients: closed-form repair and scores of dimensions; and a repair of any model file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..files import atomic_write
from ..model.checkpoint import load, read_header, save
from ..model.config import SAMPLE_RATE
from ..model.convert import load_teacher
from ..model.encoder import Encoder
from ..parsing import require
from ..pruning.repair import DAMPING, Repaired, check_pair, repair
from .corpus import find_corpus
from .data import Batches, noise_seed, window_of
from .fingerprints import check_own_teacher
from .processes import start_processes
from .provenance import provenance
from .recipe import REQUIRED, Data, Kind, key

CALIBRATION = 4  # sets these batches apart from those of all stages


@dataclass
class Repair:
    """The closed-form repair of what is cut (`pruning/repair.py`)."""

    after_cut: bool = False  # of what the gates left, before the second stage if there is one
    after_second_stage: bool = False  # of what that stage left
    # of training speech that it is fitted to; scores of dimensions are taken on it, too
    seconds: float = key(Kind.TRAINING, 960.0)
    damping: float = DAMPING  # of the mean square of what a matrix reads

    def check(self) -> None:
        """Raise ConfigError unless seconds and damping are above 0."""
        require(self.seconds > 0, "repair.seconds", self.seconds, "be above 0")
        require(self.damping > 0, "repair.damping", self.damping, "be above 0")


def calibration(encoder: Encoder, batches: Batches, seconds: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Waveforms (B, S) and lengths (B,), on the encoder's device: batches of training speech of their own, until there
    are so many seconds or an epoch is through.

    Args:
        batches: of the run, whose recordings are drawn anew.
    """
    device = next(encoder.parameters()).device
    drawn = Batches(batches.corpus, batches.data, seed=noise_seed(batches.seed, CALIBRATION), window=batches.window)
    heard = step = 0
    while heard < seconds * SAMPLE_RATE and drawn.plan.locate(step)[0] == 0:
        for part in drawn[step]:
            if part.wavs:
                heard += sum(drawn.crop(0, utterance)[1] for utterance in part.utterances)  # without what fills up
                waveforms, lengths = encoder.prepare(part.wavs, pad_to=part.pad_to)
                yield waveforms.to(device), lengths.to(device)
        step += 1


def repaired(teacher: Encoder, student: Encoder, batches: Batches, options: Repair) -> Repaired:
    """The student with its output matrices refitted on `options.seconds` of the run's recordings."""
    return repair(teacher, student, calibration(teacher, batches, options.seconds), damping=options.damping)


def repair_facts(found: Repaired) -> dict[str, float]:
    """What a report tells of a repair."""
    return {"before": found.before, "after": found.after, "frames": found.frames}


@dataclass
class RepairRecipe:
    """A repair of a model file by its teacher, apart from any run."""

    teacher: str = REQUIRED  # published .pt, a transformers folder, or a model file of this package
    data: Data = field(default_factory=Data)
    repair: Repair = field(default_factory=Repair)
    seed: int = 0  # of the recordings that are drawn
    device: str = "auto"


def run_repair(model: Path, recipe: RepairRecipe, out: Path) -> dict[str, Any]:
    """Repair a model file and write the result to `out`.

    Returns:
        What `repair_facts` tells.

    Raises:
        PrunedUpstreamError: of the kinds in `errors.py`; nothing is written.
    """
    with start_processes(recipe.device, key="device") as processes:
        header, student, teacher = read_header(model), load(model), load_teacher(recipe.teacher)
        check_pair(teacher, student)
        check_own_teacher(header.provenance, teacher)
        corpus = find_corpus(recipe.data.train, min_samples=student.config.receptive_field)
        batches = Batches(corpus, recipe.data, seed=recipe.seed, window=window_of(teacher.config))
        with atomic_write(out) if processes.is_main else nullcontext() as temporary:  # it tells a wrong place at once
            found = repaired(teacher.to(processes.device), student.to(processes.device), batches, recipe.repair)
            if temporary is not None:
                # what is said of the model's making stays; of this repair there is as much as of any run
                made = {f"repair_{key}": value for key, value in provenance(recipe, teacher=recipe.teacher).items()}
                save(temporary, found.encoder.cpu(), provenance={**header.provenance, **made})
    return repair_facts(found)
