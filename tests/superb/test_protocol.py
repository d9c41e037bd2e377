"""The protocols, driven with outcomes written by hand: which runs are made, and which number counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from pruned_upstream.errors import ConfigError, PrunedUpstreamError
from pruned_upstream.superb.contradictions import REASONS
from pruned_upstream.superb.protocol import Plan, StageOutput, begin
from pruned_upstream.superb.tasks import TASKS
from pruned_upstream.superb.worker import STDOUT


def make_plan(folder: Path, task: str, **changes) -> Plan:
    return Plan(
        task=TASKS[task],
        folder=folder / task,
        config=folder / task / "config.yaml",
        upstream=("-u", "fbank"),
        common=("--device", "cpu"),
        **{"steps": 100, **changes},
    )


def drive(plan, outputs, checkpoints=("dev-best.ckpt",)):
    """Run a protocol: `outputs` maps a stage's name to its stdout; trainings leave `checkpoints`."""
    protocol = begin(plan)
    rounds, outcomes = [], None
    while True:
        try:
            stages = protocol.send(outcomes)
        except StopIteration as ended:
            assert all(REASONS.search(note) for note in ended.value.notes), "edited files are held against these words"
            return rounds, ended.value
        rounds.append({stage.name: stage for stage in stages})
        outcomes = {}
        for stage in stages:
            folder = plan.folder / stage.name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / STDOUT).write_text(outputs.get(stage.name, ""))
            for name in checkpoints if stage.steps else ():
                (folder / name).touch()
            outcomes[stage.name] = StageOutput(folder)


def test_the_best_checkpoint_on_dev_is_tested(tmp_path):
    plan = make_plan(tmp_path, "ks", lists={"list.txt": "ab12"})
    rounds, result = drive(plan, {"test": "test acc: 0.5\n"}, ["dev-best.ckpt", "states-100.ckpt"])
    assert [list(stages) for stages in rounds] == [["train"], ["test"]]
    test = rounds[1]["test"].arguments
    assert test[test.index("-e") + 1] == str(plan.folder / "train/dev-best.ckpt")
    assert test[test.index("-o") + 1] == f"args.expdir={plan.folder / 'test'}"
    assert (result.metrics, result.official, result.folders) == ({"acc": 50.0}, True, ("ks/test",))
    assert result.details == {"sha256 of list.txt": "ab12"}


def test_where_there_is_no_best_the_last_is_tested_and_said_so(tmp_path):
    rounds, result = drive(
        make_plan(tmp_path, "ks"), {"test": "test acc: 0\n"}, ["states-80.ckpt", "states-100.ckpt", "states-20.ckpt"]
    )
    assert any("states-100.ckpt" in argument for argument in rounds[1]["test"].arguments)
    assert not result.official
    assert "states-100.ckpt was tested" in result.notes[0]


def test_a_training_that_saved_nothing_is_an_error(tmp_path):
    with pytest.raises(PrunedUpstreamError, match="no checkpoint"):
        drive(make_plan(tmp_path, "ks"), {}, [])


def test_deviations_make_a_result_not_official(tmp_path):
    plan = make_plan(tmp_path, "ks", deviations=("100 training steps instead of 200000",))
    _, result = drive(plan, {"test": "test acc: 0.5\n"})
    assert (result.official, result.notes) == (False, ("100 training steps instead of 200000",))


def test_speaker_verification_tests_every_checkpoint_and_the_lowest_rate_counts(tmp_path):
    outputs = {f"test-{step}": f"sv-voxceleb1/test-EER: {eer}\n" for step, eer in [(20, 0.3), (40, 0.1), (100, 0.2)]}
    rounds, result = drive(make_plan(tmp_path, "sv"), outputs, ["states-100.ckpt", "states-20.ckpt", "states-40.ckpt"])
    assert list(rounds[1]) == ["test-20", "test-40", "test-100"]
    assert result.metrics == {"eer": 10.0}
    assert result.folders == ("sv/test-40",)
    assert result.details == {"checkpoint": "states-40.ckpt", "checkpoints tested": 3}


def test_official_speaker_verification_tests_ten_checkpoints(tmp_path):
    """All twenty that s3prl saves would be a choice among more numbers on test data."""
    saved = [f"states-{step}.ckpt" for step in range(10_000, 200_001, 10_000)]
    tested = [f"test-{step}" for step in range(20_000, 200_001, 20_000)]
    outputs = {name: f"sv-voxceleb1/test-EER: {0.2 - k / 100}\n" for k, name in enumerate(tested)}
    rounds, result = drive(make_plan(tmp_path, "sv", steps=200_000), outputs, saved)
    assert list(rounds[1]) == tested
    assert (result.metrics, result.official) == ({"eer": pytest.approx(11.0)}, True)

    _, result = drive(make_plan(tmp_path / "cut", "sv", steps=200_000), outputs, saved[:-1])
    assert (result.official, result.notes) == (False, ("no checkpoint of step 200000",))


def test_emotion_recognition_is_the_mean_of_five_folds(tmp_path):
    outputs = {f"fold{k}/test": f"test acc: {k / 10}\n" for k in range(1, 6)}
    rounds, result = drive(make_plan(tmp_path, "er"), outputs)
    assert list(rounds[0]) == [f"fold{k}/train" for k in range(1, 6)]
    assert rounds[0]["fold3/train"].arguments[-4:-2] == ("-v", "fold3")
    assert result.metrics == {"acc": pytest.approx(30.0)}
    assert result.folders == tuple(f"er/fold{k}/test" for k in range(1, 6))


