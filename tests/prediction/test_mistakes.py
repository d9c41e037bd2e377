"""What a user gets wrong is answered by a sentence: lost files, short clips, foreign checkpoints."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from pruned_upstream.errors import CheckpointError, ConfigError, DataError
from pruned_upstream.model.safe_loading import allowed_by_torch
from pruned_upstream.prediction import load_task
from pruned_upstream.prediction.experiment import read_checkpoint
from pruned_upstream.prediction.text import slots_in
from pruned_upstream.superb.results import RunResults, TaskResult, write_results

soundfile = pytest.importorskip("soundfile")


@pytest.fixture
def clip(tmp_path):
    def write(name: str = "clip.wav", *, samples: int = 16000, channels: int = 1, rate: int = 16000) -> Path:
        path = tmp_path / name
        noise = np.random.RandomState(0).uniform(-0.3, 0.3, (samples, channels))
        soundfile.write(path, noise, rate)
        return path

    return write


def changed(checkpoint: Path, path: Path, **changes) -> Path:
    """A copy of a checkpoint whose command line, or configuration (`a__b`), is another."""
    with allowed_by_torch(argparse.Namespace):
        states = torch.load(checkpoint, weights_only=True)
    for key, value in changes.items():
        *sections, last = key.split("__")
        tree = states["Config"] if sections else vars(states["Args"])
        for section in sections:
            tree = tree[section]
        tree[last] = value
    torch.save(states, path)
    return path


def test_a_moved_model_is_named_and_its_new_place_taken(trained, model_file, clip, tmp_path):
    moved = changed(trained("ks").checkpoint, tmp_path / "moved.ckpt", upstream_ckpt=str(tmp_path / "gone.safetensors"))
    with pytest.raises(CheckpointError, match="gone.safetensors.*name its place with -k"):
        load_task(moved)
    before, after = (load_task(trained("ks").folder), load_task(moved, model_file=model_file))
    assert before.predict([clip()]) == after.predict([clip()])


def test_lost_names_of_classes_are_found_in_the_corpora(trained, tiny_root, clip, tmp_path):
    where = "downstream_expert__datarc__file_path"
    moved = changed(trained("ic").checkpoint, tmp_path / "moved.ckpt", **{where: str(tmp_path / "gone")})
    with pytest.raises(DataError, match="names of the intents stand in .*gone.*--data"):
        load_task(moved)
    assert load_task(moved, data=tiny_root).predict([clip()]) == load_task(trained("ic").folder).predict([clip()])


def test_emotions_keep_their_fold_when_the_corpora_were_moved(trained, tiny_root, clip, tmp_path):
    where = "downstream_expert__datarc__meta_data"
    moved = changed(trained("er", "-v", "fold2").checkpoint, tmp_path / "moved.ckpt", **{where: str(tmp_path)})
    with pytest.raises(DataError, match="names of the emotions.*Session2"):
        load_task(moved)
    assert load_task(moved, data=tiny_root).predict([clip()])


@pytest.mark.parametrize("text", ["[]", "{}", '{"labels": ["a"]}', '{"labels": {"a": 1, "b": 2}}', "{", "\xff"])
def test_metadata_that_are_none_are_refused(trained, tmp_path, text):
    (tmp_path / "Session2").mkdir()
    (tmp_path / "Session2/test_meta_data.json").write_bytes(text.encode("latin-1"))
    where = "downstream_expert__datarc__meta_data"
    moved = changed(trained("er", "-v", "fold2").checkpoint, tmp_path / "moved.ckpt", **{where: str(tmp_path)})
    with pytest.raises(DataError, match="test_meta_data.json"):
        load_task(moved)


@pytest.mark.parametrize("task, key", [("pr", "text__vocab_file"), ("asr", "datarc__dict_path")])
def test_lost_symbols_are_those_of_superb(trained, clip, tmp_path, task, key):
    where = {f"downstream_expert__{key}": str(tmp_path / "gone.txt")}
    moved = changed(trained(task).checkpoint, tmp_path / "moved.ckpt", **where)
    assert load_task(moved).predict([clip()]) == load_task(trained(task).folder).predict([clip()])


def test_lost_slots_are_named(trained, tmp_path):
    where = {"downstream_expert__text__slots_file": str(tmp_path / "gone.txt")}
    moved = changed(trained("sf").checkpoint, tmp_path / "moved.ckpt", **where)
    with pytest.raises(DataError, match="gone.txt.*--data"):
        load_task(moved)


def test_a_head_of_another_size_does_not_fit(trained, tmp_path):
    other = changed(trained("ks").checkpoint, tmp_path / "other.ckpt", downstream_expert__modelrc__projector_dim=17)
    with pytest.raises(CheckpointError, match="does not fit the model that its configuration names"):
        load_task(other)


def test_another_upstream_does_not_fit(trained, tmp_path):
    with pytest.raises(CheckpointError, match="the featurizer in .* does not fit"):
        load_task(
            changed(trained("ks").checkpoint, tmp_path / "other.ckpt", upstream="fbank_no_cmvn", upstream_ckpt=None)
        )
    with pytest.raises(ConfigError, match="s3prl does not have here"):
        load_task(changed(trained("ks").checkpoint, tmp_path / "other.ckpt", upstream="nobodys"))


def test_a_model_that_s3prl_does_not_have(trained, tmp_path):
    other = changed(trained("ks").checkpoint, tmp_path / "other.ckpt", downstream_expert__modelrc__select="os.system")
    with pytest.raises(CheckpointError, match="chooses the model 'os.system'"):
        load_task(other)


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('ran')",))


@pytest.mark.parametrize(
    "content",
    [
        {"Args": Evil()},
        {"no": 1},
        [1, 2],
        {"Args": argparse.Namespace(downstream="ks")},
        b"",
        b"not a checkpoint at all",
    ],
    ids=["unsafe", "foreign", "list", "half", "empty", "text"],
)
def test_what_is_no_checkpoint_is_refused_and_never_run(tmp_path, content):
    path = tmp_path / "states-1.ckpt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(CheckpointError, match="states-1.ckpt"):
        read_checkpoint(path)


def test_a_task_without_an_answer(trained, tmp_path):
    with pytest.raises(ConfigError, match="was trained on phone_linear; answers are given for ks"):
        load_task(changed(trained("ks").checkpoint, tmp_path / "other.ckpt", downstream="phone_linear"))


def test_places_where_nothing_is_trained(tmp_path, trained, clip):
    with pytest.raises(DataError, match="there is no .*nowhere"):
        load_task(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no checkpoint"):
        load_task(tmp_path)
    unfinished = tmp_path / "run/ks/train"
    unfinished.mkdir(parents=True)
    shutil.copy(trained("ks").checkpoint, unfinished / "states-4.ckpt")
    with pytest.raises(DataError, match="ks is not finished; .*ks/train holds checkpoints"):
        load_task(tmp_path / "run/ks")
    assert load_task(unfinished).remarks == ("the last checkpoint, states-4.ckpt: the folder has no best one",)
    (tmp_path / "run/run.yaml").write_text("model: x\n")
    result = TaskResult({"acc": 50.0}, official=False, notes=("toy",), folders=("ks/test",))
    write_results(tmp_path / "run/ks", RunResults("tiny", "pruned_wavlm", tasks={"ks": result}))
    with pytest.raises(DataError, match=r"is a whole run; name one of its finished tasks: .*run/ks$"):
        load_task(tmp_path / "run")
    task = load_task(tmp_path / "run/ks")
    assert "states-4.ckpt was tested" in task.remarks[0] and task.predict([clip()])


def test_the_checkpoint_and_learning_rate_that_were_chosen(trained, tmp_path):
    """SV's checkpoint is in the details; a search for the learning rate has a folder for each."""
    trainings = tmp_path / "sv/lr-0.001/train"
    trainings.mkdir(parents=True)
    for step in (2, 4):
        shutil.copy(trained("sv").checkpoint, trainings / f"states-{step}.ckpt")
    (trainings / "states-4.ckpt").write_bytes(b"not the one")
    details = {"learning rate": 0.001, "checkpoint": "states-2.ckpt"}
    result = TaskResult({"eer": 20.0}, official=False, notes=("toy",), folders=("sv/test-2",), details=details)
    write_results(tmp_path / "sv", RunResults("tiny", "pruned_wavlm", tasks={"sv": result}))
    assert load_task(tmp_path / "sv").name == "sv"
    shutil.rmtree(tmp_path / "sv/lr-0.001")
    with pytest.raises(DataError, match="is not there any more"):
        load_task(tmp_path / "sv")


