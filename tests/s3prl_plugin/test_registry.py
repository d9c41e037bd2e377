"""The names behind -u."""

from __future__ import annotations

from types import ModuleType

import pytest

from pruned_upstream.errors import CheckpointError
from pruned_upstream.s3prl_plugin import registry


@pytest.fixture
def hub():
    hub = ModuleType("hub")
    registry.add_entries(hub)
    return hub


def test_every_name_is_a_function_of_that_name(hub):
    names = ["pruned_upstream", "pruned_wavlm", "pruned_hubert", "pruned_wav2vec2", "pruned_data2vec"]
    for name in [*names, "distil_wavlm", "parp_wav2vec2"]:
        assert getattr(hub, name).__name__ == name


@pytest.mark.parametrize("name", ["pruned_upstream", "pruned_wavlm", "distil_wavlm"])
def test_a_wavlm_is_taken(hub, name, model_file):
    assert getattr(hub, name)(ckpt=str(model_file)).model.config.family == "wavlm"


@pytest.mark.parametrize("name", ["pruned_hubert", "pruned_wav2vec2", "pruned_data2vec", "parp_wav2vec2"])
def test_another_family_is_refused(hub, name, model_file):
    with pytest.raises(CheckpointError, match=f"family wavlm, and the upstream {name} takes"):
        getattr(hub, name)(ckpt=str(model_file))


def test_without_a_path_the_environment_names_the_file(hub, model_file, monkeypatch):
    monkeypatch.delenv(registry.CHECKPOINT_VARIABLE, raising=False)
    with pytest.raises(CheckpointError, match="name it with -k"):
        hub.pruned_wavlm(ckpt=None, model_config=None, refresh=False)
    monkeypatch.setenv(registry.CHECKPOINT_VARIABLE, str(model_file))
    assert hub.pruned_wavlm(refresh=True).model.config.num_layers == 3


def test_a_separate_configuration_is_refused(hub, model_file):
    with pytest.raises(CheckpointError, match="takes no -g"):
        hub.pruned_wavlm(ckpt=str(model_file), model_config="model.yaml")
