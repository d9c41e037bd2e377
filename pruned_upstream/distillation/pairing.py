"""Which student layer learns from which teacher layer, chosen anew in every batch.

A pruned student need not keep its teacher's division of labour: the paper lets a few teacher layers each pick the
student layer that is already nearest (Wang et al. 2023, equation 5), and names neither the map nor the layers. They
come from the code it builds on (princeton-nlp/CoFiPruning, trainer/trainer.py, `calculate_layer_distillation_loss`):
teacher layers at the quarters, and one linear map for all student layers, which starts as the identity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..parsing import require_one_of
from .losses import gram, mse, named_loss

VARIANTS = ("v4", "v3", "fixed")


def quarter_layers(num_layers: int) -> list[int]:
    """The layers that end each quarter of the depth, counted from 1: 3, 6, 9, 12 of 12.

    >>> quarter_layers(12), quarter_layers(6), quarter_layers(2)
    ([3, 6, 9, 12], [2, 3, 5, 6], [1, 2])
    """
    return sorted({math.ceil(quarter * num_layers / 4) for quarter in (1, 2, 3, 4)})


class LayerPairing(nn.Module):
    """The maps of the student's layers and the rule that pairs them with the teacher's.

    Layers are counted from 1, as the paper does. Layer 0 is what the transformer is given, the projected features
    before the position convolution; it is compared with nothing but layer 0, whatever the variant.

    Args:
        num_layers: of the student, and of the teacher.
        teacher_layers: rising; `quarter_layers` of the depth by default.
        groups: instead of `teacher_layers`, those layers in groups, of which each has a linear map of its own
            (pyf98/DPHuBERT, distill.py: 0 apart from 4, 8, 12). Without groups one map serves all.
        variant: "v4": from the top teacher layer down, each takes the nearest living student layer below the last
            choice, the last choice where none is left, and the top layer where that is the first. "v3": each takes
            the nearest student layer. "fixed": each takes the student layer of its own number.
        loss: a name in `losses.LOSSES`, for the pairs; which are nearest is always decided by squared error.
        gram: weight of `losses.gram` of the pairs, which no map comes between.

    Raises:
        ConfigError: an unknown variant or loss, a layer that does not exist, or layers and groups both.
    """

    def __init__(
        self,
        embed_dim: int,
        num_layers: int,
        *,
        teacher_layers: Sequence[int] | None = None,
        groups: Sequence[Sequence[int]] | None = None,
        variant: str = "v4",
        loss: str = "mse",
        gram: float = 0.0,
    ) -> None:
        super().__init__()
        if groups is not None and teacher_layers is not None:
            raise ConfigError("distillation.groups names layers already; make distillation.teacher_layers null")
        if groups is None:
            groups = [quarter_layers(num_layers) if teacher_layers is None else teacher_layers]
        layers = [layer for group in groups for layer in group]
        if not layers or layers != sorted(set(layers)) or not 0 <= layers[0] <= layers[-1] <= num_layers:
            raise ConfigError(
                f"distillation.{'teacher_layers' if len(groups) == 1 else 'groups'} names the layers {layers}; they "
                f"must rise, from 0 at the lowest to {num_layers} at the highest"
            )
        require_one_of("distillation.pairing", variant, VARIANTS)
        self.num_layers = num_layers
        self.teacher_layers = layers
        self.variant = variant
        self.distance = named_loss(loss)
        self.gram = gram
        self.clusters: dict[int, list[int]] = {}
        self.maps = nn.ModuleList(_identity(embed_dim) for _ in groups)
        self._map_of = {layer: number for number, group in enumerate(groups) for layer in group}

    def use_clusters(self, clusters: Sequence[Sequence[int]]) -> None:
        """Learn from the means of these teacher layers instead, each under the number of its last (`clusters.py`)."""
        self.clusters = {cluster[-1]: list(cluster) for cluster in clusters}
        self.teacher_layers = sorted(self.clusters)
        self._map_of = dict.fromkeys(self.teacher_layers, 0)

    def target(self, teacher: Sequence[Tensor], layer: int) -> Tensor:
        """What is learned from the teacher under the number of a layer, (B, T, d)."""
        cluster = self.clusters.get(layer)
        return teacher[layer] if cluster is None else torch.stack([teacher[k] for k in cluster]).mean(0)

    @property
    def needs_table(self) -> bool:
        """Whether choosing looks at the batch at all."""
        return self.variant != "fixed" and bool(self._chosen_layers())

    @torch.no_grad()
    def table(self, student: Sequence[Tensor], teacher: Sequence[Tensor], weights: Tensor) -> Tensor:
        """Squared error of every pair, summed over frames: what `choose` needs, once it is summed over the
        micro-batches and processes of a step.

        Args:
            student, teacher: projected features, then the L layers' outputs: L + 1 tensors (B, T, d).
            weights: (B, T), of each frame; 0 at padding.

        Returns:
            (teacher layers above 0, L).
        """
        targets = {k: self.target(teacher, k) for k in self._chosen_layers()}
        columns = []
        for j in range(1, self.num_layers + 1):
            mapped = {number: self.maps[number](student[j]) for number in self._maps_of_choice()}  # (B, T, d) each
            errors = [mse(mapped[self._map_of[k]], target, weights) for k, target in targets.items()]
            columns.append(torch.stack(errors))
        return torch.stack(columns, dim=1)

    def empty_table(self) -> Tensor:
        """The table of a batch without frames."""
        device = next(self.parameters()).device
        return torch.zeros(len(self._chosen_layers()), self.num_layers, device=device)

    def choose(self, table: Tensor, alive: Tensor) -> list[int]:
        """The student layer of each teacher layer.

        Args:
            table: (teacher layers above 0, L), of the whole batch.
            alive: (L,) bool, True where a sublayer of the student's layer is still open.

        Choosing on the device would keep every layer's projection for the backward pass; reading K x L numbers back
        once per step is cheaper.
        """
        if self.variant == "fixed":
            return list(self.teacher_layers)
        given = [0] if 0 in self._map_of else []
        if self.variant == "v3":
            return given + (table.argmin(1) + 1).tolist()
        living = alive.to(table.device).expand_as(table)
        distances: list[list[float]] = table.masked_fill(~living, torch.inf).tolist()
        pairs: list[int] = []
        for row in reversed(distances):
            below = row[: pairs[-1] - 1] if pairs else row
            nearest = min(range(len(below)), key=below.__getitem__, default=None)
            if nearest is not None and below[nearest] < math.inf:
                pairs.append(nearest + 1)
            else:
                pairs.append(pairs[-1] if pairs else self.num_layers)
        return given + pairs[::-1]

    def forward(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], weights: Tensor, pairs: Sequence[int]
    ) -> Tensor:
        """Loss of the chosen pairs, summed over pairs and frames; shapes as in `table`."""
        distances = []
        for k, j in zip(self.teacher_layers, pairs, strict=True):
            target = self.target(teacher, k)
            distances.append(self.distance(self.maps[self._map_of[k]](student[j]), target, weights))
            if self.gram:
                distances.append(self.gram * gram(student[j], target, weights))
        return torch.stack(distances).sum()

    def _chosen_layers(self) -> list[int]:
        """Teacher layers that a student layer is chosen for."""
        return [k for k in self.teacher_layers if k > 0]

    def _maps_of_choice(self) -> set[int]:
        return {self._map_of[k] for k in self._chosen_layers()}


def _identity(dim: int) -> nn.Linear:
    linear = nn.Linear(dim, dim)
    nn.init.eye_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