def test_diarization_takes_the_threshold_that_was_chosen(trained, tmp_path):
    (tmp_path / "sd/train").mkdir(parents=True)
    shutil.copy(trained("sd").checkpoint, tmp_path / "sd/train")
    details = {"threshold": 0.3, "median": 1}
    result = TaskResult({"der": 20.0}, official=False, notes=("toy",), folders=("sd/test",), details=details)
    write_results(tmp_path / "sd", RunResults("tiny", "pruned_wavlm", tasks={"sd": result}))
    diarizer = load_task(tmp_path / "sd").answerer
    assert (diarizer.threshold, diarizer.median) == (0.3, 1)
    by_hand = load_task(trained("sd").folder).answerer
    assert (by_hand.threshold, by_hand.median) == (0.5, 11)


def test_long_recordings_are_cut_as_the_test_set_is(trained, clip, tmp_path):
    short = changed(trained("sd").checkpoint, tmp_path / "short.ckpt", downstream_expert__datarc__chunk_size=30)
    wav = torch.from_numpy(soundfile.read(clip(samples=16000 + 123), dtype="float32")[0])
    whole, cut = (load_task(place).answerer.activity(wav, "clip") for place in (trained("sd").folder, short))
    assert whole.shape == cut.shape == (50, 2)
    alone = load_task(short).answerer.activity(wav[: 30 * 320], "clip")
    assert cut[:30] == pytest.approx(alone, abs=1e-5) and not np.allclose(whole, cut)


