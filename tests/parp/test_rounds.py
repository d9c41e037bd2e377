"""When each method prunes, that pruned weights revive in PARP alone, and that any torch module will do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pruned_upstream.errors import ConfigError
from pruned_upstream.parp.masks import magnitude_masks, prunable_weights, sparsity_of, zeros
from pruned_upstream.parp.rounds import METHODS, ParpSettings, Pruner, Round, rounds_of

STEPS = 12


class Network(nn.Module):
    """Two matrices, of which one is pruned or both are."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc1 = nn.Linear(6, 10)
        self.fc2 = nn.Linear(10, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(torch.tanh(self.fc1(x)))


def train(
    round_: Round, *, every: int = 3, frozen: int = 0, steps: int = STEPS, **options
) -> tuple[Pruner, list[dict]]:
    """The pruner after training by Adam with decay and momentum, and what it said after each update."""
    model = Network()
    pruner = Pruner(prunable_weights(model, ["fc1", "fc2"]), round_, steps=steps, every=every, frozen=frozen, **options)
    pruner.start(pruner.first_masks(seed=0))
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    generator = torch.Generator().manual_seed(1)
    history = []
    for done in range(1, steps + 1):
        optimiser.zero_grad()
        x = torch.randn(8, 6, generator=generator)
        (model(x) - x[:, :2] * x[:, 2:4]).square().mean().backward()
        pruner.after_backward()
        pruned = torch.cat([weight.grad[~pruner.masks[name]] for name, weight in pruner.weights.items()])
        if done > frozen:
            optimiser.step()
        masks = pruner.masks
        pruner.after_update(done)
        nonzero = sum(int(weight.count_nonzero()) for weight in pruner.weights.values())
        history.append({"gradient": pruned.abs().sum().item(), "alive": nonzero, "chosen": pruner.masks is not masks})
    return pruner, history


def total(pruner: Pruner) -> int:
    return sum(weight.numel() for weight in pruner.weights.values())


def test_pruned_weights_revive_in_parp() -> None:
    pruner, history = train(Round("magnitude", 0.5, 0.5, adjusts=True))
    first = magnitude_masks(prunable_weights(Network(), ["fc1", "fc2"]), 0.5)
    revived = sum(int((pruner.masks[name] & ~mask).sum()) for name, mask in first.items())
    assert revived > 0
    assert all(row["gradient"] > 0 for row in history)
    assert [row["chosen"] for row in history] == [False, False, True] * 4
    left = total(pruner) - zeros(0.5, total(pruner))
    assert all(row["alive"] == left for row in history if row["chosen"])
    assert all(row["alive"] > left for row in history if not row["chosen"])  # what was pruned has moved since


def test_none_revives_in_mpi() -> None:
    pruner, history = train(Round("magnitude", 0.5, 0.5))
    first = magnitude_masks(prunable_weights(Network(), ["fc1", "fc2"]), 0.5)
    assert all(torch.equal(pruner.masks[name], mask) for name, mask in first.items())
    left = total(pruner) - zeros(0.5, total(pruner))
    assert all(row == {"gradient": 0.0, "alive": left, "chosen": False} for row in history)
    assert pruner.revived == 0


def test_pruning_waits_for_a_frozen_network() -> None:
    _, history = train(Round("magnitude", 0.5, 0.5, adjusts=True), every=2, frozen=5)
    assert [done for done, row in enumerate(history, 1) if row["chosen"]] == [7, 9, 11, 12]


@pytest.mark.parametrize("every", [1, 5, 100])
def test_the_end_is_exact_whatever_the_interval(every: int) -> None:
    pruner, history = train(Round("magnitude", 0.7, 0.7, adjusts=True), every=every)
    assert history[-1]["alive"] == total(pruner) - zeros(0.7, total(pruner))
    assert sparsity_of(pruner.masks) == zeros(0.7, total(pruner)) / total(pruner)


def test_sparsity_rises_in_parp_p() -> None:
    (round_,) = rounds_of(ParpSettings(method="parp_p", sparsity=0.8, initial_sparsity=0.4))
    pruner = Pruner({}, round_, steps=110, frozen=10, rise=0.5)
    assert [pruner.sparsity(done) for done in (0, 10, 35, 60, 110)] == pytest.approx([0.4, 0.4, 0.6, 0.8, 0.8])
    pruner, history = train(round_, every=3)
    alive = [row["alive"] for row in history if row["chosen"]]
    assert alive == sorted(alive, reverse=True)
    assert alive[0] > alive[-1] == total(pruner) - zeros(0.8, total(pruner))


def test_a_schedule_that_never_has_time_to_rise_still_ends_exactly() -> None:
    pruner, _ = train(Round("magnitude", 0.2, 0.6, adjusts=True), every=50, rise=1.0)
    assert sparsity_of(pruner.masks) == zeros(0.6, total(pruner)) / total(pruner)


def test_methods_as_rounds() -> None:
    def plan(method: str, **options) -> list[tuple]:
        found = rounds_of(ParpSettings(method=method, sparsity=0.75, **options))
        return [(s.mask, round(s.initial, 6), s.sparsity, s.adjusts, s.fresh) for s in found]

    dense = ("none", 0.0, 0.0, False, True)
    assert plan("dense") == [dense]
    assert plan("rpi") == [("random", 0.75, 0.75, False, True)]
    assert plan("mpi") == [("magnitude", 0.75, 0.75, False, True)]
    assert plan("parp") == [("magnitude", 0.75, 0.75, True, True)]
    assert plan("parp_p") == [("magnitude", 0.375, 0.75, True, True)]
    assert plan("omp") == [dense, ("magnitude", 0.75, 0.75, False, False)]
    assert plan("omp", rewind=True) == [dense, ("magnitude", 0.75, 0.75, False, True)]
    assert plan("imp", rounds=2) == [
        dense,
        ("magnitude", 0.5, 0.5, False, True),
        ("magnitude", 0.75, 0.75, False, True),
    ]


def test_state_travels() -> None:
    pruner, _ = train(Round("magnitude", 0.5, 0.5, adjusts=True))
    other = Pruner(pruner.weights, pruner.round, steps=STEPS)
    other.load_state_dict(pruner.state_dict())
    assert all(torch.equal(other.masks[name], mask) for name, mask in pruner.masks.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "prap"}, "parp.method is 'prap'; it must be one of dense, rpi"),
        ({"sparsity": 1.0}, "parp.sparsity is 1.0"),
        ({"modules": []}, "parp.modules"),
        ({"scope": "layer"}, "parp.scope is 'layer'"),
        ({"every": 0}, "parp.every"),
        ({"rounds": 0}, "parp.rounds"),
        ({"rise": 0.0}, "parp.rise"),
        ({"initial_sparsity": 0.6}, "parp.initial_sparsity is 0.6; it must be from 0 to parp.sparsity"),
        ({"method": "omp", "mask": "x"}, "parp.mask is 'x'; it must be null, since omp makes its own"),
    ],
)
def test_impossible_settings(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ParpSettings(**options).check()


def test_masks_from_elsewhere_must_fit() -> None:
    weights = prunable_weights(Network(), ["fc1", "fc2"])
    pruner = Pruner(weights, Round("magnitude", 0.5, 0.5), steps=STEPS)
    fitting = magnitude_masks(weights, 0.5)
    assert pruner.check(fitting, "a file").keys() == fitting.keys()
    with pytest.raises(ConfigError, match="not of the weights"):
        pruner.check({"fc1.weight": fitting["fc1.weight"]}, "a file")
    with pytest.raises(ConfigError, match=r"sparsity of 0\.7000 and the run starts with 0\.5000"):
        pruner.check(magnitude_masks(weights, 0.7), "a file")


@pytest.mark.parametrize("method", [method for method in METHODS if method not in ("omp", "imp")])
def test_any_torch_module_will_do(method: str) -> None:
    """The paper prunes BERT and XLNet with the same schedule."""
    pytest.importorskip("pruned_upstream.s3prl_plugin.compat").apply()  # transformers imports torchaudio
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, num_labels=2
    )
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config).train()
    weights = prunable_weights(model.bert.encoder, ["query", "key", "value", "dense"])
    (round_,) = rounds_of(ParpSettings(method=method, sparsity=0.6))
    pruner = Pruner(weights, round_, steps=40, every=4)
    pruner.start(pruner.first_masks(seed=0))
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    words = torch.randint(0, 30, (32, 6), generator=torch.Generator().manual_seed(0))
    labels = (words[:, 1] > 14).long()
    losses = []
    for done in range(1, 41):
        optimiser.zero_grad()
        loss = model(input_ids=words, labels=labels).loss
        loss.backward()
        losses.append(loss.item())
        pruner.after_backward()
        optimiser.step()
        pruner.after_update(done)
    count = sum(weight.numel() for weight in weights.values())
    target = 0.0 if method == "dense" else 0.6
    assert sum(int((weight == 0).sum()) for weight in weights.values()) == zeros(target, count)
    assert sum(losses[-5:]) / 5 < 0.6 * losses[0]
