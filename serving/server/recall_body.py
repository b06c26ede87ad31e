"""What a request for items looks like, for OpenAPI and as a first check; `serving/retrieve.py` checks the rest."""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, StrictInt, WithJsonSchema

from equipoise.serving.server.request_body import ID, Id, ShopperRequest, check_id, check_name, check_value, whole

MOST_PAST = 10_000
MOST_RECALLED = 1_000

TIMES = {"type": "number", "minimum": 0, "maximum": 1e6}
IDS = {"type": "array", "items": ID, "maxItems": MOST_PAST}
COUNTS = {"type": "object", "additionalProperties": TIMES, "maxProperties": MOST_PAST}


def check_past(value: Any) -> Any:
    """What was bought: ids, or how often by id."""
    if not isinstance(value, list | dict):
        raise ValueError("give a list of item_ids, or an object with how often each was bought")
    if len(value) > MOST_PAST:
        raise ValueError(f"there are more than {MOST_PAST:,} items")
    if isinstance(value, list):
        return [check_id(item) for item in value]
    return {check_name(item): check_value(times) for item, times in value.items()}


Past = Annotated[Any, AfterValidator(check_past), WithJsonSchema({"anyOf": [IDS, COUNTS]})]


class RecallRequest(ShopperRequest):
    """One shopper, for whom the whole catalogue is searched."""

    bought: Past | None = Field(None, description="item_ids that the shopper has bought, or how often by item_id.")
    exclude: Annotated[list[Id], Field(max_length=MOST_PAST)] | None = Field(
        None, description="item_ids that must not come back."
    )
    exclude_bought: StrictBool | None = Field(None, description="Leave out what was bought.")
    top: Annotated[StrictInt, Field(ge=1, le=MOST_RECALLED), BeforeValidator(whole)] | None = Field(
        None, description="How many items; default: 100."
    )
