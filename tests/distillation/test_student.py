"""The shallow student: what it takes from its teacher, and what is left when its heads are gone."""

from __future__ import annotations

import pytest
import torch
from tiny import SHAPES, largest_difference, random_encoder, tiny_config, unequal_waveforms

from pruned_upstream.distillation.student import (
    predictions,
    scale_gradient,
    shallow_config,
    shallow_student,
    third_layers,
    without_heads,
)
from pruned_upstream.errors import ConfigError
from pruned_upstream.model.config import hubert_base_config, wavlm_base_config
from pruned_upstream.model.size import count_parameters


@pytest.mark.parametrize(("layers", "thirds"), [(12, [4, 8, 12]), (24, [8, 16, 24]), (6, [2, 4, 6]), (1, [1])])
def test_thirds_of_the_depth(layers: int, thirds: list[int]) -> None:
    assert third_layers(layers) == thirds


def test_size_is_the_published_one() -> None:
    """23.49M in the tables of DistilHuBERT and of Wang et al. 2023."""
    hubert = count_parameters(shallow_config(hubert_base_config(), 2))
    assert hubert == 23_492_224
    student = shallow_config(wavlm_base_config(), 2)
    table, position_gates = 320 * 12, 2 * (8 * 65 + 12)
    assert count_parameters(student) == hubert + table + position_gates
    assert student.is_dense


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_copied_layers_are_the_teachers(shape: str) -> None:
    teacher = random_encoder(SHAPES[shape])
    student = without_heads(shallow_student(teacher, 2, heads=3))
    weights = teacher.state_dict()
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    wavs = unequal_waveforms()
    with torch.no_grad():
        ours, theirs = student.extract(wavs), teacher.extract(wavs)
    assert torch.equal(ours.projected, theirs.projected)
    below_the_last_norm = slice(0, 2)  # pre-norm models end in a norm
    assert largest_difference(ours.hidden_states[below_the_last_norm], theirs.hidden_states[below_the_last_norm]) == 0
    assert len(ours.hidden_states) == 3


def test_the_student_shares_no_memory_with_its_teacher(tiny) -> None:
    student = shallow_student(tiny, 1, heads=1)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    assert any(p.any() for p in tiny.parameters())
    assert all(p.any() for n, p in tiny.named_parameters() if n == "layer_norm.weight")


def test_heads_predict_from_the_last_layer(tiny) -> None:
    torch.manual_seed(0)
    student = shallow_student(tiny, 2, heads=2)
    last = torch.randn(1, 4, 24)
    first, second = predictions(student, last)
    head = student.prediction_heads[0]
    by_hand = torch.nn.functional.gelu(last @ head[0].weight.T + head[0].bias) @ head[2].weight.T + head[2].bias
    torch.testing.assert_close(first, by_hand)
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("layers", [0, 3, 4])
def test_a_student_must_be_shallower(layers: int) -> None:
    with pytest.raises(ConfigError, match=rf"student\.layers is {layers}; the teacher has 3 layers"):
        shallow_config(tiny_config(), layers)


def test_the_gradient_is_scaled_behind_the_module_alone() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4)
    gradients = []
    for factor in (None, 0.1):
        torch.manual_seed(1)
        front, back = torch.nn.Linear(4, 4), torch.nn.Linear(4, 1)
        if factor is not None:
            scale_gradient(front, factor)
        back(front(x)).sum().backward()
        gradients.append((front.weight.grad, back.weight.grad))
    torch.testing.assert_close(gradients[1][0], 0.1 * gradients[0][0])
    assert torch.equal(gradients[1][1], gradients[0][1])
    with torch.no_grad():
        front(x)  # nothing to scale
