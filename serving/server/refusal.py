"""Every answer that is no success: one sentence, and the place in the request that it is about."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as StarletteException

from equipoise.serving.server.bodies import HISTORY_FORMS, UNKNOWN_KEY

CLIENT_GONE = 499
"""What nginx calls a client that left before its answer; nobody receives it, the metrics count it."""

SENTENCES = {
    404: "no such route: see /openapi.json for what there is",
    405: "this route does not take this method: see the header Allow",
}


class ErrorAnswer(BaseModel):
    """An error as clients read it."""

    error: str = Field(description="One sentence: what is wrong, and the way out.")
    where: str = Field(description="Place in the request, such as `candidates[3].item_id`, `body` or `path`.")


class Refusal(HTTPException):
    """A request that is not answered.

    Args:
        status: HTTP status.
        error: one sentence.
        where: place in the request.
        headers: further headers of the answer.
        close: whether the connection ends with it, because the rest of the request was not read.
    """

    def __init__(
        self, status: int, error: str, where: str, headers: Mapping[str, str] | None = None, close: bool = False
    ) -> None:
        every = {**(headers or {}), **({"connection": "close"} if close else {})}
        super().__init__(status, error, every or None)
        self.where = where


class Overloaded(Refusal):
    """The one 5xx of ours: too much to do, come back later."""

    def __init__(self, error: str) -> None:
        super().__init__(503, error, "server", {"retry-after": "1"})


def error_answer(status: int, error: str, where: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The JSON of a refusal."""
    return JSONResponse({"error": error, "where": where}, status, dict(headers) if headers else None)


def path_of(location: Sequence[Any]) -> str:
    """("body", "candidates", 3, "item_id") as `candidates[3].item_id`; the body itself as `body`."""
    path = ""
    for part in location[1:] if location and location[0] == "body" else location:
        if part in HISTORY_FORMS:
            continue
        path += f"[{part}]" if isinstance(part, int) else f"{'.' if path else ''}{str(part)[:100]}"
    return path or "body"


def place_of(error: Mapping[str, Any]) -> str:
    """The place of what pydantic found, an unknown key included."""
    key = (error["ctx"]["key"],) if error["type"] == UNKNOWN_KEY else ()
    return path_of((*error["loc"], *key))


def sentence_of(error: Mapping[str, Any]) -> str:
    """What pydantic found, as a sentence that names the place."""
    where = place_of(error)
    kind = error["type"]
    if kind == "missing":
        return "the request has no JSON body" if where == "body" else f"{where} is missing"
    if kind == UNKNOWN_KEY:
        return f"unknown key '{where}': {error['msg']}"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{where}: {message[:1].lower()}{message[1:]}"


def install(app: FastAPI) -> None:
    """Let every error of `app` be answered in this form."""

    @app.exception_handler(StarletteException)
    async def refused(request: Request, error: StarletteException) -> JSONResponse:
        sentence = SENTENCES.get(error.status_code, str(error.detail))
        where = "method" if error.status_code == 405 else "path"
        if isinstance(error, Refusal):
            sentence, where = str(error.detail), error.where
        return error_answer(error.status_code, sentence, where, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return error_answer(422, sentence_of(first), place_of(first))
