"""The one progress bar."""

import io

from rich.console import Console

from equipoise.common.progress import ProgressBar


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_counts_lines_and_fields_of_the_extra_column() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=120)
    with ProgressBar(unit="requests", extra="{rate} impressions/s", console=console, transient=False) as bar:
        bar.add("scoring", 8, rate="–")
        bar.update(3, rate="1,200")
        bar.advance(2)
        bar.add("saving", 4, rate="5")
        bar.add("saving", 9, rate="5")  # there already
        bar.advance(1, "saving")
    text = shown(console)
    assert "5/8 requests, 1,200 impressions/s" in text
    assert "1/4 requests, 5 impressions/s" in text


def test_stages_are_fractions() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=120)
    with ProgressBar("preparing", console=console, transient=False) as bar:
        bar.stage("sorting", 0.5)
    assert "sorting" in shown(console) and "50%" in shown(console)
