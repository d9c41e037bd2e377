"""A figure as part of a page: its lines and letters in the page's colours, so that it is read in light and in dark."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, cast
from xml.dom import minidom

from ..superb.plots import GREY

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# what matplotlib draws in these follows the page; curves and pictures keep their own colours
PAGE_COLOURS = {"#000000": "currentColor", "#ffffff": "var(--paper)", GREY: "var(--muted)"}
REFERENCES = ("xlink:href", "clip-path")


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an <svg> element that needs nothing from outside.

    Args:
        name: of this figure in its page; sets its ids apart from those of others.
        description: for those who do not see it.
    """
    import matplotlib

    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", dpi=110, metadata={"Date": None})
    svg = cast(minidom.Element, minidom.parseString(file.getvalue()).documentElement)
    for element in svg.getElementsByTagName("metadata"):
        cast(minidom.Element, element.parentNode).removeChild(element)
    for element in [svg, *svg.getElementsByTagName("*")]:
        _adapt(element, name)
    svg.removeAttribute("height")
    svg.removeAttribute("width")
    svg.setAttribute("role", "img")
    svg.setAttribute("aria-label", description)
    return svg.toxml()


def _adapt(element: minidom.Element, prefix: str) -> None:
    """Ids that no other figure has, colours of the page."""
    if element.hasAttribute("id"):
        element.setAttribute("id", f"{prefix}-{element.getAttribute('id')}")
    for attribute in REFERENCES:
        value = element.getAttribute(attribute)
        if value.startswith("#"):
            element.setAttribute(attribute, f"#{prefix}-{value[1:]}")
        elif value.startswith("url(#"):
            element.setAttribute(attribute, f"url(#{prefix}-{value[5:]}")
    if element.hasAttribute("style"):
        style = element.getAttribute("style")
        for drawn, shown in PAGE_COLOURS.items():
            style = style.replace(drawn, shown)
        element.setAttribute("style", style)
