"""What survives in each layer of a pruned encoder: a picture in the terminal and as a figure.

For every head its q/k and its v/o width, for every layer the feed-forward width, which sublayers exist, and the
layer's share of the encoder's parameters. `comparison` draws several encoders' layers into the same axes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..model.config import EncoderConfig, TransformerLayer
from ..model.size import attention_parameters, count_parameters, feed_forward_parameters
from .figures import look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.table import Table

STEPS = "0▁▂▃▄▅▆▇█"
NO_HEAD = "·"
FULL, EMPTY = "█", "░"
BAR_WIDTH = 8
ON_DARK, ON_BRIGHT = "#eeeeee", "#111111"  # numbers in the cells, whose colours do not follow the page's
BIAS_ONLY, GONE = "bias only", "gone"
LIVING = ("whole", "pruned")


@dataclass(frozen=True)
class LayerAnatomy:
    """One layer.

    Attributes:
        number: from 1, the hidden state that it puts out; in parameter names it is one less.
        qk, vo: for each head of the dense layer, its living width (0 for a head that is gone).
        ffn: living feed-forward dimensions.
        attention, feed_forward: "whole", "pruned", "bias only" or "gone".
        parameters: both sublayers and the two layer norms.
    """

    number: int
    qk: tuple[int, ...]
    vo: tuple[int, ...]
    ffn: int
    attention: str
    feed_forward: str
    parameters: int

    @property
    def heads(self) -> int:
        """How many heads live."""
        return sum(width > 0 for width in self.vo)


def layer_anatomy(config: EncoderConfig) -> list[LayerAnatomy]:
    """All layers, the lowest first."""
    return [_layer(config, number, layer) for number, layer in enumerate(config.layers, start=1)]


def terminal_picture(config: EncoderConfig) -> Table:
    """One line per layer; in the columns q/k and v/o every character is a head, as high as what of it lives."""
    from rich import box
    from rich.table import Table

    total = count_parameters(config)
    table = Table(
        title=f"What survives of {config.num_heads} heads of {config.head_dim} and {config.ffn_dim} FFN dimensions",
        title_justify="left",
        caption=f"one character per head, as high as what lives of it; {NO_HEAD} is gone, 0 has no q/k left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for name in ("layer", "q/k", "v/o", "heads", "FFN", "", "M", "%"):
        table.add_column(name, justify="left" if name in ("q/k", "v/o", "FFN") else "right", no_wrap=True)
    for layer in layer_anatomy(config):
        table.add_row(
            str(layer.number),
            *(_attention(layer, widths, config) for widths in (layer.qk, layer.vo)),
            str(layer.heads),
            _bar(layer.ffn, config.ffn_dim) if layer.feed_forward in LIVING else layer.feed_forward,
            str(layer.ffn),
            f"{layer.parameters / 1e6:.2f}",
            f"{100 * layer.parameters / total:.0f}",
        )
    return table


def figure(config: EncoderConfig) -> Figure:
    """Head widths (q/k and v/o), feed-forward width and parameters of every layer, the top layer above."""
    from matplotlib.figure import Figure

    layers = layer_anatomy(config)
    figure = Figure(figsize=(11, 1.6 + 0.33 * len(layers)), layout="constrained")
    queries, values, widths, sizes = figure.subplots(1, 4, sharey=True, width_ratios=(1.2, 1.2, 1, 1))
    for axes, title, part in ((queries, "q/k", "qk"), (values, "v/o", "vo")):
        image = axes.imshow(
            [getattr(layer, part) for layer in layers],
            cmap="viridis",
            vmin=0,
            vmax=config.head_dim,
            aspect="auto",
            origin="lower",
            extent=(-0.5, config.num_heads - 0.5, 0.5, len(layers) + 0.5),
        )
        _write_widths(axes, layers, part, config.head_dim)
        axes.set_xticks(range(config.num_heads))
        axes.set_xlabel("head")
        axes.set_title(f"{title} dimensions")
    figure.colorbar(image, ax=values, label="living dimensions")
    numbers = [layer.number for layer in layers]
    _bars(widths, numbers, [layer.ffn for layer in layers], [layer.feed_forward for layer in layers])
    widths.set_xlim(0, config.ffn_dim)
    widths.set_xticks([0, config.ffn_dim // 2])
    widths.set_title(f"FFN width of {config.ffn_dim}")
    _bars(sizes, numbers, [layer.parameters / 1e6 for layer in layers], ["whole"] * len(layers))
    sizes.set_title("parameters (M)")
    queries.set_yticks(numbers)
    queries.set_ylabel("layer")
    return figure


def comparison(encoders: Mapping[str, EncoderConfig], head: int = 0) -> Figure:
    """What survives in each layer of one or several encoders, a curve each.

    The first axes are figure 3b of Wang et al. (Interspeech 2023): the surviving entries of W_V of one head.

    Args:
        encoders: by the name in the legend.
        head: number of that head in the dense layer.
    """
    from matplotlib.figure import Figure

    panels: dict[str, Callable[[EncoderConfig], Sequence[float]]] = {
        f"entries of $W_V$ of head {head}": lambda config: value_entries(config, head),
        "heads": lambda config: [layer.heads for layer in layer_anatomy(config)],
        "q/k dimensions": lambda config: [layer.qk for layer in config.layers],
        "v/o dimensions": lambda config: [layer.vo for layer in config.layers],
        "FFN dimensions": lambda config: [layer.ffn for layer in config.layers],
        "parameters (M)": lambda config: [layer.parameters / 1e6 for layer in layer_anatomy(config)],
    }
    if any(layer.channels < layer.dense_channels for config in encoders.values() for layer in config.conv):
        panels["channels of the convolutions"] = lambda config: [layer.channels for layer in config.conv]
    rows = -(-len(panels) // 3)
    figure = Figure(figsize=(11, 0.6 + 2.4 * rows), layout="constrained")
    grid = figure.subplots(rows, 3, squeeze=False).flat
    for (title, count), axes in zip(panels.items(), grid, strict=False):
        for number, (name, config) in enumerate(encoders.items()):
            counts = count(config)
            numbers = range(1, len(counts) + 1)
            axes.plot(numbers, counts, label=name, markersize=5, **look(number))
        axes.axhline(
            max(max(count(config.densified())) for config in encoders.values()), color="#666666", ls=":", label="dense"
        )
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("convolution" if title.startswith("channels") else "layer", fontsize=8)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(bottom=0)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
    for axes in grid:
        axes.remove()
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def value_entries(config: EncoderConfig, head: int) -> list[int]:
    """Surviving entries of W_V of one head, counted as in the dense layer, for each layer."""
    return [layer.vo[head] * config.embed_dim for layer in layer_anatomy(config)]


def _layer(config: EncoderConfig, number: int, layer: TransformerLayer) -> LayerAnatomy:
    living = {head.id: head for head in layer.heads}
    dense = config.dense_layer()
    heads = range(config.num_heads)
    return LayerAnatomy(
        number=number,
        qk=tuple(living[i].qk if i in living else 0 for i in heads),
        vo=tuple(living[i].vo if i in living else 0 for i in heads),
        ffn=layer.ffn,
        attention=_state(layer.attention, bool(layer.heads), layer.heads == dense.heads),
        feed_forward=_state(layer.feed_forward, layer.ffn > 0, layer.ffn == dense.ffn),
        parameters=attention_parameters(config, layer)
        + feed_forward_parameters(config, layer)
        + 4 * config.embed_dim,  # two layer norms
    )


def _state(exists: bool, has_dimensions: bool, is_dense: bool) -> str:
    if not exists:
        return GONE
    if not has_dimensions:
        return BIAS_ONLY
    return "whole" if is_dense else "pruned"


def _attention(layer: LayerAnatomy, widths: Sequence[int], config: EncoderConfig) -> str:
    """One character per head; a dimension that lives is never rounded away."""
    if layer.attention not in LIVING:
        return layer.attention
    heights = [STEPS[-(-width * (len(STEPS) - 1) // config.head_dim)] for width in widths]
    return "".join(height if vo else NO_HEAD for height, vo in zip(heights, layer.vo, strict=True))


def _bar(value: int, full: int) -> str:
    filled = -(-value * BAR_WIDTH // full)
    return FULL * filled + EMPTY * (BAR_WIDTH - filled)


def _write_widths(axes: Axes, layers: Sequence[LayerAnatomy], part: str, full: int) -> None:
    for layer in layers:
        for head, width in enumerate(getattr(layer, part)):
            if layer.vo[head]:  # 0 where a living head has no q/k left
                colour = ON_BRIGHT if width > 0.6 * full else ON_DARK
                axes.text(head, layer.number, width, ha="center", va="center", fontsize=6, color=colour)
        if layer.attention not in LIVING:
            middle = (len(layer.qk) - 1) / 2
            axes.text(middle, layer.number, layer.attention, ha="center", va="center", fontsize=7, color=ON_DARK)


def _bars(axes: Axes, numbers: Sequence[int], values: Sequence[float], states: Sequence[str]) -> None:
    axes.barh(numbers, values, color="#0072B2")
    room = 0.02 * max(values, default=0)
    for number, state in zip(numbers, states, strict=True):
        if state not in LIVING:
            axes.text(room, number, state, va="center", fontsize=7)
    axes.grid(axis="x", alpha=0.25)
