"""A results file that calls a result official, and says elsewhere why it is not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from pruned_upstream.superb import configuration
from pruned_upstream.superb.contradictions import REASONS
from pruned_upstream.superb.official import SHA256
from pruned_upstream.superb.protocol import best_checkpoint
from pruned_upstream.superb.results import RunResults, TaskResult, read_results, write_results
from pruned_upstream.superb.tasks import TASKS

FOLDS = {f"fold{number}": 60.0 + number for number in range(1, 6)}
OFFICIAL = {
    "pr": TaskResult({"per": 9.09}, True, steps=100_000, seconds=31_012.5, folders=("pr/test",)),
    "asr": TaskResult(
        {"wer": 9.0},
        True,
        steps=200_000,
        folders=("asr/test", "asr/test-lm"),
        details={"learning rate": 0.001, "dev wer at 0.0001": 9, "dev wer at 0.001": 8, "wer with language model": 7},
    ),
    "qbe": TaskResult(
        {"mtwv": 7.4},
        True,
        folders=("qbe/layer-09/test",),
        details={"layer": 9, "scorer": "the data set's score-TWV-Cnxe.sh"},
    ),
    "sv": TaskResult(
        {"eer": 5.5},
        True,
        steps=200_000,
        folders=("sv/test-180000",),
        details={
            "checkpoint": "states-180000.ckpt",
            "checkpoints tested": 10,
            "sha256 of voxceleb1_test_v2.txt": SHA256["voxceleb1_test_v2.txt"],
        },
    ),
    "sd": TaskResult(
        {"der": 5.5},
        True,
        ("measured on a borrowed machine", "s3prl's official recipe"),
        steps=30_000,
        details={"threshold": 0.5, "median": 11, "scorer": "dscore"},
    ),
    "er": TaskResult(
        {"acc": 63.0}, True, steps=30_000, folders=tuple(f"er/{fold}/test" for fold in FOLDS), details=FOLDS
    ),
}


def written(folder: Path, tasks=OFFICIAL) -> Path:
    return write_results(folder, RunResults("ours", "pruned_wavlm", tasks=tasks))


def test_results_that_bear_out_what_they_are_called_stay_official(tmp_path):
    written(tmp_path)
    assert read_results(tmp_path).tasks == OFFICIAL


@pytest.mark.parametrize(
    ("task", "edits", "said"),
    [
        ("pr", {"steps": 4}, "steps is 4, officially 100000"),
        ("pr", {"steps": None}, "steps is null, officially 100000"),
        ("pr", {"seconds": 5.6}, "no machine makes 100000 steps in 5.6 seconds"),
        ("pr", {"notes": ["4 training steps instead of 100000"]}, "its notes say why it is not"),
        ("pr", {"notes": ["a remark", "not the official data (train: 8 items)"]}, "its notes say why it is not"),
        ("sv", {"notes": ["a list has 1 of 3 trials a second time"]}, "its notes say why it is not"),
        ("pr", {"folders": ["a", "b"]}, "folders has 2 entries, officially 1"),
        (
            "pr",
            {"details": {"sha256 of librispeech-lexicon.txt": "ab"}},
            "rests on librispeech-lexicon.txt, which is none",
        ),
        ("qbe", {"steps": 4}, "steps is 4, officially null"),
        ("qbe", {"details": {"scorer": "this package's (superb/mtwv.py)"}}, "no score-TWV-Cnxe.sh"),
        ("sv", {"details": {"checkpoints tested": 20}}, "20 checkpoints were tested, officially 10"),
        ("sv", {"details": {"checkpoint": "states-2.ckpt"}}, "states-2.ckpt is none of those"),
        ("sv", {"details": {"sha256 of voxceleb1_test_v2.txt": "ab"}}, "the hash of voxceleb1_test_v2.txt is not that"),
        ("sv", {"folders": ["sv/test-20000"]}, "folders has sv/test-20000, and sv/test-180000 is what was chosen"),
        ("qbe", {"folders": ["qbe/layer-03/test"]}, "and qbe/layer-09/test is what was chosen"),
        ("asr", {"folders": ["asr/test", "asr/test"]}, "folders has an entry twice"),
        (
            "asr",
            {"details": {"learning rate": 1e-4, "dev wer at 0.0001": 9, "dev wer at 0.001": 8}},
            "0.0001 is not the",
        ),
        ("sd", {"details": {"scorer": "mine"}}, "its scorer is 'mine', and no dscore"),
        ("sd", {"details": {"threshold": 0.51}}, "the threshold 0.51 is none of 0.3, 0.4"),
        ("sd", {"details": {"median": 3}}, "the median 3 is none of 1, 11"),
        ("er", {"metrics": {"acc": 70.0}}, "the mean of its folds is 63.00, not 70.00"),
        ("er", {"details": {"fold1": 60.0}}, "1 of 5 folds have a number"),
        ("er", {"details": FOLDS | {"fold2": "62"}}, "4 of 5 folds have a number"),
        ("er", {"folders": ["er/fold1/test"]}, "folders has 1 entries, officially 5"),
        (
            "er",
            {"details": {"sha256 of Session1/test_meta_data.json": "ab"}},
            "the hash of Session1/test_meta_data.json",
        ),
    ],
)
def test_one_that_contradicts_itself_is_not_official(tmp_path, task, edits, said):
    path = written(tmp_path)
    tree = yaml.safe_load(path.read_text())
    tree["tasks"][task] |= edits
    path.write_text(yaml.safe_dump(tree))
    tasks = read_results(tmp_path).tasks
    assert not tasks[task].official
    assert tasks[task].notes[0].startswith("it is called official, and contradicts itself: ")
    assert said in tasks[task].notes[0] and list(tasks[task].notes[1:]) == tree["tasks"][task]["notes"]
    assert [name for name, result in tasks.items() if not result.official] == [task]


def test_rounded_folds_are_no_contradiction(tmp_path):
    folds = dict(zip(FOLDS, (60.12, 61.34, 62.57, 63.99, 64.01), strict=True))
    written(tmp_path, {"er": dataclasses.replace(OFFICIAL["er"], metrics={"acc": 62.41}, details=folds)})
    assert read_results(tmp_path).tasks["er"].official


def test_the_reasons_that_a_configuration_or_a_training_gives_are_known(tmp_path):
    (tmp_path / "states-4.ckpt").touch()
    reasons = [
        *configuration.resolve(TASKS["ks"], {}, steps=3, short=True)[1],
        *best_checkpoint(tmp_path, TASKS["ks"])[1],
    ]
    assert len(reasons) == 3 and all(REASONS.search(reason) for reason in reasons)
