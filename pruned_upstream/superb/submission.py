"""predict.zip for superbbenchmark.org: the predictions of a run folder in the leaderboard's layout, checked first.

Layout and file names are those of s3prl's submit/submit.py (commit 3fabd0e). Each file must hold one prediction for
every item of the test set, no name twice: a keyword file whose names were not unique, and came in another order than
the scorer's, was once scored 83 instead of 97 (s3prl issue 220). A file that fails is left out, with the reason.
The zip is deterministic: the same predictions give the same bytes.
"""

from __future__ import annotations

import csv
import math
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import yaml

from ..description.macs import BUCKETS
from ..errors import DataError
from ..files import atomic_files, atomic_write, write_text
from ..s3prl_plugin.parts import iemocap, libri2mix, librispeech
from . import official
from .layout import KEYWORD_CLASSES, LIBRISPEECH_SPLITS, Data, kaldi_recordings
from .results import RunResults

ZIP_NAME = "predict.zip"
SHEET_NAME = "submission.yaml"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold

Names = list[str]


@dataclass(frozen=True)
class Part:
    """One file of the submission.

    Attributes:
        target: its path below predict/.
        task: the task, and `run`, which of the task's folders holds it.
        source: its name there.
        count: the part of `official.COUNTS` that it must have as many predictions as.
        valid: whether a prediction can be meant so.
        optional: it is no fault to lack it.
    """

    target: str
    task: str
    source: str
    count: str = "test"
    run: int = 0
    valid: Callable[[str], bool] = bool
    optional: bool = False


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _is_intent(text: str) -> bool:
    return text.count(",") == 2


PARTS = (
    # an empty transcript is a possible one
    Part("pr_public/predict.ark", "pr", "test-hyp.ark", valid=lambda text: True),
    Part("asr_public/predict.ark", "asr", "test-clean-noLM-hyp.ark", valid=lambda text: True),
    Part("asr_lm_public/predict.ark", "asr", "test-clean-LM-hyp.ark", run=1, valid=lambda text: True, optional=True),
    Part("ks_public/predict.txt", "ks", "test_predict.txt", valid=lambda text: text in KEYWORD_CLASSES),
    Part("qbe_public/benchmark.stdlist.xml", "qbe", "benchmark.stdlist.xml", count="eval queries"),
    Part("sid_public/predict.txt", "sid", "test_predict.txt", valid=lambda text: text.startswith("id1")),
    Part("sv_public/predict.txt", "sv", "test_predict.txt", count="trials", valid=_is_number),
    Part("sd_public/scoring/predictions", "sd", "scoring/predictions"),
    Part("ic_public/predict.csv", "ic", "test_predict.csv", valid=_is_intent),
    Part("sf_public/predict.ark", "sf", "test-hyp.ark", valid=lambda text: True),
    *(
        Part(f"er_fold{number}_public/predict.txt", "er", f"test_fold{number}_predict.txt", session, number - 1)
        for number, session in enumerate(official.FOLDS, start=1)
    ),
)


@dataclass
class Submission:
    """What was collected: zip entry -> content, and for what is not there the reason."""

    files: dict[str, bytes] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def gather_predictions(folder: str | Path, results: RunResults, *, data: Data | None = None) -> Submission:
    """Read and check every prediction file of a run.

    Args:
        folder: the run folder.
        data: the corpora; with them every name is compared with the test set's own list, without them the number of
            predictions with the official one.
    """
    submission = Submission()
    for part in PARTS:
        task = results.tasks.get(part.task)
        if task is None:
            submission.missing[part.target] = "the task was not run, or failed"
        elif part.run >= len(task.folders):
            if not part.optional:
                submission.missing[part.target] = "the results name no folder with its predictions"
        else:
            source = Path(folder) / task.folders[part.run] / part.source
            if source.exists():
                _add(submission, part, source, data)
            elif not part.optional:
                submission.missing[part.target] = f"{source} is missing"
    _drop_incomplete_folds(submission)
    submission.remarks += [
        f"{name}: not official: {'; '.join(task.notes)}" for name, task in results.tasks.items() if not task.official
    ]
    return submission


