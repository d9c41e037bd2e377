"""The compatibility layer puts back what is missing, once, and takes it away again."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import pickle
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from arpa import ARPA

from pruned_upstream import after_import
from pruned_upstream.errors import PrunedUpstreamError
from pruned_upstream.s3prl_plugin import audio_io, catalyst_sampler, compat

pytest.importorskip("s3prl")


@pytest.fixture
def layer():
    """The layer applied, and taken away after the test unless it was there before."""
    already = compat._applied
    compat.apply()
    yield
    if not already:
        compat.remove()


@pytest.fixture
def bare():
    """No layer, whatever ran before."""
    already = compat._applied
    compat.remove()
    yield
    compat.remove()
    if already:
        compat.apply()


def test_what_s3prl_names_is_there(layer):
    import huggingface_hub
    import torchaudio
    from torchaudio.sox_effects import apply_effects_file, apply_effects_tensor

    torchaudio.set_audio_backend("sox_io")
    assert all(callable(function) for function in (torchaudio.info, torchaudio.load, torchaudio.save))
    assert callable(apply_effects_file) and callable(apply_effects_tensor)
    assert huggingface_hub.HfFolder and huggingface_hub.Repository


@pytest.mark.parametrize(("weight", "words"), [(0.0, ["CAR"]), (2.0, ["CAT"])])
def test_s3prl_decodes_speech_recognition_with_a_language_model(layer, weight, words, tmp_path, monkeypatch):
    """By s3prl's own decoder, built from the shipped configuration with the language model's two files named."""
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    import flashlight.lib.text.decoder as decoder
    import yaml

    from pruned_upstream.resources import downstream_config_path
    from pruned_upstream.s3prl_plugin.parts.vocabularies import write_asr_dictionary

    assert decoder.KenLM
    monkeypatch.delitem(sys.modules, "s3prl.downstream.asr.w2l_decoder", raising=False)  # imported without the layer?
    from s3prl.downstream.asr.dictionary import Dictionary
    from s3prl.downstream.asr.expert import get_decoder

    (tmp_path / "lm.arpa").write_text(ARPA)
    (tmp_path / "words.lst").write_text("CAT C A T |\nCAR C A R |\n")
    dictionary = Dictionary.load(str(write_asr_dictionary(tmp_path / "char.dict")))
    settings = yaml.safe_load(downstream_config_path("asr").read_text())["downstream_expert"]["datarc"]["decoder_args"]
    files = {"kenlm_model": str(tmp_path / "lm.arpa"), "lexicon": str(tmp_path / "words.lst")}
    changed = {"decoder_type": "kenlm", "unk_weight": "float('-inf')", "lm_weight": weight}
    heard = torch.full((1, 4, len(dictionary)), -9.0)
    for frame, letter in enumerate("CAR|"):
        heard[0, frame, dictionary.index(letter)] = -0.5
    heard[0, 2, dictionary.index("T")] = -1.0  # nearly as loud
    ((best, *_),) = get_decoder({**settings, **files, **changed}, dictionary).decode(heard)
    assert best["words"] == words


def test_torchaudio_is_imported_where_its_extension_cannot_be_loaded(tmp_path):
    import shutil
    import subprocess

    installed = importlib.util.find_spec("torchaudio").submodule_search_locations[0]
    shutil.copytree(installed, tmp_path / "torchaudio", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (tmp_path / "torchaudio" / "lib" / "_torchaudio.abi3.so").write_bytes(b"no library")
    layer = "from pruned_upstream.s3prl_plugin import compat; compat.apply()"
    code = f"{layer}; import torchaudio; print(torchaudio.__file__)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.getcwd()])}
    plain = subprocess.run([sys.executable, "-c", "import torchaudio"], env=environment, capture_output=True, text=True)
    assert "OSError" in plain.stderr  # as beside a torch of another build
    mended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert mended.returncode == 0 and str(tmp_path) in mended.stdout, mended.stderr


def test_torchaudio_computes_without_its_extension(layer):
    import torchaudio

    frames = torchaudio.compliance.kaldi.fbank(torch.ones(1, 800))
    assert frames.shape == (3, 23)
    resampled = torchaudio.transforms.Resample(8000, 16000)(torch.ones(1, 80))
    assert resampled.shape == (1, 160)


def test_applying_twice_changes_nothing(layer):
    import torchaudio

    before = dict(vars(torchaudio))
    compat.apply()
    assert dict(vars(torchaudio)) == before


def test_taken_away_again(bare):
    compat.apply()
    import huggingface_hub
    import torchaudio

    assert torchaudio.load is audio_io.load or hasattr(torchaudio, "list_audio_backends")
    compat.remove()
    assert torchaudio.load is not audio_io.load
    assert getattr(huggingface_hub, "HfFolder", None) is not compat._RemovedFromHub
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


def test_removed_hub_classes_refuse_with_a_sentence(layer):
    import huggingface_hub

    if huggingface_hub.Repository is not compat._RemovedFromHub:
        pytest.skip("this huggingface_hub still has them")
    with pytest.raises(PrunedUpstreamError, match="below 1.0"):
        huggingface_hub.Repository("somewhere")
    with pytest.raises(PrunedUpstreamError, match="below 1.0"):
        huggingface_hub.HfFolder.save_token("secret")


def test_checkpoints_with_arguments_load_and_code_does_not_run(layer, tmp_path):
    torch.save({"Args": argparse.Namespace(upstream="fbank")}, tmp_path / "states-1.ckpt")
    assert torch.load(tmp_path / "states-1.ckpt", weights_only=True)["Args"].upstream == "fbank"
    torch.save({"Args": RunsCode(str(tmp_path / "ran"))}, tmp_path / "evil.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "evil.ckpt", weights_only=True)
    assert not (tmp_path / "ran").exists()


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_verification_stays_on_the_device_of_its_features(bare):
    """`.cuda()` inside the task's forward goes to the features' device, outside of it is what it was."""

    class DownstreamExpert:
        def forward(self, mode, features, *, fail=False):
            if fail:
                raise ValueError("inside")
            return torch.zeros(1, device="cpu").cuda().device

    expert = SimpleNamespace(DownstreamExpert=DownstreamExpert)
    compat._verification_on_any_device(expert)
    original = torch.Tensor.cuda
    assert expert.DownstreamExpert().forward("train", [torch.zeros(2, device="meta")]).type == "meta"
    assert torch.Tensor.cuda is original
    with pytest.raises(ValueError, match="inside"):
        expert.DownstreamExpert().forward("train", [torch.zeros(2)], fail=True)
    assert torch.Tensor.cuda is original


@pytest.mark.parametrize("shuffle", [False, True])
def test_drawn_samples_are_dealt_to_the_processes(shuffle):
    drawing = torch.utils.data.SequentialSampler(range(100, 110))  # draws positions 0 to 9
    processes = [catalyst_sampler.DistributedSamplerWrapper(drawing, 2, rank, shuffle) for rank in range(2)]
    dealt = [list(process) for process in processes]
    assert [len(share) for share in dealt] == [5, 5] == [len(process) for process in processes]
    assert sorted(dealt[0] + dealt[1]) == list(range(10))
    if not shuffle:
        assert dealt == [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]


def test_the_dealing_is_catalysts(bare):
    sampler = pytest.importorskip("catalyst.data.sampler")
    weights = torch.arange(1.0, 8.0)
    for rank in range(3):
        dealt = []
        for wrapper in (sampler.DistributedSamplerWrapper, catalyst_sampler.DistributedSamplerWrapper):
            torch.manual_seed(rank)
            drawing = torch.utils.data.WeightedRandomSampler(weights, 20)
            process = wrapper(drawing, 3, rank, True)
            process.set_epoch(4)
            torch.manual_seed(7)
            dealt.append(list(process))
        assert dealt[0] == dealt[1]


def test_a_missing_catalyst_is_stood_in_for(bare, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "catalyst" else found(name, *rest)
    )
    for name in [name for name in sys.modules if name.partition(".")[0] == "catalyst"]:
        monkeypatch.delitem(sys.modules, name)
    compat.apply()
    from catalyst.data.sampler import DistributedSamplerWrapper

    assert DistributedSamplerWrapper is catalyst_sampler.DistributedSamplerWrapper
    compat.remove()
    assert "catalyst" not in sys.modules


@pytest.fixture
def fresh_module(tmp_path, monkeypatch):
    """A module that nothing has imported yet."""
    (tmp_path / "late_comer.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "late_comer"
    sys.modules.pop("late_comer", None)


def test_actions_happen_around_an_import(fresh_module):
    happened = []
    after_import.before(fresh_module, lambda: happened.append("before"))
    after_import.after(fresh_module, lambda module: happened.append(module.value))
    assert happened == []
    module = __import__(fresh_module)
    assert happened == ["before", 1]
    assert isinstance(module, ModuleType) and type(module.__loader__).__name__ == "SourceFileLoader"
    after_import.after(fresh_module, lambda module: happened.append("at once"))
    assert happened == ["before", 1, "at once"]


def test_an_action_is_added_once_and_can_be_cancelled(fresh_module):
    happened = []

    def first(module):
        happened.append("first")

    def second(module):
        happened.append("second")

    for action in (first, first, second):
        after_import.after(fresh_module, action)
    after_import.cancel(fresh_module, second)
    __import__(fresh_module)
    assert happened == ["first"]


def test_warnings_about_programs_that_no_task_needs_are_left_out(layer, caplog):
    logger = logging.getLogger("sox")
    logger.warning("SoX could not be found! If you do not have SoX, proceed here")
    logger.warning("this file has two channels")
    assert caplog.messages == ["this file has two channels"]
