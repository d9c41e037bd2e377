"""Similar teacher layers form clusters; a student learns from their means."""

from __future__ import annotations

import pytest
import torch
from tiny import random_encoder, tiny_config, unequal_waveforms

from pruned_upstream.distillation.clusters import layer_clusters, layer_similarity
from pruned_upstream.distillation.pairing import LayerPairing
from pruned_upstream.errors import ConfigError, DataError


def test_similarity_is_linear_cka() -> None:
    encoder = random_encoder(tiny_config())
    batch = encoder.prepare(unequal_waveforms())
    found = layer_similarity(encoder, [batch])
    assert found.shape == (3, 3)
    assert torch.allclose(found.diagonal(), torch.ones(3).double())
    with torch.no_grad():
        output = encoder(*batch)
    x, y = (output.hidden_states[k][~output.padding_mask].double() for k in (1, 3))
    x, y = x - x.mean(0), y - y.mean(0)
    k, m = x @ x.t(), y @ y.t()  # by kernels, as the paper defines it
    assert found[0, 2].item() == pytest.approx(((k * m).sum() / (k.norm() * m.norm())).item(), rel=1e-6)


def test_the_most_similar_layers_are_together() -> None:
    groups = [0, 0, 0, 1, 1, 2]
    similarity = torch.tensor([[1.0 if a == b else 0.2 for b in groups] for a in groups]).double()
    assert layer_clusters(similarity, 3) == [[1, 2, 3], [4, 5], [6]]
    assert layer_clusters(similarity, 1) == [[1, 2, 3, 4, 5, 6]]
    assert layer_clusters(torch.ones(1, 1), 1) == [[1]]
    with pytest.raises(ConfigError, match="distillation.clusters is 7; it must be from 1 to 6"):
        layer_clusters(similarity, 7)


def test_no_speech_is_refused(tiny) -> None:
    with pytest.raises(DataError, match="similarity of layers needs speech"):
        layer_similarity(tiny, [])


def test_a_cluster_teaches_its_mean_under_the_number_of_its_last_layer() -> None:
    torch.manual_seed(0)
    pairing = LayerPairing(4, 3, variant="fixed")
    pairing.use_clusters([[1, 2], [3]])
    student, teacher = ([torch.randn(1, 5, 4) for _ in range(4)] for _ in range(2))
    valid = torch.ones(1, 5, dtype=torch.bool)
    assert pairing.teacher_layers == [2, 3]
    pairs = pairing.choose(pairing.empty_table(), torch.ones(3, dtype=torch.bool))
    wanted = sum(
        (ours - theirs).square().mean(-1).sum()
        for ours, theirs in ((student[2], (teacher[1] + teacher[2]) / 2), (student[3], teacher[3]))
    )
    assert pairing(student, teacher, valid, pairs).item() == pytest.approx(wanted.item(), rel=1e-5)
    pairing.variant = "v4"
    table = pairing.table(student, teacher, valid)
    assert table[0, 0].item() == pytest.approx(
        (student[1] - (teacher[1] + teacher[2]) / 2).square().mean(-1).sum().item()
    )


def test_gram_is_added_for_each_pair() -> None:
    from pruned_upstream.distillation.losses import gram

    torch.manual_seed(0)
    plain, both = LayerPairing(4, 2, variant="fixed"), LayerPairing(4, 2, variant="fixed", gram=0.5)
    student, teacher = ([torch.randn(1, 5, 4) for _ in range(3)] for _ in range(2))
    valid = torch.ones(1, 5, dtype=torch.bool)
    pairs = plain.choose(plain.empty_table(), torch.ones(2, dtype=torch.bool))
    extra = sum(0.5 * gram(student[k], teacher[k], valid).item() for k in (1, 2))
    found = both(student, teacher, valid, pairs).item() - plain(student, teacher, valid, pairs).item()
    assert found == pytest.approx(extra, rel=1e-4)
