"""Reading a body with limits on bytes and time, and as JSON that leaves nothing open to interpretation.

What is done with a body takes time in proportion to its bytes, whatever it holds, and large ones are parsed and checked
in a thread, so that the event loop goes on answering others.
"""

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from equipoise.serving.server.bodies import MAX_CANDIDATES
from equipoise.serving.server.options import ServerOptions
from equipoise.serving.server.refusal import CLIENT_GONE, Refusal, place_of, sentence_of
from equipoise.serving.server.service import service_of

DRAIN_BYTES = 4 * 2**20
DRAIN_SECONDS = 1.0
SMALL_BYTES = 16 * 1024
"""A body that takes less time to check than a thread takes to be woken."""
MAX_ENTRIES = 10_000
"""Of one object: as many as any part of a request may have."""
MAX_COMMAS = 100_000
"""Of a body, texts included: their number bounds the values, each of which takes more time than its bytes."""


class StrictRequest(Request):
    """A request whose body is refused as soon as it is known to be too large, too slow, no strict JSON or no `model`.

    Attributes:
        model: what the route takes, of which `json` gives a checked one.
    """

    model: type[BaseModel] | None = None

    async def body(self) -> bytes:
        """The whole body, non-empty.

        Raises:
            Refusal: 413 too large, 415 no JSON, 408 too slow, 400 empty.
        """
        if not hasattr(self, "_body"):
            self._body = await self._read()
        return self._body

    async def json(self) -> Any:
        """The body as the route's model.

        Raises:
            Refusal: 400, it is no strict JSON; 413, it has too many candidates; 422, it is not what the route takes.
        """
        if not hasattr(self, "_json"):
            body = await self.body()
            most = service_of(self).recommender.limits.candidates
            if len(body) <= SMALL_BYTES:
                self._json = read_body(body, self.model, most)
            else:
                reading = service_of(self).reading
                self._json = await asyncio.get_running_loop().run_in_executor(
                    reading, read_body, body, self.model, most
                )
        return self._json

    async def _read(self) -> bytes:
        options: ServerOptions = service_of(self).options
        most = options.max_body_kb * 1024
        self._check_type()
        announced = self.headers.get("content-length", "0")
        if announced.isdecimal() and int(announced[:20]) > most:
            raise await self._too_large(options)
        chunks = bytearray()
        try:
            async with asyncio.timeout(options.timeout_s):
                async for chunk in self.stream():
                    chunks += chunk
                    if len(chunks) > most:
                        raise await self._too_large(options)
        except TimeoutError as error:
            sentence = f"the body did not arrive within {options.timeout_s:g} seconds: send it faster"
            raise Refusal(408, sentence, "body", close=True) from error
        except ClientDisconnect as error:
            raise Refusal(CLIENT_GONE, "the client left", "body") from error
        if not chunks:
            raise Refusal(400, "the request has no JSON body", "body")
        return bytes(chunks)

    def _check_type(self) -> None:
        given = self.headers.get("content-type", "")
        kind, _, parameters = given.partition(";")
        if kind.strip().lower() != "application/json":
            raise Refusal(415, "send JSON, with the header content-type: application/json", "header content-type")
        for parameter in parameters.split(";"):
            name, _, value = parameter.partition("=")
            if name.strip().lower() == "charset" and value.strip(' "').lower() not in ("utf-8", "utf8"):
                raise Refusal(415, "send JSON in UTF-8", "header content-type")
        if self.headers.get("content-encoding", "identity").lower() != "identity":
            raise Refusal(415, "send the body uncompressed", "header content-encoding")

    async def _too_large(self, options: ServerOptions) -> Refusal:
        """The refusal, after reading on for a moment: a client that is still sending would not see the answer."""
        read, end = 0, time.monotonic() + DRAIN_SECONDS
        waiting_for_us = self.headers.get("expect", "").lower() == "100-continue"
        while not waiting_for_us and read < DRAIN_BYTES and (left := end - time.monotonic()) > 0:
            try:
                message = await asyncio.wait_for(self.receive(), left)
            except TimeoutError:
                break
            read += len(message.get("body", b""))
            if message["type"] != "http.request" or not message.get("more_body"):
                break
        sentence = f"the body has more than {options.max_body_kb} KiB: send fewer candidates"
        return Refusal(413, sentence, "body", close=True)


class StrictRoute(APIRoute):
    """A route that reads its body as `StrictRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler of a request, given a strict one."""
        handle = super().get_route_handler()
        taken = self.body_field.field_info.annotation if self.body_field is not None else None
        model = taken if isinstance(taken, type) and issubclass(taken, BaseModel) else None

        async def strict(request: Request) -> Response:
            asked = StrictRequest(request.scope, request.receive)
            asked.model = model
            return await handle(asked)

        return strict


def read_body(body: bytes, model: type[BaseModel] | None, most: int) -> Any:
    """A body as `model`, whose `candidates` are at most `most`; see `StrictRequest.json`."""
    value = parse_strict(body)
    candidates = value.get("candidates") if isinstance(value, dict) else None
    if isinstance(candidates, list) and most < len(candidates) <= MAX_CANDIDATES:
        sentence = (
            f"candidates: {len(candidates)} are more than the {most} that one request may have: ask several times"
        )
        raise Refusal(413, sentence, "candidates")
    if model is None:
        return value
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise Refusal(422, sentence_of(first), place_of(first)) from error


def parse_strict(body: bytes) -> Any:
    """JSON in UTF-8 without NaN, Infinity, numbers out of range, duplicate keys, lone surrogates or deep nesting.

    No object has more than `MAX_ENTRIES` keys, and the whole at most `MAX_COMMAS` commas.

    Raises:
        Refusal: 400, with the place where it is known.
    """
    if body.count(b",") > MAX_COMMAS:
        raise Refusal(400, f"the body has more than {MAX_COMMAS:,} commas: ask for less at once", "body")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refusal(400, f"the body is not UTF-8 (byte {error.start})", "body") from error
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
        if "\\u" in text:  # an escaped half of a surrogate pair is JSON, but not text
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise Refusal(400, f"the body is not JSON: {error.msg} ({where})", "body") from error
    except RecursionError as error:
        raise Refusal(400, "the body is nested too deeply", "body") from error
    except UnicodeEncodeError as error:
        raise Refusal(400, "the body escapes half of a surrogate pair, which is not a character", "body") from error
    except ValueError as error:  # Python refuses to read thousands of digits
        raise Refusal(400, "the body holds a number with too many digits", "body") from error
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_ENTRIES:
        raise Refusal(400, f"an object has more than {MAX_ENTRIES:,} keys: give fewer", "body")
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise Refusal(400, f"the key {json.dumps(twice[:100])} stands twice in one object", "body")
    return fields


def _constant(name: str) -> float:
    raise Refusal(400, f"{name} is not a number in JSON: leave the field out or give null", "body")


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise Refusal(400, f"the number {digits[:30]} is out of range", "body")
    return value