@pytest.mark.parametrize("task", ["ks", "asr", "sd", "sv", "qbe"])
@pytest.mark.parametrize("samples", [0, 1, 300])
def test_clips_too_short_for_a_frame(trained, clip, task, samples):
    options = ("-l", "2") if task == "qbe" else ()
    with pytest.raises(DataError, match="short.wav"):
        load_task(trained(task, *options).folder).predict([clip("short.wav", samples=samples), clip()])


def test_queries_that_cannot_be_searched_for(trained, clip, tmp_path):
    task = load_task(trained("qbe", "-l", "2").folder)
    with pytest.raises(DataError, match="the query .*short.wav is too short: 3 frames, and 5 are needed"):
        task.predict([clip("short.wav", samples=1200), clip()])
    assert task.predict([clip(samples=32000), clip("short.wav", samples=1200)]), "frames may be stretched"
    shutil.copytree(trained("qbe", "-l", "2").folder, tmp_path / "whole")
    config = tmp_path / "whole/config_2026-01-01-00-00-00.yaml"
    config.write_text(config.read_text().replace("subsequence: true", "subsequence: false"))
    with pytest.raises(DataError, match="cannot be warped onto .*long.wav"):  # at most two frames for one of the query
        load_task(tmp_path / "whole").predict([clip(samples=8000), clip("long.wav", samples=32000)])


def test_too_few_clips(trained, clip):
    with pytest.raises(DataError, match="sv needs at least 2 recordings, and 1 came"):
        load_task(trained("sv").folder).predict([clip()])
    with pytest.raises(DataError, match="the query, then where to search"):
        load_task(trained("qbe", "-l", "2").folder).predict([clip()])


def test_clips_that_are_no_sound(trained, tmp_path, clip):
    task = load_task(trained("ks").folder)
    (tmp_path / "text.wav").write_text("hello")
    soundfile.write(tmp_path / "nan.wav", np.full(16000, np.nan), 16000, subtype="FLOAT")
    for name, said in (("none.wav", "no recording"), ("text.wav", "cannot be read"), ("nan.wav", "not numbers")):
        with pytest.raises(DataError, match=said):
            task.predict([tmp_path / name])
    with pytest.raises(DataError, match="no recording"):
        task.predict([tmp_path])


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("task", ["ks", "sv", "qbe"])
def test_effects_do_not_hide_what_is_no_number(trained, clip, tmp_path, task, value):
    sound = np.random.default_rng(0).normal(0, 0.1, 32000)
    sound[1000] = value
    soundfile.write(tmp_path / "hole.wav", sound, 16000, subtype="FLOAT")
    loaded = load_task(trained(task, *(["-l", "2"] if task == "qbe" else [])).folder)
    with pytest.raises(DataError, match=r"hole.wav holds samples that are not numbers"):
        loaded.predict([tmp_path / "hole.wav"] if task == "ks" else [clip(), tmp_path / "hole.wav"])


