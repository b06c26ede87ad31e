"""Self-contained HTML pages: shared look and drawing, a page's own, and its data, in one text without a network."""

import json
from importlib import resources
from typing import Any
from urllib.parse import quote

from equipoise.common.page.colours import style_variables

SHARED = "equipoise.common.page"
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
"""Of a page that a server gives: it runs its own script and asks its own server, nothing else."""


def whole_page(package: str, value: Any = None) -> str:
    """The page of a package with `page.html`, `page.css` and `page.js`, which draws everything from `value`.

    Args:
        package: whose files they are; the shared ones stand before its own.
        value: JSON-ready, without NaN; None where the page asks its server for what it draws.
    """
    parts = {
        "/*ICON*/": f"data:image/svg+xml,{quote(icon())}",
        "/*STYLE*/": style_variables() + _part(SHARED, "base.css") + _part(package, "page.css"),
        "/*SCRIPT*/": _part(SHARED, "draw.js") + _part(package, "page.js"),
        **({} if value is None else {"/*DATA*/": safe_json(value)}),
    }
    pieces, rest = [], _part(package, "page.html")
    for mark, text in parts.items():  # in the order of the page, so that what was put in is not searched for marks
        head, found, rest = rest.partition(mark)
        assert found, f"{package}: page.html has no {mark}"
        pieces += [head, text]
    return "".join([*pieces, rest])


def icon() -> str:
    """The picture of a tab, as SVG."""
    return _part(SHARED, "icon.svg").strip()


def safe_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in, whatever strings it holds."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _part(package: str, name: str) -> str:
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")
