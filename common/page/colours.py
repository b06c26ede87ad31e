"""The colours of pages and pictures: one palette, so that an objective has the same colour in HTML and PNG."""

SERIES = ("#0072b2", "#c94f00", "#00875f", "#b0558a", "#7a5cc4", "#946b00", "#1f7fb4", "#8c6d1f")
"""Of objectives, methods and runs on a light ground, in their order: Okabe & Ito's colours, darkened for contrast."""
SERIES_DARK = ("#4fb0ee", "#ff8f4d", "#3fcf9f", "#e79ac6", "#b09cf0", "#e5b83a", "#8ad0f5", "#cbb06a")
"""The same on a dark ground."""
FOR, AGAINST, NEUTRAL = "#0d7a4f", "#b3452c", "#5d6a66"
"""What raises a utility, what lowers it, and what has no direction, on a light ground."""
FRONT, DOMINATED = SERIES[0], "#b9c0bd"
"""Points of a front, and those that another one dominates."""
CHOICES = {"knee": SERIES[1], "weights": SERIES[2], "constraint": SERIES[3]}
"""Of the rules by which an operating point is chosen."""


def style_variables() -> str:
    """The palette as CSS: --c0 … --c7, --choice-RULE, --front and --dominated, light and dark."""
    light = [f"--c{place}: {colour}" for place, colour in enumerate(SERIES)]
    light += [f"--choice-{rule}: var(--c{SERIES.index(colour)})" for rule, colour in CHOICES.items()]
    light += ["--front: var(--c0)", f"--dominated: {DOMINATED}", f"--up: {FOR}", f"--down: {AGAINST}"]
    dark = [f"--c{place}: {colour}" for place, colour in enumerate(SERIES_DARK)]
    dark += ["--dominated: #55625d", "--up: #5bd39b", "--down: #f08f76"]
    return (
        f":root {{ {'; '.join(light)}; }}\n@media (prefers-color-scheme: dark) {{ :root {{ {'; '.join(dark)}; }} }}\n"
    )
