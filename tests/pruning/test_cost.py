"""What is priced: expected and counted cost agree for every pattern of gates, in MACs and in time."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import SHAPES, tiny_config

from pruned_upstream.description.macs import official_macs
from pruned_upstream.errors import ConfigError
from pruned_upstream.model.config import EncoderConfig, Head, TransformerLayer, wavlm_base_config
from pruned_upstream.model.encoder import Encoder
from pruned_upstream.pruning import latency_table
from pruned_upstream.pruning.compaction import compact_config
from pruned_upstream.pruning.cost import Macs, cost_of
from pruned_upstream.pruning.gates import Gates, GateSettings, encoder_gates, gate_shapes
from pruned_upstream.pruning.latency_table import Latency, LatencyTable, measure, predicted_and_measured
from pruned_upstream.pruning.sparsity import counted_sparsity, expected_sparsity, final_gates

DRAWN = [GateSettings(), GateSettings(fine_grained=False), GateSettings(conv=True)]


def pattern(config: EncoderConfig, asked: GateSettings, share: float, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = {k: (torch.rand(s, generator=generator) < share).double() for k, s in gate_shapes(config, asked).items()}
    for kind, gate in drawn.items():
        if kind.startswith("conv"):
            gate[0] = 1  # a convolution keeps one channel
    return drawn


@pytest.mark.parametrize("asked", DRAWN, ids=["fine", "heads", "channels"])
@settings(max_examples=10)
@given(share=st.floats(0.05, 1.0), seed=st.integers(0, 99))
def test_expected_macs_are_the_official_ones_for_every_pattern(asked: GateSettings, share: float, seed: int) -> None:
    for config in (tiny_config(), SHAPES["wavlm_prenorm"]):
        drawn = pattern(config, asked, share, seed)
        compact = compact_config(config, encoder_gates(config, drawn))
        counted = sum(bucket.total for bucket in official_macs(compact))
        assert Macs().expected(config, drawn).item() == pytest.approx(counted, rel=1e-9)
        assert Macs().counted(compact) == counted


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_every_dense_shape_has_its_macs(shape: str) -> None:
    config = SHAPES[shape]
    assert Macs().expected(config, {}).item() == pytest.approx(Macs().counted(config), rel=1e-9)


def test_the_published_shape() -> None:
    """HuBERT Base's official count, which WavLM's gate and look-up raise a little."""
    assert Macs().counted(wavlm_base_config()) == pytest.approx(1.67e12, rel=0.01)
    assert counted_sparsity(wavlm_base_config(), wavlm_base_config(), "macs") == 0.0


def test_macs_are_paid_for_by_gates() -> None:
    torch.manual_seed(0)
    gates = Gates(tiny_config(), GateSettings(conv=True))
    expected_sparsity(gates.config, gates.probabilities(), "macs").backward()
    assert all((p.grad < 0).all() for p in gates.parameters())  # opening any gate makes a student less sparse


@pytest.mark.parametrize("scope", ["macs", "everything"])
def test_the_final_cut_meets_a_target_of_any_cost(scope: str) -> None:
    torch.manual_seed(0)
    gates = Gates(tiny_config(), GateSettings(conv=True, init_std=1.0))
    compact = compact_config(gates.config, final_gates(gates, 0.5, scope))
    assert counted_sparsity(gates.config, compact, scope) == pytest.approx(0.5, abs=0.03)


def test_an_unknown_scope_is_refused() -> None:
    with pytest.raises(ConfigError, match="'energy'; it must be one of transformer, everything, macs"):
        cost_of("energy")


def made_up_table(config: EncoderConfig) -> LatencyTable:
    """A machine on which a head takes 5 ms and 0.1 ms for each padded dimension, a row 0.01 ms, and so on."""
    heads, widths = list(range(config.num_heads + 1)), [0, 8]
    return LatencyTable(
        shape=config.to_json(),
        seconds=10.0,
        device="cpu",
        threads=1,
        heads=heads,
        widths=widths,
        ragged=[[5.0 * h * (w > 0) + 0.1 * h * w for w in widths] for h in heads],
        whole=[5.5 * h for h in heads],
        rows=[0, config.embed_dim],
        projections=[0.0, 0.01 * config.embed_dim],
        dimensions=[0, config.ffn_dim],
        feed_forward=[0.0, 0.02 * config.ffn_dim],
        channels=[([1], [1, 16]), ([1, 16], [1, 16]), ([1, 16], [1, 16])],
        convolutions=[[[0.1, 1.6]], [[0.1, 1.6], [1.6, 25.6]], [[0.1, 1.6], [1.6, 25.6]]],
        rest=7.0,
    )


def test_heads_and_padded_widths_cost_time_and_dimensions_within_them_next_to_none() -> None:
    config = tiny_config()
    latency = Latency(made_up_table(config))

    def time_of(*heads: tuple[int, int], ffn: int = 0) -> float:
        layer = TransformerLayer(True, tuple(Head(i, qk, vo) for i, (qk, vo) in enumerate(heads)), True, ffn)
        gone = TransformerLayer(False, (), False, 0)
        return latency.counted(dataclasses.replace(config, layers=(layer, gone, gone)))

    front_end = 1.6 + 25.6 + 25.6
    assert time_of() == pytest.approx(7.0 + front_end)
    assert time_of((6, 6), (6, 6)) == pytest.approx(7.0 + front_end + 2 * 5.5 + 0.12)  # whole heads
    assert time_of((6, 6), (2, 3)) == pytest.approx(7.0 + front_end + 2 * 5.8 + 0.01 * 8.5)  # padded to 8
    assert time_of((6, 6), (2, 2)) - time_of((6, 6), (1, 1)) == pytest.approx(0.01)
    assert time_of((6, 6), (1, 1)) - time_of((6, 5)) > 5
    assert time_of(ffn=20) == pytest.approx(7.0 + front_end + 0.4)


@pytest.mark.parametrize("asked", DRAWN, ids=["fine", "heads", "channels"])
def test_expected_time_is_the_counted_one_where_gates_have_decided(asked: GateSettings) -> None:
    config = tiny_config()
    latency = Latency(made_up_table(config))
    for seed in range(5):
        drawn = pattern(config, asked, 0.7, seed)
        compact = compact_config(config, encoder_gates(config, drawn))
        expected = latency.expected(config, drawn).item()
        ragged = asked.fine_grained
        if ragged and any(layer.heads and max(h.vo for h in layer.heads) > 0 for layer in compact.layers):
            assert expected == pytest.approx(latency.counted(compact), rel=0.02)
        else:
            assert expected == pytest.approx(latency.counted(compact), rel=1e-9)


def test_time_is_paid_for_by_gates() -> None:
    torch.manual_seed(0)
    gates = Gates(tiny_config(), GateSettings(conv=True))
    expected_sparsity(gates.config, gates.probabilities(), Latency(made_up_table(gates.config))).backward()
    assert all(p.grad.isfinite().all() and (p.grad <= 0).all() for p in gates.parameters())
    assert all((p.grad < 0).any() for p in gates.parameters())


def test_a_table_is_read_back(tmp_path) -> None:
    table = made_up_table(tiny_config())
    table.save(tmp_path / "latency.json")
    assert LatencyTable.load(tmp_path / "latency.json") == dataclasses.replace(
        table, channels=[list(map(list, pair)) for pair in table.channels]
    )
    with pytest.raises(ConfigError, match="was measured on another shape"):
        Latency(LatencyTable.load(tmp_path / "latency.json")).counted(tiny_config(ffn_dim=80))
    (tmp_path / "latency.json").write_text(json.dumps({"shape": "?"}))
    with pytest.raises(ConfigError, match="is no table of latencies"):
        LatencyTable.load(tmp_path / "latency.json")


@pytest.mark.parametrize("shape", ["wavlm", "wav2vec2_prenorm"])
def test_a_table_can_be_measured(shape: str) -> None:
    table = measure(SHAPES[shape], seconds=0.3, repeats=1)
    latency = Latency(table)
    dense = latency.counted(SHAPES[shape])
    gone = TransformerLayer(False, (), False, 0)
    assert dense > latency.counted(dataclasses.replace(SHAPES[shape], layers=(gone,) * 3)) > 0
    assert table.heads == [0, 1, 2, 3, 4]
    assert table.widths == [0, 8]
    widest = SHAPES[shape].conv[0].dense_channels
    (_, outputs), *_ = table.channels  # below the widest at odd numbers: cuts leave few that vector instructions like
    assert outputs[-1] == widest and all(1 <= count < widest and count % 2 for count in outputs[:-1])
    for line in (*table.ragged, table.whole, table.projections, table.feed_forward, *zip(*table.ragged, strict=True)):
        assert list(line) == sorted(line), "more of anything takes no less time"


def test_measured_times_are_told_in_those_of_the_table(monkeypatch) -> None:
    """A machine five times slower than when the table was made, in two of three rounds, changes nothing."""
    config = tiny_config()
    table = made_up_table(config)
    taken = {0: [2.0, 10.0, 10.0], 1: [2.0, 10.0, 10.0], 2: [1.0, 5.0, 5.0]}
    monkeypatch.setattr(latency_table, "_in_turn", lambda runs, device, repeats: taken)
    (same, measured), (_, half) = predicted_and_measured([Encoder(config), Encoder(config)], table)
    assert measured == pytest.approx(same)
    assert half == pytest.approx(same / 2)


def test_all_run_in_turn_and_the_first_round_does_not_count() -> None:
    order: list[str] = []
    taken = latency_table._in_turn({name: lambda name=name: order.append(name) for name in "ab"}, "cpu", 3)
    assert order == ["a", "b"] * 4
    assert {name: len(seconds) for name, seconds in taken.items()} == {"a": 3, "b": 3}


def test_a_table_that_is_no_whole_one_is_refused(tmp_path) -> None:
    path = tmp_path / "table.json"
    measure(tiny_config(num_layers=1), seconds=0.1, repeats=1).save(path)
    whole = json.loads(path.read_text())
    for changes in ({"shape": "{}"}, {"rows": []}, {"convolutions": [[[0.1]]]}, {"seconds": 1, "more": 2}):
        path.write_text(json.dumps(whole | changes))
        with pytest.raises(ConfigError, match="is no table of latencies"):
            LatencyTable.load(path)