@pytest.mark.parametrize("task", ["ks", "asr", "sid"])
def test_stereo_at_another_rate_is_mixed_down_and_resampled(trained, clip, task):
    (answer,) = load_task(trained(task).folder).predict([clip(channels=2, rate=44100, samples=44100)])
    assert answer.clip.endswith("clip.wav")


def test_layers_are_chosen_for_search_alone(trained, model_file, clip):
    with pytest.raises(ConfigError, match="a layer is chosen for qbe alone"):
        load_task(trained("ks").folder, layer=1)
    with pytest.raises(ConfigError, match="--layer N to say which"):
        load_task(model_file)
    with pytest.raises(ConfigError, match="no hidden state 9"):
        load_task(model_file, layer=9)
    one, other = (load_task(trained("qbe", "-l", "2").folder, layer=layer) for layer in (None, 0))
    two = [clip("a.wav", samples=8000), clip("b.wav", channels=2)]
    assert one.predict(two) != other.predict(two)


def test_a_device_that_is_not_there(trained, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match="there is no GPU for --device cuda:1"):
        load_task(trained("ks").folder, device="cuda:1")
    with pytest.raises(ConfigError, match="is no device"):
        load_task(trained("ks").folder, device="tpu9")


@pytest.mark.gpu
@pytest.mark.parametrize("task", ["ks", "sid", "ic", "asr", "pr", "sf"])
def test_a_gpu_answers_as_the_cpu_does(trained, clip, task):
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    answers = [load_task(trained(task).folder, device=device).predict([clip()])[0] for device in ("cpu", "cuda")]
    on_cpu, on_gpu = (answer.text if hasattr(answer, "text") else answer.best() for answer in answers)
    assert on_gpu == on_cpu


def test_what_an_evaluation_left_behind_must_be_whole(trained, tmp_path):
    shutil.copytree(trained("qbe", "-l", "2").folder, tmp_path / "qbe")
    (tmp_path / "qbe/config_2026-01-01-00-00-00.yaml").write_text("- 1\n")
    with pytest.raises(DataError, match="not a mapping"):
        load_task(tmp_path / "qbe")
    (tmp_path / "qbe/config_2026-01-01-00-00-00.yaml").write_text("a: !!python/object:os.system {}\n")
    with pytest.raises(DataError, match="cannot be read"):
        load_task(tmp_path / "qbe")
    arguments = tmp_path / "qbe/args_2026-01-01-00-00-00.yaml"
    arguments.write_text(yaml.dump({"downstream": "asr"}))
    (tmp_path / "qbe/config_2026-01-01-00-00-00.yaml").write_text("runner: {}\n")
    with pytest.raises(DataError, match="the task asr needs one"):
        load_task(tmp_path / "qbe")


@pytest.mark.parametrize(
    "said, text, slots",
    [
        ("PLAY B-artist QUEEN E-artist NOW", "PLAY QUEEN NOW", (("artist", "QUEEN"),)),
        ("B-city NEW  YORK E-city AT B-time SIX E-time", "NEW YORK AT SIX", (("city", "NEW YORK"), ("time", "SIX"))),
        ("PLAY B-artist QUEEN", "PLAY QUEEN", ()),
        ("PLAY QUEEN", "PLAY QUEEN", ()),
        ("", "", ()),
    ],
)
def test_slots_are_read_from_their_marks(said, text, slots):
    pytest.importorskip("s3prl")
    from pruned_upstream.s3prl_plugin.registry import register

    register()
    answer = slots_in(said, "clip")
    assert (answer.text, answer.slots) == (text, slots)


def test_the_command_ends_with_a_sentence(exit_code, tmp_path, capsys):
    assert exit_code("predict", tmp_path / "nowhere", tmp_path / "clip.wav") == 2
    assert "there is no" in capsys.readouterr().err


def test_what_torch_allowed_before_stays_allowed(tmp_path):
    """s3prl's runner reads checkpoints in the same process, after the layer has had torch allow a Namespace."""
    torch.save({"Args": argparse.Namespace(downstream="asr")}, tmp_path / "states-1.ckpt")
    with allowed_by_torch(argparse.Namespace):
        with pytest.raises(CheckpointError):
            read_checkpoint(tmp_path / "states-1.ckpt")
        assert argparse.Namespace in torch.serialization.get_safe_globals()
