"""Recipes and configs by bare name."""

from __future__ import annotations

import pytest
import yaml

from pruned_upstream.errors import ConfigError
from pruned_upstream.resources import DOWNSTREAM_CONFIGS, downstream_config_path, names, recipe_path
from pruned_upstream.superb.tasks import TASKS


def test_every_task_has_its_config():
    assert names(DOWNSTREAM_CONFIGS) == sorted(TASKS)


def test_a_name_a_name_with_suffix_and_a_path_are_the_same():
    path = downstream_config_path("ks")
    assert downstream_config_path("ks.yaml") == downstream_config_path(path) == path


def test_unknown_names_are_answered_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="did you mean asr?"):
        downstream_config_path("asrr")
    with pytest.raises(ConfigError, match="there is no recipe no/such/file.yaml"):
        recipe_path("no/such/file.yaml")


# s3prl.downstream/*/config.yaml: learning rate, steps, utterances per step
OFFICIAL = {
    "pr": (1e-2, 100_000, 32),
    "asr": (1e-4, 200_000, 32),
    "ks": (1e-4, 200_000, 32),
    "sid": (1e-4, 200_000, 32),
    "sv": (1e-4, 200_000, 50),
    "sd": (1e-4, 30_000, 32),
    "ic": (1e-4, 200_000, 32),
    "sf": (1e-4, 200_000, 32),
    "er": (1e-4, 30_000, 32),
}


@pytest.mark.parametrize("name", sorted(OFFICIAL))
def test_configs_hold_the_official_hyper_parameters(name):
    config = yaml.safe_load(downstream_config_path(name).read_text())
    expert = config["downstream_expert"]
    data = expert.get("loaderrc") or expert.get("datarc") or expert["corpus"]
    batch = data.get("train_batch_size") or data.get("train_batchsize") or data["batch_size"]
    runner = config["runner"]
    found = (config["optimizer"]["lr"], runner["total_steps"], batch * runner["gradient_accumulate_steps"])
    assert found == OFFICIAL[name]
    assert TASKS[name].steps == runner["total_steps"]