def write_submission(
    folder: str | Path,
    submission: Submission,
    results: RunResults,
    *,
    name: str,
    method: str = "",
    description: str = "",
    url: str = "",
) -> tuple[Path, Path]:
    """Write predict.zip and the sheet with what the leaderboard's form asks for.

    Returns:
        The two paths.

    Raises:
        DataError: nothing was collected.
        PrunedUpstreamError: the folder cannot be written.
    """
    if not submission.files:
        reasons = "; ".join(f"{target}: {why}" for target, why in submission.missing.items())
        raise DataError(f"nothing can be submitted: {reasons}")
    sheet = {
        "name": name,
        "method": method,
        "description": description,
        "url": url,
        "parameters": results.parameters,
        "nonzero_parameters": results.nonzero_parameters,
        "macs": _by_bucket(results.macs),
        "macs_by_official_profiler": _by_bucket(results.profiler_macs),
        "included": sorted({target.partition("/")[0] for target in submission.files}),
        "missing": submission.missing,
        "remarks": submission.remarks,
    }
    with atomic_files(folder) as unfinished:
        _write_zip(unfinished / ZIP_NAME, submission)
        text = yaml.safe_dump(sheet, sort_keys=False, allow_unicode=True, width=120)
        write_text(unfinished / SHEET_NAME, text)
    return Path(folder) / ZIP_NAME, Path(folder) / SHEET_NAME


