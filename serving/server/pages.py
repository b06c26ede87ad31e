"""What a browser or a monitor asks for: GET /examples, /health, /metrics, the page at /, and the interface at /docs."""

import asyncio
from functools import cache
from importlib import resources
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field

from equipoise.common.page.whole_page import HEADERS, icon, whole_page
from equipoise.serving.server.service import Service, service_of

DOCS_HEADERS = HEADERS | {
    "content-security-policy": HEADERS["content-security-policy"]
    .replace("style-src ", "style-src 'self' ")
    .replace("script-src ", "script-src 'self' ")
}
SWAGGER = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}

router = APIRouter()


class Shown(BaseModel):
    """A candidate in the words that the model reads."""

    item_id: str | None
    text: str
    context: str


class Example(BaseModel):
    """A request, and what became of it."""

    name: str
    request: dict[str, Any] = Field(description="As POST /rank takes it.")
    prefix: str = Field(description="The shopper in the words that the model reads.")
    shown: list[Shown]
    clicked: list[int] = Field(description="Places of the candidates that were clicked.")
    converted: list[int] = Field(description="Places of those that were bought.")


class Examples(BaseModel):
    """What is served, and requests to try."""

    export: str
    pointwise: list[str]
    listwise: list[str]
    operating_point: dict[str, float] = Field(description="ω of each list-wise objective where a request gives none.")
    bounds: dict[str, tuple[float, float]] = Field(description="Lowest and highest ω of each list-wise objective.")
    max_candidates: int
    promises: list[dict[str, Any]] = Field(description="Where the promises of --keep stand: ω, value, windows, broken.")
    examples: list[Example]


def read_example(service: Service, example: dict[str, Any]) -> Example:
    """An example of the export with its texts; of more candidates than a request may have, the first.

    Raises:
        UserError: it is no request of this export.
    """
    most = service.recommender.limits.candidates
    beside = ("name", "clicked", "converted")
    request = {key: value for key, value in example.items() if key not in beside}
    request["candidates"] = request["candidates"][:most]
    request.setdefault("value_weight", 0.0)  # examples carry no values
    read = service.recommender.prepare(request).request
    places = {label: [place for place in example.get(label, []) if place < most] for label in beside[1:]}
    if service.recommender.reader.compared is not None:  # what stands in the history is compared, too
        request["recent"] = list(read.recent)
    for replaced in ("user", "history"):
        request.pop(replaced, None)
    return Example(
        name=str(example.get("name", read.request_id)),
        request=request | {"prefix": read.prefix},
        prefix=read.prefix,
        shown=[
            Shown(item_id=candidate.item_id, text=candidate.text, context=candidate.context)
            for candidate in read.candidates
        ],
        **places,
    )


@router.get("/examples")
def examples(request: Request) -> Examples:
    """Shoppers with candidates, as the test split has them."""
    service = service_of(request)
    recommender = service.recommender
    if service.shown_examples is None:  # read once, whoever asks how often
        service.shown_examples = [read_example(service, example) for example in recommender.examples]
    return Examples(
        export=recommender.name,
        pointwise=list(recommender.pointwise),
        listwise=list(recommender.listwise),
        operating_point=dict(recommender.operating_point),
        bounds=dict(recommender.bounds),
        max_candidates=recommender.limits.candidates,
        promises=service.keeper.to_json() if service.keeper is not None else [],
        examples=service.shown_examples,
    )


class Health(BaseModel):
    """The export that is served."""

    status: str
    export: str
    pointwise: list[str]
    listwise: list[str]
    version: str = Field(description="Of Equipoise.")
    export_version: str = Field(description="Folder of the export, and the start of its digest.")


@router.get("/health")
async def health(request: Request) -> Health:
    """Whether the server is alive; needs no token."""
    service = service_of(request)
    recommender = service.recommender
    return Health(
        status="ok",
        export=recommender.name,
        pointwise=list(recommender.pointwise),
        listwise=list(recommender.listwise),
        version=version("equipoise"),
        export_version=service.version,
    )


@router.get("/request_schema.json")
async def request_schema(request: Request) -> dict[str, Any]:
    """JSON Schema of a request for POST /rank, with the export's own names and bounds."""
    return service_of(request).recommender.request_schema


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Requests, latencies, batches, queue and prefix cache."""
    counts = request.app.state.counts
    page = service_of(request).metrics.page() if counts is None else await asyncio.to_thread(counts.whole_page)
    return Response(page, media_type=CONTENT_TYPE_LATEST)


@cache
def _page(name: str) -> str:
    return whole_page(f"equipoise.serving.server.{name}")


@router.get("/", response_class=HTMLResponse)
async def page() -> HTMLResponse:
    """The page: one file, nothing from elsewhere."""
    return HTMLResponse(_page("page"), headers=HEADERS)


@router.get("/favicon.ico", include_in_schema=False)
async def favicon() -> Response:
    """The picture of a tab."""
    return Response(icon(), media_type="image/svg+xml", headers={"cache-control": "max-age=86400"})


@router.get("/docs", response_class=HTMLResponse, include_in_schema=False)
async def docs() -> HTMLResponse:
    """Every route with its fields, to read and to try: Swagger UI, with nothing from elsewhere."""
    return HTMLResponse(_page("docs"), headers=DOCS_HEADERS)


@router.get("/docs/{name}", include_in_schema=False)
async def docs_file(name: str) -> FileResponse:
    """A file of Swagger UI, as the package fastapi-offline holds it."""
    if name not in SWAGGER:
        raise HTTPException(404)
    with resources.as_file(resources.files("fastapi_offline") / "static" / name) as path:
        headers = {"cache-control": "max-age=86400", "x-content-type-options": "nosniff"}
        return FileResponse(path, media_type=SWAGGER[name], headers=headers)
