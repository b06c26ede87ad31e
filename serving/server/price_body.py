"""What a request for prices looks like, for OpenAPI and as a first check; `serving/pricing.py` checks the rest."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from equipoise.serving.server.request_body import MOST_CANDIDATES, NUMBER, Candidate, Name, ShopperRequest, check_value

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


class PriceRequest(ShopperRequest):
    """One shopper, and the candidates whose prices are to be chosen."""

    candidates: Annotated[list[PriceCandidate], Field(min_length=1, max_length=MOST_CANDIDATES)]
    prices: Prices | None = Field(
        None, description="Allowed prices: a list, least, most and step, or factors of each current price."
    )
    goal: Literal["profit", "revenue"] | None = Field(
        None, description="What is to be largest; default: profit where a candidate has a cost, else revenue."
    )
    field: Name | None = Field(None, description="What the price is called in the data; default: price.")
