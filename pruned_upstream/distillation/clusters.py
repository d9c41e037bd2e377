"""Teacher layers that say the same, told by speech: a student may learn what they have in common.

Of SKILL (Zampierin et al., SKILL: Similarity-aware Knowledge distILLation, 2024): similar layers form a cluster, and
the mean of a cluster's layers is one target. Similarity is linear CKA (Kornblith et al., ICML 2019), which neither
rotations nor scales of a layer change; clusters are joined while their layers' mean similarity is the largest.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..errors import DataError
from ..model.encoder import Encoder
from ..parsing import require


@torch.no_grad()
def layer_similarity(encoder: Encoder, batches: Iterable[tuple[Tensor, Tensor | None]]) -> Tensor:
    """Linear CKA of every pair of layers, (L, L), in double precision.

    Args:
        batches: waveforms (B, S) and lengths (B,), as `Encoder.prepare` gives them, on the encoder's device.

    Raises:
        DataError: there is no batch.
    """
    found: list[Tensor] = []
    for waveforms, lengths in batches:
        output = encoder(waveforms, lengths)
        states = torch.stack(output.hidden_states[1:])  # (L, B, T, d)
        found.append(states.flatten(1, 2) if output.padding_mask is None else states[:, ~output.padding_mask])
    if not found:
        raise DataError("the similarity of layers needs speech to be taken on, and there was none")
    layers = torch.cat(found, dim=1).double()  # (L, N, d)
    layers = layers - layers.mean(1, keepdim=True)
    count = len(layers)
    shared = torch.empty(count, count, dtype=torch.double, device=layers.device)
    for i in range(count):
        for j in range(i, count):
            shared[i, j] = shared[j, i] = (layers[i].t() @ layers[j]).square().sum()
    size = shared.diagonal().sqrt()
    return (shared / (size.unsqueeze(0) * size.unsqueeze(1))).cpu()


def layer_clusters(similarity: Tensor, count: int) -> list[list[int]]:
    """The layers, counted from 1, in `count` clusters, sorted by the last layer of each.

    Raises:
        ConfigError: there are not so many layers.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    layers = len(similarity)
    require(1 <= count <= layers, "distillation.clusters", count, f"be from 1 to {layers}, the teacher's layers")
    if layers == 1:
        return [[1]]
    apart = (1 - similarity).clamp(min=0).fill_diagonal_(0)
    joined = linkage(squareform(apart.numpy(), checks=False), method="average")
    labels = fcluster(joined, count, criterion="maxclust").tolist()
    clusters = [[layer + 1 for layer, label in enumerate(labels) if label == wanted] for wanted in sorted(set(labels))]
    return sorted(clusters, key=lambda cluster: cluster[-1])
