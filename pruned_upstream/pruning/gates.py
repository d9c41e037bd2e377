"""The gates of an encoder: what is learned, what one step draws, and what remains at the end.

Gates live in one tensor per kind, all layers stacked (L layers, H heads, w head width, F feed-forward width, C_i
channels of convolution i):

    qk            (L, H, w)  query and key dimensions, pruned together    } fine-grained attention head pruning
    vo            (L, H, w)  value and output dimensions                  }
    head          (L, H)     whole heads, where heads are not fine-grained
    ffn           (L, F)     dimensions between the two feed-forward matrices
    attention     (L,)       attention sublayers                          } the coarse scale
    feed_forward  (L,)       feed-forward sublayers                       }
    conv_i        (C_i,)     channels of the front end (DPHuBERT: Peng et al., Interspeech 2023)

Scales multiply: a dimension passes when its own gate and those of its head and sublayer do (Wang et al., Interspeech
2023, equation 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..model.config import EncoderConfig
from ..model.gating import EncoderGates, LayerGates
from ..parsing import require
from . import hard_concrete

SUBLAYER_KINDS = ("attention", "feed_forward")
COARSE_KINDS = (*SUBLAYER_KINDS, "head")
CONV = "conv_"  # a kind for each convolution: conv_0, conv_1, ...


@dataclass(frozen=True)
class GateSettings:
    """Which gates there are and how they are learned. A recipe's `gates` section has these fields.

    A drop rate is the probability that a gate starts below one half, before it is stretched: its log_alpha starts at
    log((1 - rate) / rate). The paper names none; CoFi takes 0.5 for `ffn` and next to nothing for coarse gates,
    DPHuBERT 0.5 and 0.01.
    """

    fine_grained: bool = True  # one gate per dimension of q/k and of v/o; else one per head ("w/o FAHP")
    principal_axes: bool = False  # turn heads before, so that few of their dimensions hold most (`principal_axes.py`)
    multi_scale: bool = True  # gates of whole sublayers besides
    conv: bool = False  # gates of the front end's channels
    straight_through: bool = True  # the clipped estimator; else the true gradient ("w/o STE")
    beta: float = hard_concrete.BETA  # temperature of the hard concrete distribution; 2/3 is Louizos et al.'s
    drop_qk: float = 0.1  # drop rate of the gates of query and key dimensions
    drop_vo: float = 0.1  # of value and output dimensions
    drop_head: float = 0.01  # of whole heads
    drop_ffn: float = 0.5  # of feed-forward dimensions
    drop_attention: float = 0.01  # of attention sublayers
    drop_feed_forward: float = 0.01  # of feed-forward sublayers
    drop_conv: float = 0.01  # of the front end's channels
    init_std: float = 0.01  # spread of log_alpha at the start: it breaks ties
    warm_start: float = 0.0  # log_alpha starts so much higher for the best score of its kind and layer (`scores.py`)
    clamp: float | None = math.log(100)  # largest |log_alpha| in training, so that no gate is stuck (CoFi)

    def __post_init__(self) -> None:
        for kind in ("qk", "vo", "head", "ffn", "attention", "feed_forward", "conv"):
            rate = getattr(self, f"drop_{kind}")
            require(0 < rate < 1, f"gates.drop_{kind}", rate, "lie between 0 and 1, both excluded")
        without_use = self.principal_axes and not self.fine_grained
        require(not without_use, "gates.principal_axes", self.principal_axes, "be false where heads are pruned whole")
        require(self.beta > 0, "gates.beta", self.beta, "be above 0, as a temperature is")
        require(self.init_std >= 0, "gates.init_std", self.init_std, "be at least 0")
        require(self.warm_start >= 0, "gates.warm_start", self.warm_start, "be at least 0, which is none")
        require(self.clamp is None or self.clamp > 0, "gates.clamp", self.clamp, "be above 0, or null for none")

    def initial_log_alpha(self, kind: str) -> float:
        """Mean of log_alpha at the start for a kind of gate."""
        rate = getattr(self, "drop_conv" if kind.startswith(CONV) else f"drop_{kind}")
        return math.log((1 - rate) / rate)


def gate_shapes(config: EncoderConfig, settings: GateSettings) -> dict[str, tuple[int, ...]]:
    """Shape of the stacked gates of each kind that `settings` asks for, in the order of the module's table."""
    layers, heads, width = config.num_layers, config.num_heads, config.head_dim
    shapes: dict[str, tuple[int, ...]] = {}
    if settings.fine_grained:
        shapes |= {"qk": (layers, heads, width), "vo": (layers, heads, width)}
    else:
        shapes["head"] = (layers, heads)
    shapes["ffn"] = (layers, config.ffn_dim)
    if settings.multi_scale:
        shapes |= {"attention": (layers,), "feed_forward": (layers,)}
    if settings.conv:
        # without a projection the last convolution is as wide as the transformer, whose width is not pruned
        gated = config.conv if config.has_projection else config.conv[:-1]
        shapes |= {conv_kind(i): (layer.dense_channels,) for i, layer in enumerate(gated)}
    return shapes


