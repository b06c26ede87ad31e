"""Requests that mean no good, as raw bytes, and what a server has to say to each.

They are meant for a server of at most 256 KiB and 100 candidates per request whose export knows the item `i1` and reads
the fields `age` and `baskets|count`; any other export refuses them as well.
"""

import json
import re
import socket
from dataclasses import dataclass
from typing import Any

MAX_BODY_KB, MAX_CANDIDATES = 256, 100
PATIENCE_SECONDS = 4.0

GOOD = {"candidates": [{"item_id": "i1"}]}
TYPE = b"content-type: application/json"


def post(body: bytes, *headers: bytes, path: bytes = b"/rank", kind: bytes = TYPE) -> bytes:
    """A POST with a length."""
    lines = [b"POST " + path + b" HTTP/1.1", b"host: x", b"connection: close", kind, *headers]
    return b"\r\n".join([line for line in lines if line] + [b"content-length: %d" % len(body), b"", body])


def with_(**changes: Any) -> bytes:
    """A POST of an ordinary body with changes."""
    return post(json.dumps({**GOOD, **changes}).encode())


def keys(count: int, value: bytes = b"1") -> bytes:
    """The keys of an object, all different."""
    return b",".join(b'"k%d":%s' % (number, value) for number in range(count))


def chunked(*chunks: bytes) -> bytes:
    """A POST in chunks."""
    head = b"POST /rank HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" + TYPE + b"\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


@dataclass(frozen=True)
class Hostile:
    """Bytes to send, the statuses that may come, and words of the error."""

    sent: bytes
    status: tuple[int, ...]
    words: str


