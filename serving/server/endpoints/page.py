"""GET /: a page to try the export in a browser."""

from functools import cache
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

PAGE = Path(__file__).parents[1] / "page.html"
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}

router = APIRouter()


@cache
def _page() -> str:
    return PAGE.read_text("utf-8")


@router.get("/", response_class=HTMLResponse)
async def page() -> HTMLResponse:
    """The page: one file, nothing from elsewhere."""
    return HTMLResponse(_page(), headers=HEADERS)