def conv_kind(number: int) -> str:
    """Name of the gates of convolution `number`."""
    return f"{CONV}{number}"


def living_places(config: EncoderConfig) -> dict[str, Tensor]:
    """Which places of the stacked gates an encoder still has, as a mask for each kind; all of a dense one.

    A compact encoder says how wide its heads, feed-forward layers and convolutions are, not which of the dense rows
    those were: its rows count as the first of each head, layer or convolution.
    """
    layers, width = config.layers, config.head_dim
    by_head = [{head.id: head for head in layer.heads} for layer in layers]

    def first(counts: Sequence[int], size: int) -> Tensor:  # (n,) -> (n, size)
        return torch.arange(size) < torch.tensor(counts).unsqueeze(1)

    def of_heads(kind: str) -> Tensor:
        counts = [getattr(heads.get(i), kind, 0) for heads in by_head for i in range(config.num_heads)]
        return first(counts, width).view(len(layers), config.num_heads, width)

    return {
        "qk": of_heads("qk"),
        "vo": of_heads("vo"),
        "head": torch.tensor([[i in heads for i in range(config.num_heads)] for heads in by_head]),
        "ffn": first([layer.ffn for layer in layers], config.ffn_dim),
        "attention": torch.tensor([layer.attention for layer in layers]),
        "feed_forward": torch.tensor([layer.feed_forward for layer in layers]),
        **{conv_kind(i): torch.arange(layer.dense_channels) < layer.channels for i, layer in enumerate(config.conv)},
    }


def encoder_gates(config: EncoderConfig, stacked: Mapping[str, Tensor]) -> EncoderGates:
    """Deal stacked gates out to the layers of an encoder, a head's gate to each of its v/o dimensions.

    Of a compact encoder only the `living_places` are dealt.
    """
    kinds = {kind: stacked[kind].flatten(1) for kind in ("qk", "vo", "ffn") if kind in stacked}
    if "head" in stacked:
        heads = stacked["head"].repeat_interleave(config.head_dim, dim=1)  # (L, H * w)
        kinds["vo"] = kinds["vo"] * heads if "vo" in kinds else heads
    kinds |= {kind: stacked[kind] for kind in ("attention", "feed_forward") if kind in stacked}
    dealt = {kind: list(tensor.unbind()) for kind, tensor in kinds.items()}
    conv = [stacked.get(conv_kind(i)) for i in range(len(config.conv))]
    if not config.is_dense:
        living = living_places(config)
        for kind in dealt.keys() & {"qk", "vo", "ffn"}:
            places = living[kind].flatten(1).to(kinds[kind].device)
            dealt[kind] = [gates[place] for gates, place in zip(dealt[kind], places, strict=True)]
        conv = [None if gate is None else gate[: layer.channels] for gate, layer in zip(conv, config.conv, strict=True)]
    layers = [LayerGates(**{kind: gates[i] for kind, gates in dealt.items()}) for i in range(config.num_layers)]
    return EncoderGates(layers, conv if any(gate is not None for gate in conv) else None)


