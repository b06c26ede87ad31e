"""What a request for prices looks like, for OpenAPI and as a first check; `serving.pricing` checks the rest."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StrictStr, WithJsonSchema

from serving.server.request_body import (
    LONGEST_PREFIX,
    MOST_CANDIDATES,
    MOST_EVENTS,
    NUMBER,
    Candidate,
    Event,
    Fields,
    Id,
    Name,
    Strict,
    check_value,
)

MOST_PRICES = 10_000

PRICE = {"type": "number", "exclusiveMinimum": 0, "maximum": 1e9}
LIST = {"type": "array", "items": PRICE, "minItems": 1, "maxItems": MOST_PRICES}
BOUNDS = {
    "type": "object",
    "properties": {"least": PRICE, "most": PRICE, "step": PRICE},
    "required": ["least", "most", "step"],
    "additionalProperties": False,
}
FACTORS = {"type": "object", "properties": {"factors": LIST}, "required": ["factors"], "additionalProperties": False}


def check_prices(value: Any) -> Any:
    """Allowed prices: a list of numbers, or an object of numbers and such lists."""
    if isinstance(value, dict):
        return {
            str(key): check_prices(part) if isinstance(part, list) else check_value(part) for key, part in value.items()
        }
    if not isinstance(value, list):
        raise ValueError("give a list of prices, or an object with least, most and step, or with factors")
    if len(value) > MOST_PRICES:
        raise ValueError(f"there are more than {MOST_PRICES:,} prices")
    return [check_value(part) for part in value]


Prices = Annotated[Any, AfterValidator(check_prices), WithJsonSchema({"anyOf": [LIST, BOUNDS, FACTORS]})]
Cost = Annotated[Any, AfterValidator(check_value), WithJsonSchema({**NUMBER, "minimum": 0, "maximum": 1e9})]


class PriceCandidate(Candidate):
    """One item whose price is to be chosen; its context or features tell the current one, where it is known."""

    cost: Cost | None = Field(None, description="What the item costs the shop; needed for profit.")
    prices: Prices | None = Field(
        None, description="Allowed prices of this candidate, instead of those of the request."
    )


class PriceRequest(Strict):
    """One shopper, and the candidates whose prices are to be chosen."""

    request_id: Id | None = Field(None, description="Handed through.")
    user: Fields | None = Field(None, description="Fields of the shopper.")
    history: Annotated[list[Event], Field(max_length=MOST_EVENTS)] | None = Field(
        None, description="Past events in the order of training: titles, or ids of the export's items."
    )
    prefix: Annotated[StrictStr, Field(max_length=LONGEST_PREFIX)] | None = Field(
        None, description="The shopper as ready text, instead of `user` and `history`."
    )
    candidates: Annotated[list[PriceCandidate], Field(min_length=1, max_length=MOST_CANDIDATES)]
    prices: Prices | None = Field(
        None, description="Allowed prices: a list, least, most and step, or factors of each current price."
    )
    goal: Literal["profit", "revenue"] | None = Field(
        None, description="What is to be largest; default: profit where a candidate has a cost, else revenue."
    )
    field: Name | None = Field(None, description="What the price is called in the data; default: price.")
