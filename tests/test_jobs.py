"""Work as jobs: results by name, lost ones named, GPUs as this process sees them."""

from __future__ import annotations

import os
from functools import partial

import pytest

from pruned_upstream.errors import ConfigError, DataError
from pruned_upstream.jobs import Failure, Resumable, _own_gpus, run_jobs


def refuse() -> None:
    raise DataError("no speech in corpora/speech")


def test_results_come_by_name_in_the_order_of_the_work(tmp_path):
    told = []
    results = run_jobs(
        {"b": partial(int, "2"), "lost": refuse, "a": partial(int, "1")},
        tmp_path / "jobs",
        "debug",
        {},
        name="test",
        at_once=1,
        ended=lambda name, result: told.append((name, result)),
    )
    assert list(results.items()) == told
    assert results == {"b": 2, "lost": Failure("no speech in corpora/speech"), "a": 1}


def test_a_process_that_dies_is_lost_with_the_end_of_its_log(tmp_path):
    results = run_jobs({"dead": partial(os._exit, 3)}, tmp_path / "jobs", "local", {}, name="test")
    assert isinstance(results["dead"], Failure) and results["dead"].reason


def test_an_interruption_ends_the_waiting(tmp_path):
    done = []

    def stop(name: str, result: object) -> None:
        done.append(name)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs({"a": int, "b": int}, tmp_path / "jobs", "debug", {}, name="test", at_once=1, ended=stop)
    assert done == ["a"]


@pytest.mark.parametrize(
    ("launcher", "parameters", "complaint"),
    [("pbs", {}, "unknown launcher 'pbs'"), ("debug", {"slurm_partitoin": "gpu"}, "submitit refuses")],
)
def test_mistakes_are_sentences(tmp_path, launcher, parameters, complaint):
    with pytest.raises(ConfigError, match=complaint):
        run_jobs({"a": int}, tmp_path, launcher, parameters, name="test")


def test_local_jobs_see_the_gpus_of_this_process(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert _own_gpus("local", {}) == {"CUDA_VISIBLE_DEVICES": "2,3"}
    assert _own_gpus("local", {"gpus_per_node": 1}) == _own_gpus("slurm", {}) == {}
    job = Resumable(partial(os.environ.get, "CUDA_VISIBLE_DEVICES"), _own_gpus("local", {}))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # as submitit sets it
    assert job() == "2,3"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    job = Resumable(partial(os.environ.get, "CUDA_VISIBLE_DEVICES"), _own_gpus("local", {}))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert job() is None
