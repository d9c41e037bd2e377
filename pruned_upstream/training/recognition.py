"""What a finetuned encoder recognises: decoding test sources, as a step of its own.

A run's model and head lie in its folder before anything is decoded, and may be decoded as often as one likes, with
another beam, language model or test set: `pruned-upstream decode RUN decoding.beam=100`.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, ConfigError, DataError
from ..files import atomic_files, write_text
from ..model.checkpoint import load
from ..model.config import EncoderConfig
from ..model.encoder import Encoder
from ..parp.alphabet import Alphabet
from ..parp.decoding import Decoder, error_rates, make_decoder
from ..parsing import parse_json
from .corpus import HEADERS_FILE, BadRecording, known_contents
from .provenance import REPORT_FILE, read_report
from .transcripts import Transcribed, find_transcribed

if TYPE_CHECKING:
    from .parp import ParpRecipe

log = logging.getLogger(__name__)

MODEL_FILE = "parp.safetensors"
HEAD_FILE = "head.safetensors"
HYPOTHESES_FOLDER = "hypotheses"
EVALUATIONS_FOLDER = "evaluations"  # a folder for each decoding with other settings than the run's own
EVALUATION_FILE = "evaluation.json"
LONGEST_NAME = 200  # bytes of the name of a file of results; systems allow 255
LEARNED_FROM = "learned_from"  # in a test's results, where it holds recordings of the training
COUNTS = ("recordings", "skipped", LEARNED_FROM)  # in a test's results, which are shares but for these


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


def check_recognition(recipe: ParpRecipe, alphabet: Alphabet, config: EncoderConfig, run: Path) -> None:
    """Find out before hours of training whether its result can be decoded.

    Args:
        run: folder that knows the recordings of the training.

    Raises:
        DataError: a test source or its transcripts are missing or malformed.
        ConfigError: what the decoder needs is missing or damaged, or two sources would share a file of results.
    """
    make_decoder(alphabet, recipe.decoding)
    files = [_hypotheses_file(source) for source in recipe.data.test]
    for source, file in zip(recipe.data.test, files, strict=True):
        if files.count(file) > 1:
            raise ConfigError(f"the results of {source} and another source of data.test would share the file {file}")
        speech = _speech(source, recipe, config)
        if count := _learned_from(speech, run):
            log.warning(
                "TRAINING ON WHAT IS TESTED ON: %d of the %d recordings of %s are among those of data.train. Error "
                "rates on it would not be valid", count, len(speech.texts), source,
            )  # fmt: skip


def decode_run(
    folder: Path, recipe: ParpRecipe, device: torch.device, *, name: str | None = None
) -> dict[str, dict[str, float]]:
    """Decode the test sources by the model in a run's folder.

    Args:
        recipe: of the run, but for what its section decoding and `data.test` say now.
        name: of this evaluation, whose results go into `evaluations/NAME`; None is the run's own, and goes into the
            report and `hypotheses`.

    Returns:
        For each source its error rates, as shares, and how many recordings were decoded and skipped.

    Raises:
        CheckpointError: the folder holds no trained model or head, or damaged ones.
        DataError, ConfigError: as `check_recognition`.
    """
    encoder, (head, alphabet) = load(folder / MODEL_FILE), read_head(folder / HEAD_FILE)
    if recipe.data.test:
        check_recognition(recipe, alphabet, encoder.config, folder)
    recogniser = Recogniser(encoder, alphabet.classes)
    recogniser.head.load_state_dict(head)
    recogniser.to(device).eval()
    decoder = make_decoder(alphabet, recipe.decoding)
    tests, skipped = {}, {}
    with atomic_files(folder) as unfinished:
        own = unfinished if name is None else unfinished / EVALUATIONS_FOLDER / name
        results = unfinished / HYPOTHESES_FOLDER if name is None else own
        for source in recipe.data.test:
            tests[source], skipped[source], speech = _test(source, recogniser, alphabet, decoder, recipe, results)
            if learned_from := _learned_from(speech, folder):
                tests[source][LEARNED_FROM] = float(learned_from)
        if name is None:
            report = read_report(folder)
            report |= {"tests": tests, "tests_skipped": skipped}
            write_text(own / REPORT_FILE, json.dumps(report, indent=1, ensure_ascii=False))
        else:
            found = {"decoding": asdict(recipe.decoding), "tests": tests, "tests_skipped": skipped}
            write_text(own / EVALUATION_FILE, json.dumps(found, indent=1, ensure_ascii=False))
    return tests


def read_head(path: Path) -> tuple[dict[str, Tensor], Alphabet]:
    """A run's head and what it writes.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            symbols = parse_json((file.metadata() or {})["alphabet"])
            alphabet = Alphabet(symbols["kind"], tuple(map(str, symbols["symbols"])))
            head = {name: file.get_tensor(name) for name in ("weight", "bias")}
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no {path}: {path.parent} holds no run of parp that has trained") from error
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); run the training's command again to write it") from error
    if (
        head["weight"].dim() != 2
        or len(head["weight"]) != alphabet.classes
        or head["bias"].shape != (alphabet.classes,)
    ):
        raise CheckpointError(f"{path} is damaged: its weights do not write its {alphabet.classes} classes")
    return head, alphabet