class GateSample:
    """One draw of all gates, for every micro-batch and every process of one optimiser step.

    The draw is cut off from log_alpha: micro-batches leave their gradients on the drawn values, where they add up,
    and `backward` carries the sum across in one go. Clipping each micro-batch's gradient apart would be another
    estimator, since clip(a) + clip(b) is not clip(a + b).
    """

    def __init__(self, config: EncoderConfig, drawn: Mapping[str, Tensor]) -> None:
        self._config = config
        self._drawn = dict(drawn)
        self.values = {kind: z.detach().requires_grad_(torch.is_grad_enabled()) for kind, z in drawn.items()}

    @property
    def gates(self) -> EncoderGates:
        """What the encoder takes; ask anew for each micro-batch, whose backward pass frees its own graph."""
        return encoder_gates(self._config, self.values)

    def backward(self, reduce: Callable[[Tensor], object] | None = None) -> None:
        """Carry the gradient that has gathered on the values into the gates' log_alpha.

        Args:
            reduce: sums a gradient over processes, in place; called once per kind of gate, in one fixed order.
        """
        gradients = []
        for value in self.values.values():
            gradient = torch.zeros_like(value) if value.grad is None else value.grad
            if reduce is not None:
                reduce(gradient)
            gradients.append(gradient)
        torch.autograd.backward(list(self._drawn.values()), gradients)


