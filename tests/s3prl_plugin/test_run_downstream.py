"""s3prl's runner, started through ours."""

from __future__ import annotations

import shutil
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import yaml

from pruned_upstream import run_downstream
from pruned_upstream.errors import DataError
from pruned_upstream.resources import downstream_config_path

pytest.importorskip("s3prl")
soundfile = pytest.importorskip("soundfile")

WITHOUT_TASK = """
runner: {total_steps: 4, gradient_clipping: 1, gradient_accumulate_steps: 1, log_step: 1, eval_step: 1, save_step: 1,
  max_keep: 1, eval_dataloaders: [dev]}
optimizer: {name: TorchOptim, torch_optim_name: Adam, lr: 1.0e-4}
downstream_expert: {}
"""
MODULE = ("-m", "pruned_upstream.run_downstream")


@pytest.fixture
def prepared(monkeypatch):
    """`prepare` on a machine without GPU, with s3prl registered."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    from pruned_upstream.s3prl_plugin.registry import register

    register()
    return lambda line: run_downstream.prepare(line.split())


def value(arguments: list[str], option: str) -> str | None:
    return arguments[arguments.index(option) + 1] if option in arguments else None


def test_arguments_pass_through(prepared):
    arguments = prepared("-m train -u pruned_wavlm -k a.safetensors -d asr -p run -o config.optimizer.lr=1e-3 -f")
    for option, wanted in {"-m": "train", "-k": "a.safetensors", "-p": "run", "-o": "config.optimizer.lr=1e-3"}.items():
        assert value(arguments, option) == wanted
    assert "-f" in arguments


def test_configs_by_name_by_path_and_by_task(prepared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keywords = str(downstream_config_path("ks"))
    assert value(prepared("-m train -u fbank -d speech_commands -c ks"), "-c") == keywords
    assert value(prepared("-m train -u fbank -d speech_commands"), "-c") == keywords
    (tmp_path / "mine.yaml").write_text("runner: {}\n")
    assert value(prepared("-m train -u fbank -d speech_commands -c mine.yaml"), "-c") == "mine.yaml"
    own = tmp_path / "downstream" / "speech_commands"
    own.mkdir(parents=True)
    (own / "config.yaml").write_text("runner: {}\n")
    assert value(prepared("-m train -u fbank -d speech_commands"), "-c") is None  # a clone's own goes first


def test_device_and_rank(prepared, monkeypatch):
    assert value(prepared("-m train -u fbank -d asr"), "--device") == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert value(prepared("-m train -u fbank -d asr"), "--device") == "cuda"
    assert value(prepared("-m train -u fbank -d asr --local-rank 1"), "--local_rank") == "1"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert value(prepared("-m train -u fbank -d asr"), "--local_rank") == "3"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("-m train -u pruned_wavlmm -d asr", "did you mean pruned_wavlm"),
        ("-m train -u fbank -d speech_comands", "did you mean speech_commands"),
        ("-m train -u fbank -d ctc", "-c pr or -c sf"),
        ("-m train -u fbank -d ctc -c prr", "did you mean pr?"),
        ("-m train -u fbank -d asr --device cuda:1", "there is no GPU"),
        ("-m train -u fbank -d asr --local_rank 0", "start one without torchrun"),
        ("-m evaluate -e nowhere", "there is no checkpoint nowhere"),
        ("-m evaluate -e empty", "holds no checkpoint"),
        (
            "-m train -u pruned_wavlm -k lost.safetensors -d example -c empty.yaml -p run",
            "no model file lost.safetensors",
        ),
        ("-m train -u fbank -d speech_commands -p run", "there is no folder data/speech_commands_v0.01"),
        ("-m train -u fbank -d ctc -c pr -p run", "there is no folder data/LibriSpeech"),
        ("-m train -u fbank -d asr -p run -o config.downstream_expert.datarc.libri_root=x", "there is no folder x"),
        ("-m train -u fbank -d diarization -p run", "and data holds no Libri2Mix to make it from"),
        ("-m train -u fbank -d voxceleb1 -p run -o config.downstream_expert.datarc.file_path=voices", "copy it from a"),
        (
            "-m train -u fbank -d example -c empty.yaml -p run -l 9",
            "no layer 9 for -l; the upstream's hidden_states are 0",
        ),
        (
            "-m train -u fbank -d example -c empty.yaml -p run -o garbage",
            "'garbage' overrides nothing: -o takes config.",
        ),
        ("-m train -u fbank -d example -c empty.yaml -p run -o config.a=b=c", "a value holds no '='"),
        ("-m train -u fbank -d example -c empty.yaml -p run -o config.a=1,,", "'' overrides nothing"),
        ("-m train -u fbank -d example -c empty.yaml -p run -o config=3", "'config' is nothing to override"),
        ("-m train -u fbank -d example -c empty.yaml -p run -o confg.a=3", "'confg.a' is nothing to override"),
        (
            "-m train -u fbank -d example -c empty.yaml -p run -o config.runner.total_steps.x=3",
            "config.runner.total_steps.x is nothing to override: total_steps is 4",
        ),
        (
            "-m train -u fbank -d example -c empty.yaml -p run -o config.runner.total_steps=abc",
            "config.runner.total_steps is 'abc'; it must be a number, as 4, which it replaces",
        ),
        (
            "-m train -u fbank -d example -c empty.yaml -p run -o config.runner.log_step=0",
            "config.runner.log_step is 0; it must be a whole number above 0",
        ),
        ("-m train -u fbank -d asr -p run -o args.seed=abc", "args.seed is 'abc'; it must be a number, as 1337"),
        ("-m train -u fbank -d asr -p run -o config.runner.eval_dataloaders=dev-clean", "it must be a list"),
        (
            "-m train -u fbank -d asr -p run -o config.runner.eval_dataloaders=['dev']",
            "name splits of the task, which has train, dev-clean, dev-other, test-clean",
        ),
        ("-m train -u fbank -d asr -p run -o config.optimizer.lr=1e-4x", "config.optimizer.lr is '1e-4x'"),
        ("-m train -u fbank -d asr -p run -o config.optimizer.name=Nope", "be one of s3prl's, such as TorchOptim"),
        (
            "-m train -u fbank -d example -c text.yaml -p run",
            "config.optimizer.lr is '1e-4'; it must be a number above 0",
        ),
        (
            "-m train -u fbank -d example -c tag.yaml -p run",
            "the config tag.yaml cannot be read: line 1, column 9: this",
        ),
        ("-m train -u fbank -d example -c list.yaml -p run", "the config list.yaml is not a mapping"),
        ("-m train -u fbank -d example -c bare.yaml -p run", "config.runner.total_steps is None; it must be a whole"),
        ("-m evaluate -e text.yaml", "text.yaml cannot be read as a checkpoint of s3prl's runner"),
        ("-m evaluate -e cut.ckpt", "cut.ckpt cannot be read as a checkpoint of s3prl's runner"),
        ("-m evaluate -e weights.ckpt", "weights.ckpt is not a checkpoint of s3prl's runner: it holds no Args"),
        ("-m train -u fbank -d asr -p cut -a", "cut/states-4.ckpt cannot be read as a checkpoint of s3prl's runner"),
        ("-m train -u fbank -d asr -p run -i text.yaml", "text.yaml cannot be read as a checkpoint of s3prl's runner"),
        (
            "-m evaluate -e lost.ckpt -t nosuch",
            "the task asr has no split nosuch for -t; it has train, dev-clean",
        ),
        ("-m evaluate -e lost.ckpt", "the task asr has no split test for -t; it has train, dev-clean"),
        ("-m evaluate", "-m evaluate needs -e with a checkpoint, or the folder of an experiment; or -u with"),
        ("-m train -u fbank", "-m train needs -e with a checkpoint"),
        ("-m train -d asr", "-m train needs -e with a checkpoint"),
        (
            "-m evaluate -e lost.ckpt -t test-clean",
            "/nowhere/lost.safetensors of this experiment is not there any more; say where",
        ),
    ],
)
def test_a_mistake_ends_in_a_sentence_and_exit_code_2(prepared, line, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "voices/dev/wav/id1/clip").mkdir(parents=True)
    (tmp_path / "voices/dev/wav/id1/clip/00001.wav").touch()
    (tmp_path / "empty.yaml").write_text(WITHOUT_TASK)
    (tmp_path / "text.yaml").write_text(WITHOUT_TASK.replace("1.0e-4", "1e-4"))
    (tmp_path / "tag.yaml").write_text("runner: !!int ''\n")
    (tmp_path / "list.yaml").write_text("[1]\n")
    (tmp_path / "bare.yaml").write_text("{runner: {}, downstream_expert: {}}\n")
    args = {"upstream": "pruned_wavlm", "upstream_ckpt": "/nowhere/lost.safetensors", "downstream": "asr"}
    config = yaml.safe_load(downstream_config_path("asr").read_text())
    torch.save({"Args": Namespace(expdir="run", **args), "Config": config}, tmp_path / "lost.ckpt")
    torch.save({"Config": config}, tmp_path / "weights.ckpt")
    (tmp_path / "cut").mkdir()
    for path in (tmp_path / "cut.ckpt", tmp_path / "cut/states-4.ckpt"):  # a training that was killed while it saved
        path.write_bytes((tmp_path / "lost.ckpt").read_bytes()[:-100])
    monkeypatch.setattr("builtins.isinstance", isinstance)  # s3prl's main exchanges it
    monkeypatch.setattr("sys.argv", ["run_downstream.py"])
    with pytest.raises(SystemExit) as ended:
        run_downstream.main(line.split())
    assert ended.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and words in error


@pytest.mark.parametrize(
    ("task", "key", "corpus"),
    [
        ("ctc -c pr", "corpus.path", "LibriSpeech"),
        ("ctc -c sf", "corpus.path", "SNIPS"),
        ("asr", "datarc.libri_root", "LibriSpeech"),
        ("speech_commands", "datarc.speech_commands_root", "speech_commands_v0.01"),
        ("quesst14_dtw", "datarc.dataset_root", "quesst14Database"),
        ("voxceleb1", "datarc.file_path", "VoxCeleb1"),
        ("sv_voxceleb1", "datarc.file_path", "VoxCeleb1"),
        ("fluent_commands", "datarc.file_path", "fluent_speech_commands_dataset"),
        ("emotion", "datarc.root", "IEMOCAP"),
    ],
)
def test_a_folder_that_is_another_than_the_corpus_is_named(prepared, task, key, corpus, tmp_path, monkeypatch, capsys):
    """Even where the lists, which a configuration names apart, are there: s3prl finds no recording, and breaks off."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "data/VoxCeleb1").mkdir(parents=True)
    (tmp_path / "data/VoxCeleb1/veri_test_class.txt").write_text("1 id1/clip/00001.wav\n")
    mode = "evaluate" if task == "quesst14_dtw" else "train"  # it trains nothing
    with pytest.raises(SystemExit) as ended:
        run_downstream.main(f"-m {mode} -u fbank -d {task} -p run -o config.downstream_expert.{key}=other".split())
    assert ended.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"other is not {corpus}: it holds no " in error and f"-o config.downstream_expert.{key}=FOLDER" in error


