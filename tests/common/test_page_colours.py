"""Pages and pictures draw from one palette, with enough contrast on both grounds."""

import re

import pytest
from matplotlib.colors import to_rgb

from equipoise.common.page.colours import CHOICES, FRONT, SERIES, SERIES_DARK, style_variables
from equipoise.common.page.whole_page import whole_page
from equipoise.evaluation.balance import balance_plot
from equipoise.evaluation.compare import charts
from equipoise.evaluation.front import plot

PAGES = ("equipoise.evaluation.compare", "equipoise.evaluation.run_page", "equipoise.serving.server.page")


def luminance(colour: str) -> float:
    """Relative luminance by WCAG 2."""
    parts = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in to_rgb(colour)]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


@pytest.mark.parametrize("package", PAGES)
def test_a_page_has_the_colours_of_the_pictures(package: str) -> None:
    page = whole_page(package, None if "server" in package else {})
    light, dark = re.findall(r":root \{ (--c0[^}]*)\}", page)
    for place, (of_light, of_dark) in enumerate(zip(SERIES, SERIES_DARK, strict=True)):
        assert f"--c{place}: {of_light};" in light and f"--c{place}: {of_dark};" in dark
    assert light.strip() in style_variables()


def test_pictures_have_no_colours_of_their_own() -> None:
    assert balance_plot.SERIES is charts.SERIES is SERIES
    assert plot.CHOICES is CHOICES and plot.FRONT == FRONT == SERIES[0]
    assert set(CHOICES) == set(plot.STYLE) and len(set(CHOICES.values()) | {FRONT}) == 4


def test_series_are_seen_on_their_ground() -> None:
    for colours, ground in ((SERIES, "#ffffff"), (SERIES_DARK, "#1a211e")):
        for colour in colours:
            bright, dim = sorted((luminance(colour), luminance(ground)), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 3, colour  # WCAG 1.4.11
    assert len(set(SERIES)) == len(set(SERIES_DARK)) == 8