DEEP = b"[" * 100_000
CASES: dict[str, Hostile] = {
    # not JSON
    "empty body": Hostile(post(b""), (400,), "no JSON body"),
    "blank body": Hostile(post(b"   "), (400,), "not JSON"),
    "half an object": Hostile(post(b'{"candidates": ['), (400,), "not JSON"),
    "two objects": Hostile(post(b"{}{}"), (400,), "not JSON"),
    "invalid UTF-8": Hostile(post(b'{"prefix": "\xff\xfe"}'), (400,), "not UTF-8"),
    "UTF-16": Hostile(post(json.dumps(GOOD).encode("utf-16")), (400,), "not UTF-8"),
    "byte order mark": Hostile(post(json.dumps(GOOD).encode("utf-8-sig")), (400,), "not JSON"),
    "single quotes": Hostile(post(b"{'candidates': []}"), (400,), "not JSON"),
    "deep lists": Hostile(post(DEEP), (400,), "nested too deeply"),
    "deep objects": Hostile(post(b'{"user":' * 20_000), (400,), "nested too deeply"),
    "deep and closed": Hostile(post(b'{"user":' + DEEP[:400] + b"]" * 400 + b"}"), (422,), "user"),
    # JSON that means nothing good
    "NaN": Hostile(post(b'{"candidates":[{"item_id":"i1"}],"omega":{"diversity":NaN}}'), (400,), "NaN is not a number"),
    "Infinity": Hostile(post(b'{"user":{"age":Infinity}}'), (400,), "Infinity is not a number"),
    "minus Infinity": Hostile(post(b'{"user":{"age":-Infinity}}'), (400,), "-Infinity is not a number"),
    "number out of range": Hostile(post(b'{"user":{"age":1e999}}'), (400,), "out of range"),
    "thousands of digits": Hostile(post(b'{"user":{"age":' + b"9" * 5000 + b"}}"), (400,), "too many digits"),
    "hundreds of digits": Hostile(with_(user={"age": 10**400}), (422,), "user.age"),
    "duplicate key": Hostile(post(b'{"candidates":[],"candidates":[{"item_id":"i1"}]}'), (400,), "stands twice"),
    "duplicate inner key": Hostile(post(b'{"user":{"age":1,"age":2}}'), (400,), '"age\\" stands twice'),
    # much to do for few bytes
    "a name twice among many": Hostile(post(b"{" + keys(9_000) + b',"k7":1}'), (400,), "stands twice"),
    "too many names": Hostile(post(b"{" + keys(10_001) + b"}"), (400,), "more than 10,000 keys"),
    "too many inner names": Hostile(post(b'{"user":{' + keys(10_001) + b"}}"), (400,), "more than 10,000 keys"),
    "too many values": Hostile(post(b'{"user":[' + b"[]," * 100_001 + b"1]}"), (413, 400), "more than"),
    "many unknown names": Hostile(post(b"{" + keys(9_000) + b"}"), (422,), "unknown key 'k0'"),
    "an endless unknown name": Hostile(post(b'{"' + b"k" * 200_000 + b'":1}'), (422,), "unknown key"),
    "many unknown inner names": Hostile(
        post(b'{"candidates":[' + b",".join([b'{"a":1,"b":2}'] * 100) + b"]}"), (422,), "'candidates[0].a'"
    ),
    "many wrong values": Hostile(
        post(b'{"candidates":[{"item_id":"i1"}],"user":{' + keys(9_000, b"{}") + b"}}"), (422,), "user"
    ),
    "many wrong weights": Hostile(
        post(b'{"candidates":[{"item_id":"i1"}],"omega":{' + keys(9_000, b"{}") + b"}}"), (422,), "omega"
    ),
    "many sections": Hostile(
        post(b'{"candidates":[{"item_id":"i1"}],"history":{' + keys(9_000, b"[1]") + b"}}"), (422,), "history"
    ),
    "many wrong events": Hostile(with_(history=[1] * 60_000), (422,), "history"),
    "endless prices": Hostile(
        post(
            b'{"candidates":[{"item_id":"i1"}],"field":"seen","prices":{"least":1,"most":1e9,"step":1e-15}}',
            path=b"/price",
        ),
        (422,),
        "prices",
    ),
    "an explanation of much": Hostile(
        post(json.dumps({"candidates": [{"item_id": "i1"}] * 100, "prefix": "a, " * 6_000}).encode(), path=b"/explain"),
        (422,),
        "scores, of 100 candidates",
    ),
    # by another name
    "a foreign name": Hostile(with_().replace(b"host: x", b"host: shop.evil.example"), (400,), "--allowed-host"),
    "a foreign name with a port": Hostile(
        with_().replace(b"host: x", b"host: shop.evil.example:8000"), (400,), "--allowed-host"
    ),
    "a foreign name for the page": Hostile(
        b"GET / HTTP/1.1\r\nhost: 127.0.0.1.evil.example\r\nconnection: close\r\n\r\n", (400,), "--allowed-host"
    ),
    # no text
    "lone surrogate": Hostile(post(b'{"prefix":"\\ud800","candidates":[]}'), (400,), "surrogate"),
    "lone surrogate as key": Hostile(post(b'{"\\udfff":1}'), (400,), "surrogate"),
    "a list": Hostile(post(b"[]"), (422,), "body"),
    "null": Hostile(post(b"null"), (422,), "body"),
    "a number": Hostile(post(b"7"), (422,), "body"),
    # the wrong shape
    "no candidates": Hostile(post(b"{}"), (422,), "candidates is missing"),
    "empty candidates": Hostile(with_(candidates=[]), (422,), "candidates"),
    "candidates as object": Hostile(with_(candidates={"0": {"item_id": "i1"}}), (422,), "candidates"),
    "candidate as text": Hostile(with_(candidates=["i1"]), (422,), "candidates[0]"),
    "candidate of nothing": Hostile(with_(candidates=[{}]), (422,), "candidates[0]"),
    "candidate of null": Hostile(with_(candidates=[{"item_id": None}]), (422,), "candidates[0]"),
    "empty item id": Hostile(with_(candidates=[{"item_id": ""}]), (422,), "candidates[0].item_id"),
    "item id as list": Hostile(with_(candidates=[{"item_id": ["i1"]}]), (422,), "candidates[0].item_id"),
    "item id as boolean": Hostile(with_(candidates=[{"item_id": True}]), (422,), "candidates[0].item_id"),
    "unknown item": Hostile(
        with_(candidates=[*GOOD["candidates"], {"item_id": "no"}]), (422,), "candidates[1].item_id"
    ),
    "item and text": Hostile(with_(candidates=[{"item": {"title": "a"}, "text": "b"}]), (422,), "candidates[0]"),
    "blank text": Hostile(with_(candidates=[{"text": " "}]), (422,), "candidates[0].text"),
    "item without a known field": Hostile(with_(candidates=[{"item": {"x": 1}}]), (422,), "candidates[0].item"),
    "too many candidates": Hostile(with_(candidates=[{"item_id": "i1"}] * 101), (413,), "101 are more than the 100"),
    "far too many candidates": Hostile(with_(candidates=[{"item_id": "i1"}] * 10_001), (422,), "candidates"),
    "unknown key": Hostile(with_(userr={}), (422,), "unknown key 'userr'"),
    "unknown inner key": Hostile(with_(candidates=[{"itemid": "i1"}]), (422,), "unknown key 'candidates[0].itemid'"),
    "key of an example": Hostile(with_(clicked=[1]), (422,), "unknown key 'clicked'"),
    "prototype key": Hostile(with_(__proto__={}, constructor={}), (422,), "unknown key"),
    "user as text": Hostile(with_(user="me"), (422,), "user"),
    "user with a list of lists": Hostile(with_(user={"age": [[40]]}), (422,), "user.age"),
    "user with a list of objects": Hostile(with_(user={"age": [{"years": 40}]}), (422,), "user.age"),
    "user with a long list": Hostile(with_(user={"age": [1] * 201}), (422,), "user.age"),
    "a number as a list": Hostile(with_(user={"baskets": [1, 2]}), (422,), "user.baskets"),
    "a name in other case": Hostile(with_(user={"Age": 40}), (422,), "did you mean 'age'?"),
    "a misspelt name": Hostile(with_(user={"bakets": 3}), (422,), "did you mean 'baskets'?"),
    "a misspelt context": Hostile(with_(candidates=[{"item_id": "i1", "context": {"sene": 1}}]), (422,), "'seen'"),
    "a misspelt key": Hostile(with_(histroy=[]), (422,), "did you mean 'history'?"),
    "user with too many fields": Hostile(with_(user={f"f{n}": n for n in range(300)}), (422,), "user"),
    "text where a number is read": Hostile(with_(user={"baskets": "many"}), (422,), "user.baskets"),
    "prefix and user": Hostile(with_(prefix="me", user={}), (422,), "prefix"),
    "over-long prefix": Hostile(with_(prefix="a" * 20_001), (422,), "prefix"),
    "over-long value": Hostile(with_(user={"age": "a" * 4_001}), (422,), "user.age"),
    "over-long name of a field": Hostile(with_(user={"a" * 201: 1}), (422,), "user"),
    "over-long history": Hostile(with_(history=["a"] * 1_001), (422,), "history"),
    "history of numbers": Hostile(with_(history=[1]), (422,), "history[0]"),
    "history of an unknown item": Hostile(with_(history=[{"item_id": "no"}]), (422,), "history[0].item_id"),
    "context as list": Hostile(with_(candidates=[{"item_id": "i1", "context": []}]), (422,), "candidates[0].context"),
    "omega as list": Hostile(with_(omega=[1]), (422,), "omega"),
    "omega out of bounds": Hostile(with_(omega={"diversity": 5.01}), (422,), "from 0 to 5"),
    "omega negative": Hostile(with_(omega={"fairness": -1e-9}), (422,), "omega.fairness"),
    "omega of nothing known": Hostile(with_(omega={"ctr": 1}), (422,), "omega"),
    "omega as text": Hostile(with_(omega={"diversity": "1"}), (422,), "omega.diversity"),
    "omega as boolean": Hostile(with_(omega={"diversity": True}), (422,), "omega.diversity"),
    "top zero": Hostile(with_(top=0), (422,), "top"),
    "top as fraction": Hostile(with_(top=1.5), (422,), "top"),
    "top as boolean": Hostile(with_(top=True), (422,), "top"),
    "top for score": Hostile(post(b'{"candidates":[{"item_id":"i1"}],"top":1}', path=b"/score"), (422,), "'top'"),
    # the wrong wrapping
    "no content type": Hostile(post(b"{}", kind=b""), (415,), "application/json"),
    "a form": Hostile(
        post(b"a=1", kind=b"content-type: application/x-www-form-urlencoded"), (415,), "application/json"
    ),
    "plain text": Hostile(post(b"{}", kind=b"content-type: text/plain"), (415,), "application/json"),
    "garbled content type": Hostile(post(b"{}", kind=b"content-type: ;;;=\xff"), (415,), "application/json"),
    "another charset": Hostile(post(b"{}", kind=TYPE + b"; charset=latin-1"), (415,), "UTF-8"),
    "compressed": Hostile(post(b"\x1f\x8b\x08", b"content-encoding: gzip"), (415,), "uncompressed"),
    "too large": Hostile(post(b" " * 300_000), (413,), "more than 256 KiB"),
    "announced too large": Hostile(
        post(b"").replace(b"content-length: 0", b"content-length: 9" + b"0" * 18), (413,), "more than 256 KiB"
    ),
    "too large in chunks": Hostile(chunked(*[b" " * 1000] * 300), (413,), "more than 256 KiB"),
    "chunked rubbish": Hostile(chunked(b"{", b'"a":', b"}"), (400,), "not JSON"),
    # no route, no method, no HTTP
    "unknown route": Hostile(b"GET /nowhere HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", (404,), "no such route"),
    "a slash more": Hostile(post(b"{}", path=b"/rank/"), (404,), "no such route"),
    "a path upwards": Hostile(post(b"{}", path=b"/../../etc/passwd"), (404,), "no such route"),
    "an encoded path": Hostile(post(b"{}", path=b"/%00%ff/%2e%2e"), (404,), "no such route"),
    "GET for POST": Hostile(b"GET /rank HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", (405,), "method"),
    "POST for GET": Hostile(post(b"{}", path=b"/health"), (405,), "method"),
    "unknown method": Hostile(b"BREW /rank HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", (405,), "method"),
    "no HTTP": Hostile(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n", (400,), "no valid HTTP"),
    "no version": Hostile(b"GET /\r\n\r\n", (400,), "no valid HTTP"),
    "no host": Hostile(b"GET / HTTP/1.1\r\n\r\n", (400,), "no valid HTTP"),
    "a huge head": Hostile(b"GET /health HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 200_000, (400,), "no valid HTTP"),
    "a broken header": Hostile(b"GET /health HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n", (400,), "no valid HTTP"),
    "two lengths": Hostile(post(b"{}", b"content-length: 7"), (400,), "no valid HTTP"),
    "a negative length": Hostile(
        post(b"").replace(b"content-length: 0", b"content-length: -1"), (400,), "no valid HTTP"
    ),
    "a broken chunk": Hostile(chunked().replace(b"0\r\n\r\n", b"zz\r\n{}\r\n0\r\n\r\n"), (400, 499), ""),
    "another protocol": Hostile(
        b"GET /rank HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        (405,),
        "method",
    ),
}


def exchange(host: str, port: int, sent: bytes) -> bytes:
    """What comes back before the server closes, or before it is silent for longer than we wait."""
    answer = b""
    with socket.create_connection((host, port), timeout=PATIENCE_SECONDS) as connection:
        try:
            connection.sendall(sent)
            while chunk := connection.recv(65536):
                answer += chunk
                if re.search(rb'"where": ?"[^"]*"}|"version": ?"[^"]*"}', answer):
                    break
        except (ConnectionError, TimeoutError):
            pass
    return answer
