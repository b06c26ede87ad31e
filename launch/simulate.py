"""equipoise simulate: writes the tables of a shop whose true demand is known (docs/simulator.md)."""

from pathlib import Path

from equipoise.common.console import new_console
from equipoise.common.progress import ProgressBar
from equipoise.data.simulator.settings import SimulatorSettings
from equipoise.data.simulator.write import simulate


def write_simulation(folder: Path, settings: SimulatorSettings, block: int, overwrite: bool) -> None:
    """Write a simulated shop and say what it holds.

    Raises:
        UserError: `folder` exists, or `block` is no number of requests.
    """
    with ProgressBar("simulating") as bar:
        counts = simulate(folder, settings, block, overwrite, bar.update)
    shown, clicks, purchases = counts["impressions"], counts["clicks"], counts["purchases"]
    console = new_console()
    console.print(
        f"{folder}: {settings.requests:,} requests, {shown:,} impressions, {clicks:,} clicks ({clicks / shown:.1%}), "
        f"{purchases:,} purchases ({purchases / shown:.1%}), {counts['events']:,} events",
        soft_wrap=True,
    )
    console.print(f"the truth lies in {folder / 'truth'}, which no command but a measurement reads", soft_wrap=True)
