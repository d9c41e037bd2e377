"""Every training step on a device that is not the CPU, without one: nothing mixes, and what crosses is counted."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from tiny import SHAPES, random_encoder, unequal_waveforms
from traffic import META, Traffic
from training.steps import METHODS, Steps

from pruned_upstream.model import waveforms
from pruned_upstream.model.checkpoint import save
from pruned_upstream.pruning.gates import Gates, GateSettings
from pruned_upstream.s3prl_plugin.expert import UpstreamExpert
from pruned_upstream.training.loop import Trainer
from pruned_upstream.training.processes import Processes

# host to device, of a step with one part: waveforms and lengths, and
UPLOADS = {
    "pruning": 3,  # the noise of all gates
    "second_stage": 2,
    "distillation": 2,
    "parp": 5,  # no lengths, but the labels, which frames are padding, and which frames and channels are hidden
    "pretraining": 4,  # which frames are hidden, and their units
}
READ_BACKS = {
    "pruning": 1,  # which layers are nearest
    "second_stage": 1,
    "parp": 1,  # how many weights came back, where masks are chosen anew: after this step they are
}


def step(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> Traffic:
    """The traffic of the second step, in which everything that is made once is there already."""
    monkeypatch.setattr(Trainer, "_autocast", lambda self: nullcontext())  # which this device has not
    for number in (0, 1):
        with Traffic() as traffic:
            trainer.step(number, trainer.batches[number])
    return traffic


@pytest.fixture
def on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainers can be built for the meta device, for which torch has no fused optimiser."""
    adamw = torch.optim.AdamW
    monkeypatch.setattr(torch.optim, "AdamW", lambda *args, fused, **options: adamw(*args, **options))
    monkeypatch.setattr(Trainer, "_check_agreement", lambda self: None)  # reads back, once per run


@pytest.mark.parametrize("family", sorted(SHAPES))
@pytest.mark.parametrize("method", METHODS)
def test_what_a_step_moves(method, family, recipe, tmp_path, on_meta, monkeypatch) -> None:
    if method == "pretraining":
        pytest.importorskip("librosa")
    if method in ("pretraining", "parp") and SHAPES[family].family == "whisper":
        pytest.skip("Whisper's encoder is pruned and distilled alone")
    trainer = Steps(SHAPES[family], recipe, tmp_path).trainer(method, META)
    traffic = step(trainer, monkeypatch)
    assert len(traffic.uploads) == UPLOADS[method], traffic.uploads
    assert not traffic.waiting
    assert len(traffic.read_backs) == READ_BACKS.get(method, 0), traffic.read_backs
    assert all(metric.device == META for metric in trainer.objective.metrics().values())


def test_parts_of_a_step_are_read_back_once(recipe, tmp_path, on_meta, monkeypatch) -> None:
    trainer = Steps(SHAPES["wavlm"], recipe, tmp_path, **{"optimisation.accumulation": 2}).trainer("pruning", META)
    traffic = step(trainer, monkeypatch)
    assert len(traffic.read_backs) == 1, traffic.read_backs
    assert len(traffic.uploads) == 1 + 2 * 2 * 2, traffic.uploads  # noise; both parts, encoded twice


@pytest.mark.parametrize("family", sorted(SHAPES))
def test_gates_of_channels(family, recipe, tmp_path, on_meta, monkeypatch) -> None:
    changes = {"gates.conv": True, "gates.fine_grained": False, "sparsity.scope": "everything"}
    traffic = step(Steps(SHAPES[family], recipe, tmp_path, **changes).trainer("pruning", META), monkeypatch)
    assert (len(traffic.uploads), len(traffic.read_backs)) == (3, 1)


def test_a_report_reads_back_once(recipe, tmp_path, on_meta, monkeypatch) -> None:
    trainer = Steps(SHAPES["wavlm"], recipe, tmp_path).trainer("pruning", META)
    step(trainer, monkeypatch)
    with Traffic() as traffic, pytest.raises(Exception, match="no recording"):  # of which zeros are all that comes back
        trainer._report(None)
    assert len(traffic.read_backs) == 1 and not traffic.uploads


def test_the_counter_counts() -> None:
    """What would be missed if the meta device behaved otherwise than it is trusted to."""
    x = torch.ones(3, device=META)
    with Traffic() as traffic:
        x.tolist(), x.sum().item(), bool(x[0] > 0), x.cpu()
        torch.tensor([1.0], device=META), x.new_tensor([1.0]), torch.zeros(2).to(META), x.copy_(torch.zeros(3))
        torch.full((), 1.0, device=META), torch.as_tensor(x)
        with pytest.raises(AssertionError, match="mixes devices"):
            x[torch.tensor([0])]
        with pytest.raises(NotImplementedError):
            x[x > 0]
        torch.zeros(2).to(META, non_blocking=True), x.copy_(torch.zeros(3), non_blocking=True)
    assert (len(traffic.read_backs), len(traffic.uploads), len(traffic.waiting)) == (4, 6, 4)


def test_pinning_is_for_gpus_alone() -> None:
    wav = torch.ones(3)
    assert Processes().to_device(wav) is wav
    assert Processes(device=META).to_device(wav).device == META


@pytest.mark.parametrize("family", sorted(SHAPES))
@torch.no_grad()
def test_an_encoder_of_any_family(family) -> None:
    """Dense, gated and compact, padded and not: with the lengths alone copied, and nothing read back."""
    encoder = random_encoder(SHAPES[family]).to(META)
    gates = Gates(SHAPES[family], GateSettings(conv=True)).to(META).sample().gates
    wavs = [wav.to(META) for wav in unequal_waveforms()]
    for given in (None, gates):
        with Traffic() as traffic:
            encoder(*encoder.prepare(wavs), gates=given)
        assert (len(traffic.uploads), traffic.read_backs) == (1, [])


@pytest.mark.parametrize("family", sorted(SHAPES))
@torch.no_grad()
def test_the_upstream(family, tmp_path, monkeypatch) -> None:
    """What superb's tasks ask for: waveforms that lie on the device already."""
    monkeypatch.setattr(waveforms, "without_values", lambda tensor: False)
    save(tmp_path / "model.safetensors", random_encoder(SHAPES[family]))
    expert = UpstreamExpert(tmp_path / "model.safetensors").to(META).eval()
    wavs = [wav.to(META) for wav in unequal_waveforms()]
    with Traffic() as traffic:
        states = expert(wavs)["hidden_states"]
    assert len(states) == SHAPES[family].num_layers + 1 and states[0].device == META
    assert (len(traffic.uploads), len(traffic.read_backs)) == (1, 1), traffic  # lengths; whether all is finite