def write_search(folder: Path, target_score: float) -> None:
    """One query, two recordings, the first of which contains it."""
    folder.mkdir(parents=True, exist_ok=True)
    terms = f'<term file="a" score="{target_score}"/><term file="b" score="0.0"/>'
    (folder / "benchmark.stdlist.xml").write_text(
        f'<stdlist><detected_termlist termid="q">{terms}</detected_termlist></stdlist>'
    )


def write_truth(scoring: Path) -> None:
    for split in ("dev", "eval"):
        truth = scoring / f"groundtruth_quesst14_{split}"
        truth.mkdir(parents=True)
        (truth / "x.ecf.xml").write_text(
            '<ecf><excerpt audio_filename="a.wav"/><excerpt audio_filename="b.wav"/></ecf>'
        )
        (truth / "x.tlist.xml").write_text('<termlist><term termid="q"/></termlist>')
        (truth / "x.rttm").write_text("LEXEME a 1 0 1 q lex x 1\n")


def test_query_by_example_takes_the_layer_that_is_best_on_dev(tmp_path):
    plan = make_plan(tmp_path, "qbe", layers=3, steps=0, scoring=tmp_path / "scoring")
    write_truth(plan.scoring)
    for layer, score in enumerate([-1.0, 1.0, -1.0]):  # only layer 1 ranks the target first on dev; its test fails
        write_search(plan.folder / f"layer-{layer:02d}/dev", score)
        write_search(plan.folder / f"layer-{layer:02d}/test", -score)
    rounds, result = drive(plan, {})
    assert [list(stages) for stages in rounds] == [
        ["layer-00/dev", "layer-01/dev", "layer-02/dev"],
        ["layer-01/test"],
    ]
    arguments = rounds[0]["layer-02/dev"].arguments
    assert arguments[arguments.index("-l") + 1] == "2"
    assert result.metrics == {"mtwv": 0.0}
    assert result.details == {"layer": 1, "dev mtwv": 100.0, "scorer": "this package's (superb/mtwv.py)"}
    (reason,) = result.notes
    assert not result.official and "it is not in the scoring folder" in reason
    assert result.steps is None


def test_the_data_sets_own_scorer_is_preferred(tmp_path):
    plan = make_plan(tmp_path, "qbe", steps=0, scoring=tmp_path / "scoring")
    plan.scoring.mkdir()
    script = plan.scoring / "score-TWV-Cnxe.sh"
    script.write_text('#!/bin/sh\necho "actTWV: 0.01  maxTWV: 0.0$(echo $2 | tail -c 2 | tr vl 34)  Threshold: 1"\n')
    script.chmod(0o755)
    _, result = drive(plan, {})
    assert result.metrics == {"mtwv": pytest.approx(4.0)}
    assert result.details["dev mtwv"] == pytest.approx(3.0)
    assert (result.official, result.notes) == (True, ())
    assert result.details["scorer"] == "the data set's score-TWV-Cnxe.sh"


def test_a_scorer_that_does_not_run_makes_the_result_not_official(tmp_path):
    """QUESST's script needs Java; where there is none it printed nothing, and ours stood in for it in silence."""
    plan = make_plan(tmp_path, "qbe", steps=0, scoring=tmp_path / "scoring")
    write_truth(plan.scoring)
    for split in ("dev", "test"):
        write_search(plan.folder / f"layer-00/{split}", 1.0)
    script = plan.scoring / "score-TWV-Cnxe.sh"
    script.write_text("#!/bin/sh\njava-that-is-not-there -jar scorer.jar\n")
    for mode, words in ((0o755, "not found"), (0o644, "Permission denied")):
        script.chmod(mode)
        _, result = drive(plan, {})
        assert result.metrics == {"mtwv": 100.0}
        (reason,) = result.notes
        assert not result.official and words in reason


def test_the_learning_rate_is_chosen_on_dev_where_lower_can_be_better(tmp_path):
    outputs = {
        "lr-0.01/train": "dev per: 0.5\ndev per: 0.4\n",
        "lr-0.001/train": "dev per: 0.6\ndev per: 0.3\n",
        "test": "test per: 0.35\n",
    }
    plan = make_plan(tmp_path, "pr", learning_rates=(0.01, 0.001))
    rounds, result = drive(plan, outputs)
    assert list(rounds[0]) == ["lr-0.01/train", "lr-0.001/train"]
    assert any("lr-0.001/train/dev-best.ckpt" in argument for argument in rounds[1]["test"].arguments)
    assert result.metrics == {"per": 35.0}
    assert result.details["learning rate"] == 0.001


def test_there_is_no_search_without_a_development_set(tmp_path):
    with pytest.raises(ConfigError, match="no development set"):
        drive(make_plan(tmp_path, "sv", learning_rates=(1e-3, 1e-4)), {})


def test_a_language_model_gives_a_second_number(tmp_path):
    plan = make_plan(tmp_path, "asr", language_model=(Path("4-gram.arpa"), Path("words.lst")))
    outputs = {"test": "test-clean wer: 10.5\n", "test-lm": "test-clean wer: 7.5\n"}
    rounds, result = drive(plan, outputs, ["dev-clean-best.ckpt"])
    assert any("kenlm_model=4-gram.arpa" in argument for argument in rounds[1]["test-lm"].arguments)
    assert result.metrics == {"wer": 10.5}
    assert result.details["wer with language model"] == 7.5
    assert result.folders == ("asr/test", "asr/test-lm")  # whose transcripts go into the submission


def test_a_path_that_s3prl_cannot_take_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot take a path with '='"):
        drive(make_plan(tmp_path / "lr=1", "ks"), {})
