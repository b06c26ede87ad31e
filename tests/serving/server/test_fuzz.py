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
MODES = {mode.value: mode for mode in schemathesis.GenerationMode}


@pytest.fixture(scope="module")
def live(start_servers: Any) -> Any:
    """One server for all of them."""
    return start_servers()


@pytest.mark.parametrize("mode", sorted(MODES))
@pytest.mark.parametrize("path", ["/rank", "/score"])
def test_generated_requests(live: Any, path: str, mode: str) -> None:
    schema = schemathesis.openapi.from_dict(live.client.get("/openapi.json").json())
    address = f"http://{live.host}:{live.port}"

    @settings(max_examples=150, derandomize=True)
    @given(case=schema[path]["POST"].as_strategy(generation_mode=MODES[mode]))
    def try_one(case: Any) -> None:
        case.call_and_validate(base_url=address, checks=CHECKS)

    try_one()
    assert live.alive()
    text = live.client.get("/metrics").text
    assert not re.findall(r'equipoise_requests_total\{[^}]*status="5\d\d"\}', text)
    if mode == "positive":
        assert live.counted(f'equipoise_requests_total{{route="{path}",status="200"}}') > 20
    else:
        assert live.counted(f'equipoise_requests_total{{route="{path}",status="422"}}') > 20