def evaluation_name(settings: Sequence[str]) -> str:
    """Of a folder, after what is decoded otherwise: "decoding.beam=100" is "beam-100"."""
    short = "_".join(
        setting.partition("=")[0].rpartition(".")[2] + "-" + setting.partition("=")[2] for setting in settings
    )
    return re.sub(r"[^A-Za-z0-9.+_-]+", "-", short).strip("-.")[:100]


def _speech(source: str, recipe: ParpRecipe, config: EncoderConfig) -> Transcribed:
    shortest = config.receptive_field
    return find_transcribed([source], recipe.data.labels, min_samples=shortest, for_training=False)


def _learned_from(speech: Transcribed, run: Path) -> int:
    """How many recordings are among those of a run's training, under whatever names: their bytes tell."""
    learned = known_contents(run / HEADERS_FILE)
    return sum(utterance.header.content in learned for utterance in speech.corpus.utterances)


def _hypotheses_file(source: str) -> str:
    path = Path(source)
    if path.name in ("", ".."):  # "." is a place, and no name
        path = path.resolve()
    name = "-".join(part for part in path.parts[-2:] if part != path.root).removesuffix(".tsv")
    return f"{name.encode()[-LONGEST_NAME:].decode(errors='ignore')}.tsv"


@torch.no_grad()
def _test(
    source: str, recogniser: Recogniser, alphabet: Alphabet, decoder: Decoder, recipe: ParpRecipe, results: Path
) -> tuple[dict[str, float], dict[str, str], Transcribed]:
    """Decode one test source, one recording at a time: what is recognised then depends on nothing else.

    Returns:
        Its results, the recordings that could not be decoded with the reason, and what was to be decoded.
    """
    from rich.progress import track

    encoder, device = recogniser.encoder, recogniser.head.weight.device
    speech = _speech(source, recipe, encoder.config)
    rows: list[tuple[str, str, str]] = []
    skipped = dict(speech.corpus.skipped)
    pairs: Any = list(zip(speech.corpus.utterances, speech.texts, strict=True))
    for utterance, said in track(pairs, f"decoding {Path(source).name}", transient=True):
        try:
            waveform = utterance.read(0, utterance.samples).to(device)
            hidden = encoder.extract([waveform]).hidden_states[-1][0]  # (T, d)
        except (BadRecording, DataError) as error:  # DataError: longer than memory has room for
            skipped[utterance.name] = str(error)
            log.warning("%s is not decoded: %s", utterance.name, error)
            continue
        rows.append((utterance.name, said, decoder(recogniser.read(hidden))))
    if not rows:
        raise DataError(f"no recording of {source} could be decoded; see the warnings above")
    lines = ["\t".join(row) for row in rows]
    write_text(results / _hypotheses_file(source), "\n".join(["recording\tsaid\trecognised", *lines]) + "\n")
    rates = error_rates(alphabet.kind, [said for _, said, _ in rows], [heard for *_, heard in rows])
    log.info("%s: %s", source, ", ".join(f"{name} {100 * rate:.2f} %" for name, rate in rates.items()))
    counts = {"recordings": float(len(rows)), "skipped": float(len(skipped))}
    return rates | counts, skipped, speech