def _write_zip(path: Path, submission: Submission) -> None:
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for target in sorted(submission.files):
            entry = zipfile.ZipInfo(f"predict/{target}", date_time=EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            entry.create_system = 3  # Unix, on whatever system this runs
            archive.writestr(entry, submission.files[target])


def _by_bucket(macs: tuple[int, ...] | None) -> dict[str, int] | None:
    return None if macs is None else {"total": sum(macs)} | dict(zip(BUCKETS, macs, strict=True))


def _add(submission: Submission, part: Part, source: Path, data: Data | None) -> None:
    try:
        if part.task == "sd":
            names, files = _diarization(source, part.target)
        elif part.task == "qbe":
            names, files = _queries(source), {part.target: source.read_bytes()}
        else:
            lines = _lines(source)
            names = _checked_names(lines, part, source)
            # s3prl takes keywords in the order in which the file system lists them
            ordered = sorted(lines) if part.task == "ks" else lines
            files = {part.target: "".join(f"{line}\n" for line in ordered).encode()}
        _check_names(names, part, data)
    # XML that names an encoding nobody knows is a LookupError, one that expat cannot take a ValueError
    except (DataError, OSError, ValueError, LookupError, ElementTree.ParseError) as error:
        submission.missing[part.target] = f"{source} cannot be submitted: {error}"
    else:
        submission.files |= files


def _lines(source: Path) -> Names:
    text = source.read_text(encoding="utf-8")
    if not text.endswith("\n"):
        raise DataError("its last line is cut off")
    return text.splitlines()


def _checked_names(lines: Sequence[str], part: Part, source: Path) -> Names:
    names = []
    for number, line in enumerate(lines, start=1):
        name, _, prediction = line.partition("," if source.suffix == ".csv" else " ")
        if not name or not part.valid(prediction):
            raise DataError(f"line {number}, '{line}', is no prediction of this task")
        names.append(name)
    return names


def _diarization(source: Path, target: str) -> tuple[Names, dict[str, bytes]]:
    """Predictions of each recording, and the frame shift, without which the scorer assumes 160 samples."""
    shift = source.parents[1] / "frame_shift"
    if not shift.is_file():
        raise DataError(f"{shift} is missing, and the scorer needs it")
    predictions = sorted(source.glob("*.h5"))
    for path in predictions:
        if not path.read_bytes().startswith(b"\x89HDF\r\n\x1a\n"):
            raise DataError(f"{path.name} is not an HDF5 file")
    files = {f"{target}/{path.name}": path.read_bytes() for path in predictions}
    files[f"{target.partition('/')[0]}/frame_shift"] = shift.read_bytes()
    return [path.stem for path in predictions], files


def _queries(source: Path) -> Names:
    """Names of the queries; each must have a score for the same recordings."""
    terms = ElementTree.parse(source).getroot().findall("detected_termlist")
    recordings = [sorted(term.get("file", "") for term in query) for query in terms]
    for query, of_query in zip(terms, recordings, strict=True):
        if of_query != recordings[0] or not of_query:
            raise DataError(f"the query {query.get('termid')} is not scored against the same recordings as the others")
    return [query.get("termid", "") for query in terms]


def _check_names(names: Sequence[str], part: Part, data: Data | None) -> None:
    twice = [name for name, times in Counter(names).items() if times > 1]
    # an official trial list may ask for one pair twice
    if twice and part.task != "sv":
        raise DataError(f"{len(twice)} names come twice, e.g. {twice[0]}")
    expected = None if data is None else _TEST_NAMES[part.task](data, part)
    if expected is None:
        wanted = official.COUNTS[part.task][part.count]
        if len(names) not in wanted:
            raise DataError(f"it has {len(names)} predictions, the test set {' or '.join(map(str, wanted))} items")
        return
    absent, strangers = Counter(expected) - Counter(names), Counter(names) - Counter(expected)
    if absent or strangers:
        example = next(iter(absent or strangers))
        raise DataError(
            f"of the test set's {len(expected)} items {absent.total()} are absent, and {strangers.total()} are none of "
            f"its items, e.g. {example}"
        )
    if part.task in ("sv", "ic") and list(names) != expected:
        raise DataError("its lines are not in the order of the test set's list")


def _drop_incomplete_folds(submission: Submission) -> None:
    """The leaderboard scores ER only with all five folds."""
    folds = [part.target for part in PARTS if part.task == "er"]
    there = [target for target in folds if target in submission.files]
    if 0 < len(there) < len(folds):
        for target in there:
            del submission.files[target]
            submission.missing[target] = "left out: ER is scored only when all five folds are there"


# What s3prl names the items of each test set (downstream/*/dataset.py), in the order in which it reads them; None
# where neither corpus nor clone has the list.


def _librispeech_names(data: Data, part: Part) -> Names:
    found = librispeech.find_utterances(data.corpus("LibriSpeech"), [LIBRISPEECH_SPLITS["test"]])
    return [utterance.path.stem for utterance in found]


def _keyword_names(data: Data, part: Part) -> Names:
    root = data.corpus("speech_commands_test_set_v0.01")
    return [f"{name}-{wav.name}" for name in KEYWORD_CLASSES for wav in sorted((root / name).glob("*.wav"))]


def _query_names(data: Data, part: Part) -> Names:
    listing = data.corpus("quesst14Database") / "scoring/language_key_eval.lst"
    return [Path(path).stem for path, language in _fields(listing) if language == "nnenglish"]


def _speaker_names(data: Data, part: Part) -> Names | None:
    listing = data.split_list()
    return None if listing is None else [_voxceleb_name(path) for which, path in _fields(listing) if which == "3"]


def _trial_names(data: Data, part: Part) -> Names | None:
    listing = data.trial_list()
    if listing is None:
        return None
    return [f"{_voxceleb_name(one)}_{_voxceleb_name(other)}" for _, one, other in _fields(listing)]


def _diarization_names(data: Data, part: Part) -> Names:
    if data.corpus("diarization").is_dir():
        return sorted(kaldi_recordings(data.corpus("diarization") / "test"))
    return [row["mixture_ID"] for row in _rows(libri2mix.mixtures(data.corpus("Libri2Mix"), "test"))]


def _command_names(data: Data, part: Part) -> Names:
    table = data.corpus("fluent_speech_commands_dataset") / "data/test_data.csv"
    return [Path(row["path"]).stem for row in _rows(table)]


def _slot_names(data: Data, part: Part) -> Names:
    return [wav.stem for wav in sorted((data.corpus("SNIPS") / "test").rglob("*.wav"))]


def _emotion_names(data: Data, part: Part) -> Names | None:
    folds = data.emotion_folds()
    if folds is None:
        return None
    fold = iemocap.read_fold(folds / part.count / "test_meta_data.json")
    return [Path(path).stem for path in fold.recordings]


def _voxceleb_name(path: str) -> str:
    return "-".join(Path(path).with_suffix("").parts[-3:])


def _fields(listing: Path) -> list[Names]:
    return [line.split() for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]


def _rows(table: Path) -> list[dict[str, str]]:
    with open(table, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


_TEST_NAMES: Mapping[str, Callable[[Data, Part], Names | None]] = {
    "pr": _librispeech_names,
    "asr": _librispeech_names,
    "ks": _keyword_names,
    "qbe": _query_names,
    "sid": _speaker_names,
    "sv": _trial_names,
    "sd": _diarization_names,
    "ic": _command_names,
    "sf": _slot_names,
    "er": _emotion_names,
}
