"""Reading a body with limits on bytes and time, and as JSON that leaves nothing open to interpretation."""

import asyncio
import json
import math
import time
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from equipoise.serving.server.options import ServerOptions
from equipoise.serving.server.refusal import CLIENT_GONE, Refusal

DRAIN_BYTES = 4 * 2**20
DRAIN_SECONDS = 1.0


class StrictRequest(Request):
    """A request whose body is refused as soon as it is known to be too large, too slow or no strict JSON."""

    async def body(self) -> bytes:
        """The whole body, non-empty.

        Raises:
            Refusal: 413 too large, 415 no JSON, 408 too slow, 400 empty.
        """
        if not hasattr(self, "_body"):
            self._body = await self._read()
        return self._body

    async def json(self) -> Any:
        """The body as a Python object; raises Refusal 400."""
        if not hasattr(self, "_json"):
            self._json = parse_strict(await self.body())
        return self._json

    async def _read(self) -> bytes:
        options: ServerOptions = self.app.state.service.options
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

        async def strict(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return strict


def parse_strict(body: bytes) -> Any:
    """JSON in UTF-8 without NaN, Infinity, numbers out of range, duplicate keys, lone surrogates or deep nesting.

    Raises:
        Refusal: 400, with the place where it is known.
    """
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
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Refusal(400, f"the key {json.dumps(twice[:100])} stands twice in one object", "body")
    return fields


def _constant(name: str) -> float:
    raise Refusal(400, f"{name} is not a number in JSON: leave the field out or give null", "body")


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise Refusal(400, f"the number {digits[:30]} is out of range", "body")
    return value