class Gates(nn.Module):
    """Learnable hard concrete gates of an encoder; the only parameters are the log_alpha of each kind.

    They are stacked as the dense encoder's. Where a compact one has lost a row already, its gate is closed for good.
    """

    quadrature: Tensor

    def __init__(self, config: EncoderConfig, settings: GateSettings = GateSettings()) -> None:
        super().__init__()
        self.config = config
        self.settings = settings
        self.log_alpha = nn.ParameterDict(
            {
                kind: nn.Parameter(settings.initial_log_alpha(kind) + settings.init_std * torch.randn(shape))
                for kind, shape in gate_shapes(config, settings).items()
            }
        )
        living = {} if config.is_dense else living_places(config)
        for kind in self.log_alpha:  # follow from the config: never saved, and None where everything lives
            self.register_buffer(f"living_{kind}", living.get(kind), persistent=False)
        self.register_buffer("quadrature", hard_concrete.quadrature(), persistent=False)

    def sample(self, generator: torch.Generator | None = None) -> GateSample:
        """Draw every gate once.

        Args:
            generator: source of the noise, on any device: processes whose generators agree draw the same gates.
        """
        cut = hard_concrete.ClippedStraightThrough.apply if self.settings.straight_through else hard_concrete.hard_tanh
        device = self.quadrature.device
        count = sum(log_alpha.numel() for log_alpha in self.log_alpha.values())
        source = device if generator is None else generator.device
        pinned = source.type == "cpu" and device.type == "cuda"  # so that no step before it is waited for
        noise = torch.rand(count, generator=generator, device=source, pin_memory=pinned)
        noises = self._by_kind(noise.to(device, non_blocking=True))  # one copy for all
        drawn = {
            kind: self._living(kind, cut(hard_concrete.stretched(log_alpha, noises[kind], self.settings.beta)))
            for kind, log_alpha in self.log_alpha.items()
        }
        return GateSample(self.config, drawn)

    def probabilities(self) -> dict[str, Tensor]:
        """P(z > 0) of every gate, differentiable, in the stacked shapes."""
        return {kind: self._living(kind, self._probability(log_alpha)) for kind, log_alpha in self.log_alpha.items()}

    @torch.no_grad()
    def means(self) -> dict[str, Tensor]:
        """E[z] of every gate: what plots show, and what tells a living layer from a dead one."""
        flat = torch.cat([log_alpha.flatten() for log_alpha in self.log_alpha.values()])
        means = self._by_kind(hard_concrete.mean(flat, self.settings.beta, self.quadrature))
        return {kind: self._living(kind, mean) for kind, mean in means.items()}

    def _by_kind(self, flat: Tensor) -> dict[str, Tensor]:
        """A number for each gate, all kinds one after another, as {kind: in its stacked shape}."""
        parts = flat.split([log_alpha.numel() for log_alpha in self.log_alpha.values()])
        return {kind: part.view_as(a) for part, (kind, a) in zip(parts, self.log_alpha.items(), strict=True)}

    @torch.no_grad()
    def clamp_(self) -> None:
        """Bring log_alpha back into its bounds; to be called after each optimiser step."""
        if self.settings.clamp is not None:
            for log_alpha in self.log_alpha.values():
                log_alpha.clamp_(-self.settings.clamp, self.settings.clamp)

    @torch.no_grad()
    def deterministic(self, shift: float = 0.0, *, of_heads: float | None = None) -> EncoderGates:
        """The gates to keep: in each group as many of the smallest close as are expected to be closed.

        The others take their noise-free value (CoFiPruning, models/l0_module.py, `_deterministic_z`). A group is one
        kind in one layer; of coarse gates, of which a layer has too few to round, one kind in all layers. A
        convolution keeps one channel at least.

        Args:
            shift: added to the log_alpha of all but the sublayers' gates when it is counted how many are open, for
                who want a certain size (`sparsity.final_gates`).
            of_heads: the same of whole heads' gates; as of all by default.
        """
        final = {}
        for kind, log_alpha in self.log_alpha.items():
            coarse = kind in COARSE_KINDS
            own_shift = of_heads if kind == "head" and of_heads is not None else shift
            moved = log_alpha if kind in SUBLAYER_KINDS else log_alpha + own_shift
            is_open = self._probability_without_clamp(moved) if coarse else self._probability(moved)
            is_open = self._living(kind, is_open)
            values = self._living(kind, hard_concrete.soft_value(log_alpha, self.settings.beta))
            is_conv = kind.startswith(CONV)
            groups = (1, -1) if coarse or is_conv else (log_alpha.size(0), -1)
            kept = _close_smallest(values.reshape(groups), is_open.reshape(groups), at_least=int(is_conv))
            final[kind] = kept.view_as(log_alpha)
        return encoder_gates(self.config, final)

    def _living(self, kind: str, values: Tensor) -> Tensor:
        """Values of a kind of gate, zero for those of rows that were lost before."""
        living = getattr(self, f"living_{kind}")
        return values if living is None else values * living

    def _probability(self, log_alpha: Tensor) -> Tensor:
        return hard_concrete.probability_open(log_alpha, self.settings.beta)

    def _probability_without_clamp(self, log_alpha: Tensor) -> Tensor:
        """P(z > 0), stretched so that the clamp's bounds are certainties.

        The clamp leaves a closed gate 0.047: eleven dead sublayers would add up to one that is kept.
        """
        if self.settings.clamp is None:
            return self._probability(log_alpha)
        bounds = log_alpha.new_tensor([-self.settings.clamp, self.settings.clamp])
        low, high = self._probability(bounds)
        return ((self._probability(log_alpha) - low) / (high - low)).clamp(0, 1)


def _close_smallest(values: Tensor, probability_open: Tensor, *, at_least: int) -> Tensor:
    """`values` (G, n) with zeros for the round(n - sum of P(z > 0)) smallest of each group, `at_least` some kept."""
    closed = (1 - probability_open).sum(1, keepdim=True).round().clamp(max=values.size(1) - at_least)  # (G, 1)
    rank = values.argsort(dim=1, stable=True).argsort(dim=1)  # (G, n), 0 for the smallest
    return values.masked_fill(rank < closed, 0.0)
