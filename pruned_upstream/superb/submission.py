"""predict.zip for superbbenchmark.org: the predictions of a run folder in the leaderboard's layout, checked first.

Layout and file names are those of s3prl's submit/submit.py (commit 3fabd0e). Each file must hold one prediction for
every item of the test set, no name twice: a keyword file whose names were not unique, and came in another order than
the scorer's, was once scored 83 instead of 97 (s3prl issue 220). With a file that fails nothing is written; a task that
was not run, or is to be left out, is named. The zip is deterministic: the same predictions give the same bytes.
"""

from __future__ import annotations

import csv
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ..description.macs import BUCKETS
from ..errors import DataError
from ..files import atomic_files, atomic_write, write_text
from ..parsing import MALFORMED, read_lines
from ..s3prl_plugin.parts import iemocap, libri2mix, librispeech, snips
from . import kaldi, official
from .diarization import FRAME_SHIFT, read_activity, read_frame_shift
from .layout import KEYWORD_CLASSES, LIBRISPEECH_SPLITS, Data
from .prediction_files import (
    IsValid,
    any_text,
    is_emotion,
    is_intent,
    is_keyword,
    is_score,
    is_speaker,
    read_bytes,
    read_predictions,
    read_searches,
)
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
        is_valid: whether a prediction can be meant so.
        optional: it is no fault to lack it.
    """

    target: str
    task: str
    source: str
    count: str = "test"
    run: int = 0
    is_valid: IsValid = any_text
    optional: bool = False


PARTS = (
    Part("pr_public/predict.ark", "pr", "test-hyp.ark"),
    Part("asr_public/predict.ark", "asr", "test-clean-noLM-hyp.ark"),
    Part("asr_lm_public/predict.ark", "asr", "test-clean-LM-hyp.ark", run=1, optional=True),
    Part("ks_public/predict.txt", "ks", "test_predict.txt", is_valid=is_keyword),
    Part("qbe_public/benchmark.stdlist.xml", "qbe", "benchmark.stdlist.xml", count="eval queries"),
    Part("sid_public/predict.txt", "sid", "test_predict.txt", is_valid=is_speaker),
    Part("sv_public/predict.txt", "sv", "test_predict.txt", count="trials", is_valid=is_score),
    Part("sd_public/scoring/predictions", "sd", "scoring/predictions"),
    Part("ic_public/predict.csv", "ic", "test_predict.csv", is_valid=is_intent),
    Part("sf_public/predict.ark", "sf", "test-hyp.ark"),
    *(
        Part(
            f"er_fold{number}_public/predict.txt",
            "er",
            f"test_fold{number}_predict.txt",
            session,
            number - 1,
            is_emotion,
        )
        for number, session in enumerate(official.FOLDS, start=1)
    ),
)


@dataclass
class Submission:
    """What was collected.

    Attributes:
        files: zip entry -> content.
        missing: why a part is not there, which is no fault: its task was not run, or is to be left out.
        damaged: why a part cannot be used whose task was run.
        remarks: what else the reader must know.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    damaged: dict[Part, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def gather_predictions(
    folder: str | Path, results: RunResults, *, data: Data | None = None, without: Collection[str] = ()
) -> Submission:
    """Read and check every prediction file of a run.

    Args:
        folder: the run folder.
        data: the corpora; with them every name is compared with the test set's own list, without them the number of
            predictions with the official one.
        without: tasks to leave out.
    """
    submission = Submission()
    for part in PARTS:
        task = results.tasks.get(part.task)
        if part.task in without:
            submission.missing[part.target] = "left out, as asked"
        elif task is None:
            submission.missing[part.target] = "the task was not run, or failed"
        elif part.run >= len(task.folders):
            if not part.optional:
                submission.missing[part.target] = "the results name no folder with its predictions"
        else:
            source = Path(folder) / task.folders[part.run] / part.source
            if source.exists() or not part.optional:
                _add(submission, part, source, data)
    _drop_incomplete_folds(submission)
    submission.remarks += [
        f"{name}: not official: {'; '.join(task.notes)}"
        for name, task in results.tasks.items()
        if not task.official and name not in without
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
        DataError: a prediction file cannot be used, or nothing was collected.
        PrunedUpstreamError: the folder cannot be written.
    """
    if submission.damaged:
        raise DataError(_complaint(submission.damaged))
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


def _complaint(damaged: Mapping[Part, str]) -> str:
    tasks = list(dict.fromkeys(part.task for part in damaged))
    return (
        f"nothing was written, for predictions of {', '.join(tasks)} cannot be used; leave them out with --without "
        f"{','.join(tasks)}, or mend them (a task whose folder is deleted is run again by the same `superb`): "
        f"{'; '.join(damaged.values())}"
    )


def _add(submission: Submission, part: Part, source: Path, data: Data | None) -> None:
    try:
        if part.task == "sd":
            names, files = _diarization(source, part.target)
        elif part.task == "qbe":
            names, files = _queries(source, data), {part.target: source.read_bytes()}
        else:
            predictions = read_predictions(source, part.is_valid)
            names, files = [name for name, _ in predictions], {part.target: source.read_bytes()}
            if part.task == "ks":  # s3prl takes keywords in the order in which the file system lists them
                files = {part.target: b"".join(sorted(files[part.target].splitlines(keepends=True)))}
        _check_names(names, part, source, data)
    except DataError as error:
        submission.damaged[part] = str(error)
    else:
        submission.files |= files


def _diarization(source: Path, target: str) -> tuple[Names, dict[str, bytes]]:
    """Predictions of each recording, and the frame shift, without which the scorer assumes 160 samples."""
    shift = source.parents[1] / FRAME_SHIFT
    read_frame_shift(shift)
    predictions = sorted(source.glob("*.h5"))
    for path in predictions:
        read_activity(path)
    files = {f"{target}/{path.name}": read_bytes(path) for path in predictions}
    files[f"{target.partition('/')[0]}/{FRAME_SHIFT}"] = read_bytes(shift)
    return [path.stem for path in predictions], files


def _queries(source: Path, data: Data | None) -> Names:
    """Names of the queries, each with a score for the recordings that are searched."""
    searches = read_searches(source)
    recordings = next(iter(searches.values()), [])
    if data is None:
        _check_count(recordings, source, official.COUNTS["qbe"]["recordings"], "recordings in each query")
    else:
        searched = _of_test_set(source, lambda: _english_names(data, "utterances")) or []
        _check_items(recordings, source, searched, "recordings that are searched")
    return list(searches)


def _check_names(names: Sequence[str], part: Part, source: Path, data: Data | None) -> None:
    twice = [name for name, times in Counter(names).items() if times > 1]
    # an official trial list may ask for one pair twice
    if twice and part.task != "sv":
        raise DataError(f"{source}: {len(twice)} names come twice, e.g. {twice[0]}")
    expected = None if data is None else _of_test_set(source, lambda: _TEST_NAMES[part.task](data, part))
    if expected is None:
        _check_count(names, source, official.COUNTS[part.task][part.count], "predictions")
        return
    _check_items(names, source, expected, "items of the test set")
    if part.task in ("sv", "ic") and list(names) != expected:
        raise DataError(f"{source}: its lines are not in the order of the test set's list")


def _check_count(names: Sequence[str], source: Path, wanted: Sequence[int], what: str) -> None:
    if len(names) not in wanted:
        raise DataError(f"{source} has {len(names)} {what}, officially {' or '.join(map(str, wanted))}")


def _check_items(names: Sequence[str], source: Path, expected: Sequence[str], what: str) -> None:
    absent, strangers = Counter(expected) - Counter(names), Counter(names) - Counter(expected)
    if absent or strangers:
        example = next(iter(absent or strangers))
        raise DataError(
            f"{source}: of the {len(expected)} {what} {absent.total()} are absent, and {strangers.total()} are none of "
            f"them, e.g. {example}"
        )


def _of_test_set(source: Path, read: Callable[[], Names | None]) -> Names | None:
    """Names from the corpora's own lists. Raises DataError, also where a list is damaged."""
    try:
        return read()
    except OSError as error:
        why = f"{error.filename}: {error.strerror}"
    except MALFORMED as error:
        why = f"it is damaged ({error})"
    raise DataError(f"{source} cannot be compared with the test set's own list, which cannot be read: {why}")


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
    return _english_names(data, "eval")


def _english_names(data: Data, key: str) -> Names:
    listing = data.corpus("quesst14Database") / f"scoring/language_key_{key}.lst"
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
        return sorted(kaldi.recordings(data.corpus("diarization") / "test"))
    return [row["mixture_ID"] for row in _rows(libri2mix.mixtures(data.corpus("Libri2Mix"), "test"))]


def _command_names(data: Data, part: Part) -> Names:
    table = data.corpus("fluent_speech_commands_dataset") / "data/test_data.csv"
    return [Path(row["path"]).stem for row in _rows(table)]


def _slot_names(data: Data, part: Part) -> Names:
    return [wav.stem for wav in snips.recordings(data.corpus("SNIPS") / "test", snips.SPEAKERS["test"])]


def _emotion_names(data: Data, part: Part) -> Names | None:
    folds = data.emotion_folds()
    if folds is None:
        return None
    fold = iemocap.read_fold(folds / part.count / "test_meta_data.json")
    return [Path(path).stem for path in fold.recordings]


def _voxceleb_name(path: str) -> str:
    return "-".join(Path(path).with_suffix("").parts[-3:])


def _fields(listing: Path) -> list[Names]:
    return [line.split() for line in read_lines(listing) if line.strip()]


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
