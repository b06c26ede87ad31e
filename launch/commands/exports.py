"""Commands that score with a run, write exports, and use them."""

from pathlib import Path
from typing import Annotated

import typer

from equipoise.launch.options import CampaignOptions, ExplainOptions, PriceOptions, RecallOptions
from equipoise.launch.parameters import Adapters, ExportArgument, RunArgument, Set, with_adapters, with_options
from equipoise.scoring.options import AT_EXPORT, BASE, COMPUTES_BY, COMPUTES_IN, RecommendOptions, ScoreOptions
from equipoise.serving.server.options import ServerOptions

Requests = Annotated[Path, typer.Option(help="Requests: Parquet, CSV or JSONL.")]
Base = Annotated[str | None, typer.Option(help=BASE, show_default=AT_EXPORT)]
RowsFile = Annotated[Path, typer.Option(help="File to write: .parquet, .csv or .jsonl.")]


@with_options
def score(
    run: RunArgument,
    requests: Annotated[Path, typer.Argument(help="Parquet file of requests, or a folder.", metavar="REQUESTS")],
    out: Annotated[Path, typer.Argument(help="Folder to write.", metavar="OUT")],
    options: ScoreOptions,
    adapters: Adapters = None,
    overrides: Set = None,
) -> None:
    """Score any number of requests, streaming; called again, go on. Also `-m equipoise.launch.score`."""
    from equipoise.scoring.score_run import score_run

    score_run(run, requests, out, options, with_adapters(overrides, adapters))


def export(
    run: RunArgument,
    out: Annotated[Path, typer.Argument(help="Folder to write.", metavar="OUT")],
    golden: Annotated[int, typer.Option(help="Number of golden prompts.")] = 32,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier export.")] = False,
    formats: Annotated[str, typer.Option("--format", help="peft (always written), merged, onnx.")] = "peft",
    dtype: Annotated[str, typer.Option(help="Of merged checkpoints: float32 or bfloat16.")] = "float32",
    int8: Annotated[bool, typer.Option("--int8", help="Also an ONNX graph in int8, measured.")] = False,
    adapters: Adapters = None,
) -> None:
    """Write one standard PEFT adapter per objective, and prove that plain transformers + peft give the same logits."""
    from equipoise.export.check_process import CheckProcess

    may_have_trees = (run / "priors").is_dir()
    # It imports what it needs while the rest is imported and the export is written.
    with CheckProcess(may_have_trees) as check:
        from equipoise.export.formats import Formats
        from equipoise.export.write import export_run

        kinds = Formats.parse(formats, dtype, int8)
        export_run(run, out, golden, overwrite, kinds, with_adapters(None, adapters), check)


@with_options
def serve(
    export: ExportArgument,
    options: ServerOptions,
    cache_mb: Annotated[
        int, typer.Option(help="MiB for prefixes of returning shoppers, and for items; 0: no cache.")
    ] = 256,
    token_env: Annotated[str | None, typer.Option(help="Environment variable with the bearer token.")] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with the bearer token.")] = None,
    device: Annotated[str, typer.Option(help="Where the model runs, such as cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help=COMPUTES_IN)] = "fp32",
    kernels: Annotated[str, typer.Option(help=COMPUTES_BY)] = "auto",
    base: Base = None,
) -> None:
    """Answer HTTP requests with an export: ranked slates, health, metrics, and a page to try it."""
    from equipoise.launch.serve import serve_export

    serve_export(
        export,
        options,
        cache_mb=cache_mb,
        token_env=token_env,
        token_file=token_file,
        device=device,
        dtype=dtype,
        kernels=kernels,
        base=base,
    )


@with_options
def recommend(export: ExportArgument, users: Requests, out: RowsFile, options: RecommendOptions) -> None:
    """Rank candidates for every shopper of a file with an export, streaming."""
    from equipoise.scoring.recommend import recommend_file

    recommend_file(export, users, out, options)


@with_options
def recall(
    export: ExportArgument,
    requests: Annotated[Path, typer.Option(help="Shoppers, one row each: Parquet, CSV or JSONL.")],
    out: RowsFile,
    options: RecallOptions,
) -> None:
    """Find the best items of the whole catalogue for every shopper of a file."""
    from equipoise.launch.recall import recall_items

    recall_items(export, requests, out, options)


def index(
    export: ExportArgument,
    items: Annotated[Path | None, typer.Option(help="New catalogue: Parquet, CSV or JSONL with item_id.")] = None,
    exact: Annotated[
        bool | None, typer.Option("--exact/--faiss", help="Kind of search.", show_default="by the size")
    ] = None,
    purchases: Annotated[
        Path | None, typer.Option(help="Count popularity and co-purchase again: request_id, item_id, timestamp.")
    ] = None,
    base: Base = None,
) -> None:
    """Encode an export's catalogue again, with new items, new purchases or for another kind of search."""
    from equipoise.launch.index import rebuild_index as index_run

    index_run(export, items, exact, purchases, base)


@with_options
def campaign(
    export: ExportArgument,
    path: Annotated[Path, typer.Argument(help="YAML: fields, value, boosts, caps, top.", metavar="CAMPAIGN.yaml")],
    users: Requests,
    out: RowsFile,
    options: CampaignOptions,
) -> None:
    """Choose the slates of a whole campaign: most value, with caps and minimums over all shoppers."""
    from equipoise.launch.campaign import choose_slates

    choose_slates(export, path, users, out, options)


@with_options
def price(
    export: ExportArgument,
    requests: Annotated[Path, typer.Option(help="Requests: Parquet, CSV or JSONL, as `recommend` reads them.")],
    out: RowsFile,
    options: PriceOptions,
) -> None:
    """Choose the price of every candidate of a file, among allowed ones, by expected profit or revenue."""
    from equipoise.launch.price import choose_prices

    choose_prices(export, requests, out, options)


@with_options
def explain(
    export: ExportArgument,
    request: Annotated[Path, typer.Argument(help="JSON of one request, as for POST /rank.", metavar="REQUEST.json")],
    options: ExplainOptions,
) -> None:
    """Say why a candidate gets its scores: what each part of its prompts and each term of its utility contributes."""
    from equipoise.launch.explain import explain_request

    explain_request(export, request, options)


def update(
    export: ExportArgument,
    impressions: Annotated[Path, typer.Option(help="Later impressions: Parquet, CSV or JSONL.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the state.", show_default="the export's own, EXPORT/rates")
    ] = None,
) -> None:
    """Add later impressions to the state of an export's rates, so that requests get rates of today without training."""
    from equipoise.launch.rates import update_rates

    update_rates(export, impressions, out)


def push(
    export: ExportArgument,
    repo: Annotated[str, typer.Argument(help="Repository on the Hugging Face Hub: OWNER/NAME.", metavar="REPO")],
    private: Annotated[bool, typer.Option("--private", help="Make it private; refuse one that is public.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to write to.", show_default="main")] = None,
    token_env: Annotated[
        str | None,
        typer.Option(help="Environment variable with the token.", show_default="HF_TOKEN or `hf auth login`"),
    ] = None,
) -> None:
    """Write an export into a repository of the Hugging Face Hub, in one commit."""
    from equipoise.launch.push import push_export

    push_export(export, repo, private, revision, token_env)


RATES_COMMANDS = (update,)
COMMANDS = (score, export, push, serve, recommend, recall, index, campaign, price, explain)
