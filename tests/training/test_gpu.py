"""Every path on a GPU against the CPU. Two superb tasks are in tests/superb/test_superb_with_s3prl.py.

pytest -m gpu                                         where a GPU is
PRUNED_UPSTREAM_GPU_TESTS=cpu pytest -m gpu           whether the tests themselves are right, anywhere
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tiny import SHAPES, largest_difference, random_encoder, unequal_waveforms
from training.launching import ctrl_c_after, read_state
from training.steps import METHODS, Steps

from pruned_upstream.model.checkpoint import load, save
from pruned_upstream.model.gating import EncoderGates
from pruned_upstream.model.graphs import FrameGraphs
from pruned_upstream.pruning.compaction import TOLERANCE, compact, full_precision, verify
from pruned_upstream.pruning.gates import Gates, GateSettings
from pruned_upstream.s3prl_plugin.expert import Options, UpstreamExpert
from pruned_upstream.training.processes import Processes
from pruned_upstream.training.prune import run_prune

pytestmark = pytest.mark.gpu
DEVICE = os.environ.get("PRUNED_UPSTREAM_GPU_TESTS", "cuda")
CPU = torch.device("cpu")
STEPS = 3
LOSS = 1e-3  # relative difference of losses in single precision, GPU against CPU, over STEPS updates
LOSS_BF16 = 0.05


@pytest.fixture(autouse=True)
def device() -> Iterator[torch.device]:
    if DEVICE == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    with full_precision():
        yield torch.device(DEVICE)


def losses(steps: Steps, method: str, device: torch.device) -> list[float]:
    trainer = steps.trainer(method, device)
    found = []
    for number in range(STEPS):
        trainer.step(number, trainer.batches[number])
        found.append(trainer.objective.metrics()["loss"].item())
    return found


def families() -> list[str]:
    return sorted(name for name in SHAPES if SHAPES[name].family != "whisper")


@pytest.mark.parametrize("family", families())
@pytest.mark.parametrize("method", METHODS)
def test_training_steps(method, family, recipe, tmp_path, device) -> None:
    steps = Steps(SHAPES[family], recipe, tmp_path)
    assert losses(steps, method, device) == pytest.approx(losses(steps, method, CPU), rel=LOSS)


@pytest.mark.parametrize("method", METHODS)
def test_training_steps_in_bf16(method, recipe, tmp_path, device) -> None:
    exact = losses(Steps(SHAPES["wavlm"], recipe, tmp_path), method, CPU)
    mixed = losses(Steps(SHAPES["wavlm"], recipe, tmp_path, **{"optimisation.precision": "bf16"}), method, device)
    assert mixed == pytest.approx(exact, rel=LOSS_BF16)


def test_accumulation(recipe, tmp_path, device) -> None:
    whole = losses(Steps(SHAPES["wavlm"], recipe, tmp_path), "pruning", device)
    parts = losses(Steps(SHAPES["wavlm"], recipe, tmp_path, **{"optimisation.accumulation": 2}), "pruning", device)
    assert parts == pytest.approx(whole, rel=LOSS)


def test_a_whole_run_with_workers_resumes(recipe, tmp_path: Path, device) -> None:
    """Through pinned batches of loader processes, a stop, the cut and the file."""
    options = {"run.device": str(device), "data.workers": 2, "second_stage.steps": 3}
    whole = load(run_prune(recipe(**options | {"run.folder": str(tmp_path / "whole")})))
    with ctrl_c_after(3):
        run_prune(recipe(**options))
    assert read_state(tmp_path / "run")["step"] == 3
    resumed = load(run_prune(recipe(**options)))
    assert resumed.config == whole.config
    # not the weights: those whose gradient is rounding alone, such as a key's bias, go either way on a GPU
    with torch.no_grad():
        found, expected = (model.extract(unequal_waveforms()) for model in (resumed, whole))
    assert largest_difference(found.hidden_states, expected.hidden_states, expected.padding_mask) < 1e-3


def test_one_process_of_nccl(tmp_path, device) -> None:
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=0, world_size=1, store=dist.FileStore(str(tmp_path / "store"), 1))
    try:
        alone = Processes(rank=0, world=2, device=device)  # as if others were there, so that it asks
        assert alone.sum_(torch.arange(3.0, device=device)).tolist() == [0.0, 1.0, 2.0]
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("family", sorted(SHAPES))
def test_encoders(family, device) -> None:
    """Dense, gated and compact: the GPU's hidden states against the CPU's."""
    encoder = random_encoder(SHAPES[family])
    gates = Gates(SHAPES[family], GateSettings()).deterministic(-1.0)
    smaller = compact(encoder, gates)
    wavs = unequal_waveforms()
    with torch.no_grad():
        for model in (encoder, smaller):
            expected = model.extract(wavs)
            found = copy.deepcopy(model).to(device).extract([wav.to(device) for wav in wavs])
            states = [state.cpu() for state in found.hidden_states]
            assert largest_difference(states, expected.hidden_states, expected.padding_mask) < 1e-4


@pytest.mark.parametrize("allowed", ["ieee", "tf32"])
def test_compaction_is_verified_where_tf32_is_allowed(allowed, device) -> None:
    torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = allowed
    encoder = random_encoder(SHAPES["wavlm_prenorm"]).to(device)
    gates: EncoderGates = Gates(encoder.config, GateSettings(conv=True)).to(device).deterministic(-1.0)
    batch = encoder.prepare([wav.to(device) for wav in unequal_waveforms()])
    assert verify(encoder, gates, compact(encoder, gates), [batch]) <= TOLERANCE
    assert torch.backends.cudnn.enabled and torch.backends.cuda.matmul.fp32_precision == allowed


OPTIONS = [Options(), Options(precision="bf16"), Options(graphs=True), Options(precision="bf16", graphs=True)]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("layers", ["dense", "ragged"])
def test_the_upstream(layers, options, tmp_path, device) -> None:
    encoder = random_encoder(SHAPES["wavlm"])
    if layers == "ragged":
        encoder = compact(encoder, Gates(encoder.config, GateSettings()).deterministic(-1.0))
    save(tmp_path / "model.safetensors", encoder)
    wavs = unequal_waveforms()
    expert = UpstreamExpert(tmp_path / "model.safetensors", options=options).to(device).eval()
    limit = 0.05 if options.precision == "bf16" else 1e-4
    with torch.no_grad():
        expected = encoder.extract(wavs)
        for _ in range(2):  # the second time a graph is replayed
            found = expert([wav.to(device) for wav in wavs])["hidden_states"]
            states = [state.cpu() for state in found]
            assert largest_difference(states, expected.hidden_states, expected.padding_mask) < limit


@pytest.mark.parametrize("front_end", [False, True], ids=["transformer", "front end too"])
def test_compiled_without_breaks(front_end, device) -> None:
    encoder = random_encoder(SHAPES["wavlm"])
    smaller = compact(encoder, Gates(encoder.config, GateSettings(conv=front_end)).deterministic(-1.0)).to(device)
    waveforms, lengths = smaller.prepare([wav.to(device) for wav in unequal_waveforms()])
    backend = "inductor" if device.type == "cuda" else "eager"
    with torch.no_grad():
        expected = smaller(waveforms, lengths)
        compiled = torch.compile(smaller, fullgraph=True, backend=backend)
        found = compiled(waveforms, lengths).hidden_states
    assert largest_difference(found, expected.hidden_states, expected.padding_mask) < 1e-4


@pytest.mark.skipif(DEVICE != "cuda", reason="CUDA graphs are CUDA's")
@pytest.mark.parametrize("family", sorted(SHAPES))
@torch.no_grad()
def test_cuda_graphs(family, device) -> None:
    plain = random_encoder(SHAPES[family]).to(device)
    replayed = copy.deepcopy(plain)
    replayed.graphs = FrameGraphs(bucket=16, most=2)
    for lengths in ((1600,), (1600, 1111, 640), (640, 500, 640), (1599,), (1600,), (400,), (1600,)):
        wavs = [wav.to(device) for wav in unequal_waveforms(lengths)]
        found, expected = replayed.extract(wavs), plain.extract(wavs)
        assert largest_difference(found.hidden_states, expected.hidden_states, expected.padding_mask) < 1e-5