def test_a_folder_that_is_none_of_diarization_is_named(prepared, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other/84").mkdir(parents=True)
    key = "config.downstream_expert.loaderrc.dev_dir"
    with pytest.raises(SystemExit) as ended:
        run_downstream.main(f"-m train -u fbank -d diarization -p run -o {key}=other".split())
    assert ended.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error == (
        f"error: other is no folder of diarization: it holds no segments; say where it is with -o {key}=FOLDER"
    )


@pytest.mark.parametrize(
    ("lost", "line", "words"),
    [
        ("dev-clean", "-m train", "data/LibriSpeech holds no dev-clean, a part of LibriSpeech"),
        ("dev-clean/84/121/84-121.trans.txt", "-m train", "dev-clean holds no SPEAKER/CHAPTER/*.trans.txt"),
        ("train-clean-100/84/121/84-121-0001.flac", "-m train", "1 of 2 recordings of train-clean-100 are missing"),
        ("test-clean", "-m evaluate -t test-clean", "data/LibriSpeech holds no test-clean, a part of LibriSpeech"),
    ],
)
def test_librispeech_of_which_a_part_is_extracted_is_named(prepared, lost, line, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for split in ("train-clean-100", "dev-clean", "test-clean"):
        chapter = tmp_path / "data/LibriSpeech" / split / "84/121"
        chapter.mkdir(parents=True)
        (chapter / "84-121.trans.txt").write_text("84-121-0000 GO ON\n84-121-0001 GO\n")
        for number in range(2):
            soundfile.write(chapter / f"84-121-000{number}.flac", [0.0] * 1600, 16000)
    path = tmp_path / "data/LibriSpeech" / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(SystemExit) as ended:
        run_downstream.main(f"{line} -u fbank -d asr -p run".split())
    assert ended.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and words in error


def test_keyword_spotting_without_noise_is_told_so(prepared, tones, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tones / "train", "train", ignore=lambda *_: ["_background_noise_"])
    roots = {"speech_commands_root": "train", "speech_commands_test_root": tones / "test"}
    override = ",,".join(f"config.downstream_expert.datarc.{key}={path}" for key, path in roots.items())
    with pytest.raises(SystemExit):
        run_downstream.main(["-m", "train", "-u", "fbank", "-d", "speech_commands", "-p", "run", "-o", override])
    assert "train holds no _background_noise_/*.wav" in capsys.readouterr().err.splitlines()[-1]


def test_a_layer_that_is_none_is_named_with_those_there_are(prepared, model_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.yaml").write_text(WITHOUT_TASK)
    line = f"-m train -u pruned_wavlm -k {model_file} -d example -c empty.yaml -p run -l 9"
    with pytest.raises(SystemExit):
        run_downstream.main(line.split())
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert error == "error: there is no layer 9 for -l; the upstream's hidden_states are 0 to 3"


def test_several_overrides_add_up(prepared):
    arguments = prepared("-m train -u fbank -d asr -o config.a=1,,config.b=2 -o config.c=3")
    assert value(arguments, "-o") == "config.a=1,,config.b=2,,config.c=3"


def test_the_sentence_of_a_loader_worker():
    trace = "Caught DataError in DataLoader worker process 0.\nOriginal Traceback ...\n  File x\n"
    error = DataError(trace + "pruned_upstream.errors.DataError: a.wav cannot be read as audio\n")
    assert run_downstream.sentence(error) == "a.wav cannot be read as audio"
    assert run_downstream.sentence(DataError("plain")) == "plain"


def test_keyword_spotting_is_trained_and_evaluated(python, tmp_path, tones, model_file):
    overrides = {
        "runner.total_steps": 12,
        "runner.log_step": 4,
        "runner.eval_step": 12,
        "runner.save_step": 12,
        "optimizer.lr": 0.02,
        "downstream_expert.datarc.num_workers": 1,
        "downstream_expert.datarc.speech_commands_root": tones / "train",
        "downstream_expert.datarc.speech_commands_test_root": tones / "test",
    }
    override = ",,".join(f"config.{key}={setting}" for key, setting in overrides.items())
    model_file = Path(shutil.copy(model_file, tmp_path / "first-place.safetensors"))
    train = ["-m", "train", "-u", "pruned_wavlm", "-k", str(model_file), "-d", "speech_commands", "-p", "run"]
    trained = python(*MODULE, *train, "-o", override, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    accuracies = [line.split()[-1] for line in trained.stdout.splitlines() if line.startswith("test acc: ")]
    assert len(accuracies) == 1 and float(accuracies[0]) > 0.3  # chance is 0.08

    model_file.rename(tmp_path / "second-place.safetensors")
    evaluate = ("-m", "evaluate", "-e", "run/states-12.ckpt", "-k", "second-place.safetensors")
    evaluated = python(*MODULE, *evaluate, cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    assert evaluated.stdout.splitlines()[-1] == f"test acc: {accuracies[0]}"


def test_workers_that_are_spawned_can_import_s3prl(python, tmp_path):
    script = tmp_path / "spawning.py"
    script.write_text(
        "import multiprocessing\n"
        "from pruned_upstream.run_downstream import main\n"
        "def child():\n"
        "    from s3prl import hub\n"
        "if __name__ == '__main__':\n"
        "    worker = multiprocessing.get_context('spawn').Process(target=child)\n"
        "    worker.start(); worker.join(); raise SystemExit(worker.exitcode)\n"
    )
    found = python(str(script), cwd=tmp_path)
    assert found.returncode == 0, found.stderr
