"""The commands of the uses: new shoppers, recall, campaigns, prices, explanations; thin, as those of cli.py."""

from pathlib import Path
from typing import Annotated

import typer

RunArgument = Annotated[Path, typer.Argument(help="Run folder that `train` wrote.", metavar="RUN")]
ExportArgument = Annotated[Path, typer.Argument(help="Folder that `export` wrote.", metavar="EXPORT")]


def add_to(app: typer.Typer) -> None:
    """Give the command line these commands."""
    for command in (newcomers, recall, index, campaign, price, explain):
        app.command()(command)


def newcomers(
    run: RunArgument,
    requests: Annotated[int | None, typer.Option(help="Most requests per group; default: max_requests.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Settings to change: key.sub=value.")] = None,
) -> None:
    """Measure shoppers unseen in training beside the known ones: as told, with their profile only, with nothing."""
    from equipoise.evaluation.cold_start import measure_cold_start as newcomers_run

    newcomers_run(run, requests, overrides or [])


def recall(
    export: ExportArgument,
    requests: Annotated[Path, typer.Option(help="Shoppers, one row each: Parquet, CSV or JSONL.")],
    out: Annotated[Path, typer.Option(help="File to write: .parquet, .csv or .jsonl.")],
    top: Annotated[int, typer.Option(help="Items per shopper.")] = 100,
    exclude_bought: Annotated[bool, typer.Option(help="Leave out the items of the column `bought`.")] = False,
    device: Annotated[str, typer.Option(help="Where the model runs, such as cuda.")] = "cpu",
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier file.")] = False,
) -> None:
    """Find the best items of the whole catalogue for every shopper of a file."""
    from equipoise.launch.recall import RecallOptions
    from equipoise.launch.recall import recall_items as recall_run

    recall_run(export, requests, out, RecallOptions(top, exclude_bought, device, overwrite))


def index(
    export: ExportArgument,
    items: Annotated[Path | None, typer.Option(help="New catalogue: Parquet, CSV or JSONL with item_id.")] = None,
    exact: Annotated[
        bool | None, typer.Option("--exact/--faiss", help="Kind of search.", show_default="by the size")
    ] = None,
) -> None:
    """Encode an export's catalogue again, with new items or for another kind of search."""
    from equipoise.launch.index import rebuild_index as index_run

    index_run(export, items, exact)


def campaign(
    export: ExportArgument,
    path: Annotated[Path, typer.Argument(help="YAML: fields, value, boosts, caps, top.", metavar="CAMPAIGN.yaml")],
    users: Annotated[Path, typer.Option(help="Requests: Parquet, CSV or JSONL.")],
    out: Annotated[Path, typer.Option(help="File to write: .parquet, .csv or .jsonl.")],
    candidates: Annotated[Path | None, typer.Option(help="One list of candidates for all shoppers.")] = None,
    device: Annotated[str, typer.Option(help="Where the model runs, such as cuda.")] = "cpu",
    max_candidates: Annotated[int | None, typer.Option(help="Of a request.", show_default="as in training")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier file.")] = False,
) -> None:
    """Choose the slates of a whole campaign: most value, with caps and minimums over all shoppers."""
    from equipoise.launch.campaign import CampaignOptions
    from equipoise.launch.campaign import choose_slates as campaign_run

    campaign_run(export, path, users, out, CampaignOptions(candidates, device, max_candidates, overwrite))


def price(
    export: ExportArgument,
    requests: Annotated[Path, typer.Option(help="Requests: Parquet, CSV or JSONL, as `recommend` reads them.")],
    out: Annotated[Path, typer.Option(help="File to write: .parquet, .csv or .jsonl.")],
    prices: Annotated[str | None, typer.Option(help="Allowed prices: 3.49,3.99.")] = None,
    bounds: Annotated[str | None, typer.Option(help="Allowed prices: LEAST:MOST:STEP.")] = None,
    factors: Annotated[str | None, typer.Option(help="Allowed prices, by the current one: 0.9,1,1.1.")] = None,
    goal: Annotated[
        str | None, typer.Option(help="profit or revenue.", show_default="profit where there is a column cost")
    ] = None,
    field: Annotated[str, typer.Option(help="What the price is called in the data.")] = "price",
    device: Annotated[str, typer.Option(help="Where the model runs, such as cuda.")] = "cpu",
    cache_mb: Annotated[int, typer.Option(help="MiB of prefixes of returning shoppers that are kept.")] = 256,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier file.")] = False,
) -> None:
    """Choose the price of every candidate of a file, among allowed ones, by expected profit or revenue."""
    from equipoise.launch.price import PriceOptions
    from equipoise.launch.price import choose_prices as price_run

    price_run(export, requests, out, PriceOptions(prices, bounds, factors, goal, field, device, cache_mb, overwrite))


def explain(
    export: ExportArgument,
    request: Annotated[Path, typer.Argument(help="JSON of one request, as for POST /rank.", metavar="REQUEST.json")],
    item: Annotated[
        list[str] | None, typer.Option(help="item_id to explain; may be repeated. Default: the best.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Picture to write: .png, .svg or .pdf.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    device: Annotated[str, typer.Option(help="Where the model runs, such as cuda.")] = "cpu",
) -> None:
    """Say why a candidate gets its scores: what each part of its prompts and each term of its utility contributes."""
    from equipoise.launch.explain import ExplainOptions
    from equipoise.launch.explain import explain_request as explain_run

    explain_run(export, request, ExplainOptions(tuple(item or ()), picture, out, device))
