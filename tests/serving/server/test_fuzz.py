"""Schemathesis: requests generated from the OpenAPI description, good ones and broken ones."""

import re
from typing import Any

import pytest
import schemathesis
from hypothesis import given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    positive_data_acceptance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

pytestmark = pytest.mark.slow

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]
POSITIVE, NEGATIVE = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE


@pytest.fixture(scope="module")
def live(start_servers: Any) -> Any:
    """One server for all of them."""
    return start_servers(max_body_kb=65_536)  # schemathesis takes a 413 of a broken body for an acceptance


@pytest.fixture(scope="module")
def priced(start_servers: Any, make_stand_in: Any) -> Any:
    """One whose prompts tell a price."""
    return start_servers(make_stand_in(priced=True), max_body_kb=65_536)


def fuzz(live: Any, description: dict[str, Any], path: str, mode: schemathesis.GenerationMode, checks: list) -> None:
    """Send what can be generated for a route, and check every answer."""
    schema = schemathesis.openapi.from_dict(description)

    @settings(max_examples=100, derandomize=True)
    @given(case=schema[path]["POST"].as_strategy(generation_mode=mode))
    def try_one(case: Any) -> None:
        case.call_and_validate(base_url=f"http://{live.host}:{live.port}", checks=checks)

    try_one()
    assert live.alive()
    assert not re.findall(r'equipoise_requests_total\{[^}]*status="5\d\d"\}', live.client.get("/metrics").text)


def fitting(description: dict[str, Any], present: bool = True) -> dict[str, Any]:
    """The description narrowed to what this export knows, which OpenAPI cannot say: then all of it must be accepted.

    present: whether candidates tell their present price, without which prices cannot be limited.
    """
    schemas = description["components"]["schemas"]
    omega = {"diversity": {"type": "number", "minimum": 0, "maximum": 5}}
    for name in ("RankRequest", "SlateRequest", "PriceRequest"):
        asked = schemas[name]["properties"]
        if "omega" in asked:
            asked["omega"] = {"type": "object", "properties": omega, "additionalProperties": False}
            asked["value_weight"] = {"type": "number", "minimum": 0, "maximum": 5}
        asked["user"] = {"type": "object", "properties": {"age": asked["user"]["anyOf"][0]["additionalProperties"]}}
        asked["user"]["additionalProperties"] = False
        asked["history"] = {"type": "array", "items": {"type": "string", "maxLength": 4000}}
        del asked["prefix"]
    for name in ("Candidate", "PriceCandidate"):
        candidate = schemas[name]
        candidate["properties"]["item_id"] = {"enum": [f"i{number}" for number in range(40)]}
        del candidate["properties"]["item"], candidate["properties"]["text"]
        candidate["properties"]["value"] = {"type": "number", "minimum": 0.001, "maximum": 1e6}
        count = {"type": "integer", "minimum": 0, "maximum": 99}
        for place, names in {
            "context": ["seen"],
            "features": [],
            "attributes": [],
        }.items():  # others are refused with the name that was meant
            candidate["properties"][place] = {
                "type": "object", "properties": dict.fromkeys(names, count), "additionalProperties": False
            }  # fmt: skip
        candidate["required"] = ["item_id", "value"]
    prices = {
        "type": "array",
        "items": {"type": "number", "minimum": 0.01, "maximum": 1e6},
        "minItems": 1,
        "maxItems": 9,
    }
    asked, own = schemas["PriceRequest"], schemas["PriceCandidate"]["properties"]
    asked["properties"] |= {"prices": prices, "field": {"const": "price"}}
    asked["required"] = ["candidates", "prices"]
    asked["properties"]["candidates"]["maxItems"] = 20
    own |= {"prices": prices, "cost": {"type": "number", "minimum": 0, "maximum": 1e6}}
    own["context"] = {
        "type": "object",
        "properties": {"seen": {"type": "integer", "minimum": 0, "maximum": 99}},
        "additionalProperties": False,
    }
    schemas["PriceCandidate"]["required"] = ["item_id", "cost"]
    if present:
        own["context"]["properties"]["price"] = {"type": "number", "minimum": 0.01, "maximum": 1e6}
        own["context"]["required"] = ["price"]
        schemas["PriceCandidate"]["required"].append("context")
    else:
        for limit in ("max_change", "min_margin", "endings"):
            del asked["properties"][limit]
    return description


@pytest.mark.parametrize("path", ["/rank", "/score", "/explain", "/recall"])
@pytest.mark.parametrize("mode", [POSITIVE, NEGATIVE], ids=["good", "broken"])
def test_generated_requests(live: Any, path: str, mode: schemathesis.GenerationMode) -> None:
    refused = f'equipoise_requests_total{{route="{path}",status="422"}}'
    before = live.counted(refused)
    fuzz(live, live.client.get("/openapi.json").json(), path, mode, CHECKS)
    assert live.counted(refused) > before + 20


@pytest.mark.parametrize("mode", [POSITIVE, NEGATIVE], ids=["good", "broken"])
def test_generated_requests_for_prices(priced: Any, mode: schemathesis.GenerationMode) -> None:
    test_generated_requests(priced, "/price", mode)


@pytest.mark.parametrize("present", [True, False])
def test_every_fitting_request_for_prices_is_accepted(priced: Any, present: bool) -> None:
    test_every_fitting_request_is_accepted(priced, "/price", present)


@pytest.mark.parametrize("path", ["/rank", "/score"])
def test_every_fitting_request_is_accepted(live: Any, path: str, present: bool = True) -> None:
    answered = f'equipoise_requests_total{{route="{path}",status="200"}}'
    before = live.counted(answered)
    description = fitting(live.client.get("/openapi.json").json(), present)
    fuzz(live, description, path, POSITIVE, [*CHECKS, positive_data_acceptance])
    assert live.counted(answered) > before + 40
