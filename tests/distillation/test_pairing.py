"""Which student layer each teacher layer picks, by hand-made tables, and what the pairs cost."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pruned_upstream.distillation.pairing import LayerPairing, quarter_layers
from pruned_upstream.errors import ConfigError

ALL_ALIVE = torch.ones(4, dtype=torch.bool)


@pytest.mark.parametrize(
    ("layers", "quarters"), [(12, [3, 6, 9, 12]), (24, [6, 12, 18, 24]), (6, [2, 3, 5, 6]), (3, [1, 2, 3]), (1, [1])]
)
def test_quarters_of_the_depth(layers: int, quarters: list[int]) -> None:
    assert quarter_layers(layers) == quarters
    assert LayerPairing(8, layers).teacher_layers == quarters


# rows: teacher layers 2, 3, 4 of 4; columns: student layers 1 to 4
TABLE = torch.tensor([[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0], [5.0, 4.0, 1.0, 2.0]])


def choose(variant: str, table: torch.Tensor = TABLE, alive: torch.Tensor = ALL_ALIVE) -> list[int]:
    return LayerPairing(8, 4, teacher_layers=[2, 3, 4], variant=variant).choose(table, alive)


def test_v3_takes_the_nearest_whatever_the_others_took() -> None:
    assert choose("v3") == [1, 4, 3]


def test_v4_goes_down_and_never_crosses() -> None:
    # layer 4 takes 3; layer 3 would take 4, but only 1 and 2 are below; layer 2 takes 1
    assert choose("v4") == [1, 2, 3]


def test_v4_repeats_the_last_choice_where_none_is_left_below() -> None:
    table = torch.tensor([[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0], [0.5, 4.0, 1.0, 2.0]])
    assert choose("v4", table) == [1, 1, 1]


def test_v4_passes_over_dead_layers() -> None:
    assert choose("v4", alive=torch.tensor([True, False, False, True])) == [1, 1, 4]
    assert choose("v4", alive=torch.tensor([False, True, True, False])) == [2, 2, 3]


def test_v4_falls_back_to_the_top_layer_when_nothing_lives() -> None:
    assert choose("v4", alive=torch.zeros(4, dtype=torch.bool)) == [4, 4, 4]


def test_fixed_takes_its_own_number() -> None:
    assert choose("fixed") == [2, 3, 4]


@given(st.lists(st.lists(st.floats(0, 10), min_size=4, max_size=4), min_size=3, max_size=3), st.integers(0, 15))
def test_v4_never_rises_downwards(table: list[list[float]], living: int) -> None:
    alive = torch.tensor([bool(living >> i & 1) for i in range(4)])
    pairs = choose("v4", torch.tensor(table), alive)
    assert pairs == sorted(pairs)
    assert all(alive[j - 1] for j in pairs) or (pairs[-1] == 4 and not alive.any())


def hidden_states(seed: int, layers: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 5, 8, generator=generator) for _ in range(layers + 1)]


VALID = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])


def test_the_table_holds_squared_errors_of_valid_frames() -> None:
    pairing = LayerPairing(8, 4, teacher_layers=[2, 3, 4])
    student, teacher = hidden_states(0), hidden_states(1)
    table = pairing.table(student, teacher, VALID)
    assert table.shape == (3, 4)
    by_hand = ((student[1] - teacher[3])[VALID] ** 2).mean(-1).sum()  # W is the identity at first
    torch.testing.assert_close(table[1, 0], by_hand)
    assert not table.requires_grad


def test_the_loss_is_the_sum_of_the_chosen_entries() -> None:
    pairing = LayerPairing(8, 4, teacher_layers=[2, 3, 4])
    torch.nn.init.normal_(pairing.maps[0].weight)
    student, teacher = hidden_states(0), hidden_states(1)
    table = pairing.table(student, teacher, VALID)
    loss = pairing(student, teacher, VALID, [1, 1, 4])
    torch.testing.assert_close(loss, table[0, 0] + table[1, 0] + table[2, 3])


def test_padding_does_not_count_even_when_it_is_not_finite() -> None:
    pairing = LayerPairing(8, 4)
    student, teacher = hidden_states(0), hidden_states(1)
    expected = pairing(student, teacher, VALID, [1, 2, 3, 4])
    for state in teacher:
        state[~VALID] = torch.inf
    torch.testing.assert_close(pairing(student, teacher, VALID, [1, 2, 3, 4]), expected)


def test_one_map_serves_all_layers_and_starts_as_the_identity() -> None:
    pairing = LayerPairing(8, 12)
    assert [tuple(p.shape) for p in pairing.parameters()] == [(8, 8), (8,)]
    x = torch.randn(3, 8)
    assert torch.equal(pairing.maps[0](x), x)


@pytest.mark.parametrize("layers", [[-1, 1], [2, 5], [3, 2], [2, 2], []])
def test_layers_that_do_not_exist_are_refused(layers: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"distillation\.teacher_layers"):
        LayerPairing(8, 4, teacher_layers=layers)


@pytest.mark.parametrize(("key", "value"), [("variant", "v5"), ("loss", "l2")])
def test_unknown_names_are_refused(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=value):
        LayerPairing(8, 4, **{key: value})


def test_groups_have_maps_of_their_own() -> None:
    pairing = LayerPairing(8, 4, groups=[[0], [2, 4]], variant="fixed")
    assert pairing.teacher_layers == [0, 2, 4]
    assert len(pairing.maps) == 2
    torch.manual_seed(0)
    student, teacher = ([torch.randn(2, 5, 8) for _ in range(5)] for _ in range(2))
    valid = torch.ones(2, 5, dtype=torch.bool)
    torch.nn.init.normal_(pairing.maps[1].weight)
    first, second = pairing.maps
    wanted = (student[0] - teacher[0]).square().mean(-1).sum()  # the first map is the identity still
    wanted = wanted + sum((second(student[k]) - teacher[k]).square().mean(-1).sum() for k in (2, 4))
    loss = pairing(student, teacher, valid, [0, 2, 4])
    torch.testing.assert_close(loss, wanted)
    loss.backward()
    expected = torch.autograd.grad(((first(student[0]) - teacher[0]).square().mean(-1)).sum(), first.weight)[0]
    torch.testing.assert_close(first.weight.grad, expected)  # from layer 0 alone


def test_one_group_is_one_map_for_all() -> None:
    torch.manual_seed(0)
    student, teacher = ([torch.randn(2, 5, 8) for _ in range(5)] for _ in range(2))
    valid = torch.rand(2, 5) < 0.7
    plain, grouped = LayerPairing(8, 4, teacher_layers=[2, 4]), LayerPairing(8, 4, groups=[[2, 4]])
    assert torch.equal(plain.table(student, teacher, valid), grouped.table(student, teacher, valid))


@pytest.mark.parametrize("variant", ["v4", "v3"])
def test_layer_0_is_paired_with_itself_alone(variant: str) -> None:
    pairing = LayerPairing(8, 4, groups=[[0], [2, 3, 4]], variant=variant)
    without = LayerPairing(8, 4, teacher_layers=[2, 3, 4], variant=variant)
    assert pairing.choose(TABLE, ALL_ALIVE) == [0, *without.choose(TABLE, ALL_ALIVE)]
    assert pairing.empty_table().shape == TABLE.shape
    alone = LayerPairing(8, 4, teacher_layers=[0], variant=variant)
    assert not alone.needs_table
    assert alone.choose(alone.empty_table(), ALL_ALIVE) == [0]


def test_a_table_over_groups_takes_each_layers_own_map() -> None:
    torch.manual_seed(0)
    pairing = LayerPairing(8, 4, groups=[[0], [1], [2, 4]])
    for linear in pairing.maps:
        torch.nn.init.normal_(linear.weight)
    student, teacher = ([torch.randn(1, 3, 8) for _ in range(5)] for _ in range(2))
    table = pairing.table(student, teacher, torch.ones(1, 3, dtype=torch.bool))
    assert table.shape == (3, 4)
    torch.testing.assert_close(table[0, 2], (pairing.maps[1](student[3]) - teacher[1]).square().mean(-1).sum())
    torch.testing.assert_close(table[2, 1], (pairing.maps[2](student[2]) - teacher[4]).square().mean(-1).sum())


def test_layers_and_groups_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match=r"make distillation\.teacher_layers null"):
        LayerPairing(8, 4, teacher_layers=[1], groups=[[1]])


@pytest.mark.parametrize("groups", [[[0], [0, 1]], [[2], [1]], [[5]], [[]], []])
def test_groups_that_do_not_rise_are_refused(groups: list[list[int]]) -> None:
    with pytest.raises(ConfigError, match=r"distillation\."):
        LayerPairing(8, 4, groups=groups)
