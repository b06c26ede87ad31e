"""What requests look like, for OpenAPI and as a first check.

Shapes, types and sizes are checked here, before anything of a request is touched; `RequestReader`,
`serving/price_request.py` and `serving/retrieve.py` then check what only the export knows: items, fields, objectives,
the bounds of ω and prices.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    Tag,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from equipoise.common.nearest import nearest
from equipoise.export.request_schema import (
    EVENT,
    ID,
    LEAST_WHOLE,
    MAX_NUMBER,
    MOST_WHOLE,
    NUMBER,
    TEXT,
    VALUE,
)
from equipoise.export.request_schema import HISTORY_ENTRIES as MAX_EVENTS
from equipoise.export.request_schema import LISTED as MAX_LISTED
from equipoise.export.request_schema import PREFIX_CHARS as MAX_PREFIX
from equipoise.export.request_schema import TEXT_CHARS as MAX_TEXT
from equipoise.serving.price_limits import MOST_ENDINGS

UNKNOWN_KEY = "unknown_key"
"""Type of the error that names a key which nobody reads."""
EXACT = 2**53
"""Above it a number with a point or an exponent may stand for several ids."""
MAX_NAME = 200
MAX_FIELDS = 200
MAX_CANDIDATES = 10_000

FIELDS = {
    "type": "object",
    "additionalProperties": VALUE,
    "maxProperties": MAX_FIELDS,
    "propertyNames": {"maxLength": MAX_NAME},
}


def check_value(value: Any) -> Any:
    """A text, number, boolean or null of a bounded size, or a list of such, which is read as one text."""
    if isinstance(value, list):
        if len(value) > MAX_LISTED:
            raise ValueError(f"the list has more than {MAX_LISTED} entries")
        return [_check_measure(each) for each in value]
    return _check_measure(value)


def _check_measure(value: Any) -> Any:
    """As `check_plain`, with every whole number that a column holds, as files of requests bring them."""
    return _check_whole(value) if isinstance(value, int | float) else check_plain(value)


def check_plain(value: Any) -> Any:
    """A text, number, boolean or null of a bounded size."""
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            raise ValueError(f"the text has more than {MAX_TEXT:,} characters")
    elif isinstance(value, (int, float)):
        if not abs(value) <= MAX_NUMBER:
            raise ValueError(f"the number is beyond ±{MAX_NUMBER:g}")
    elif value is not None:
        raise ValueError("give a text, a number, true, false, null or a list of such")
    return value


def whole(value: Any) -> Any:
    """7.0 as 7, which are one number in JSON; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def check_id(value: Any) -> Any:
    """An id: text or a whole number."""
    if isinstance(value, float) and value.is_integer() and abs(value) > EXACT:
        raise ValueError("the number is too large to be exact: give the id as a text")
    value = whole(value)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise ValueError("give an id, a text or a whole number")
    return _check_whole(value) if isinstance(value, int) else check_plain(value)


def _check_whole(value: float) -> float:
    if not LEAST_WHOLE <= value <= MOST_WHOLE:
        raise ValueError("the number has more than 64 bits: give it as a text")
    return value


def check_name(name: str) -> str:
    """The name of a field."""
    if len(name) > MAX_NAME:
        raise ValueError(f"the name of a field has more than {MAX_NAME} characters")
    return name


def check_context(context: Any) -> Any:
    """A context: ready text, or fields."""
    if isinstance(context, str):
        return check_plain(context)
    if not isinstance(context, dict):
        raise ValueError("give an object of fields or a ready text")
    if len(context) > MAX_FIELDS:
        raise ValueError(f"there are more than {MAX_FIELDS} fields")
    return {check_name(name): _named(name, value) for name, value in context.items()}


def _named(name: str, value: Any) -> Any:
    try:
        return check_value(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def check_event(event: Any) -> Any:
    """A past event: the title of an item, or its id."""
    if isinstance(event, str):
        return check_plain(event)
    if not isinstance(event, dict) or set(event) != {"item_id"}:
        raise ValueError('give a title or {"item_id": …}')
    return {"item_id": check_id(event["item_id"])}


def check_few(value: Any) -> Any:
    """An object of few fields, before any of them is looked at."""
    if isinstance(value, dict) and len(value) > MAX_FIELDS:
        raise ValueError(f"there are more than {MAX_FIELDS} fields")
    return value


Name = Annotated[StrictStr, AfterValidator(check_name), WithJsonSchema({"type": "string", "maxLength": MAX_NAME})]
Value = Annotated[Any, AfterValidator(check_value), WithJsonSchema(VALUE)]
Fields = Annotated[dict[Name, Value], Field(max_length=MAX_FIELDS), BeforeValidator(check_few), WithJsonSchema(FIELDS)]
Text = Annotated[StrictStr, Field(max_length=MAX_TEXT)]
Id = Annotated[Any, AfterValidator(check_id), WithJsonSchema(ID)]
Event = Annotated[Any, AfterValidator(check_event), WithJsonSchema(EVENT)]
Events = Annotated[list[Event], Field(max_length=MAX_EVENTS, fail_fast=True)]
HISTORY_FORMS = ("list of events", "events by section")
"""Tags of the two forms of a history, which paths leave out."""
History = Annotated[
    Annotated[Events, Tag(HISTORY_FORMS[0])]
    | Annotated[
        dict[Name, Events | None], Field(max_length=MAX_FIELDS), BeforeValidator(check_few), Tag(HISTORY_FORMS[1])
    ],
    Discriminator(lambda value: HISTORY_FORMS[isinstance(value, dict)]),
]
Context = Annotated[Any, AfterValidator(check_context), WithJsonSchema({"anyOf": [FIELDS, TEXT]})]
Weight = Annotated[Any, AfterValidator(check_plain), WithJsonSchema(NUMBER)]
Positive = Annotated[Any, AfterValidator(check_plain), WithJsonSchema({**NUMBER, "minimum": 1e-15})]
Boost = Annotated[Any, AfterValidator(check_plain), WithJsonSchema({**NUMBER, "minimum": -5, "maximum": 5})]


class Strict(BaseModel):
    """Unknown keys are errors; null is the same as leaving a key out."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: Any) -> Any:
        """Refuse the first unknown key, with the one that was meant; others are not looked at."""
        if isinstance(value, dict):
            known = cls.model_fields
            unknown = next((key for key in value if key not in known), None)
            if unknown is not None:
                meant = nearest(str(unknown), known)
                hint = f"did you mean '{meant}'?" if meant else "see /openapi.json for those there are"
                raise PydanticCustomError(UNKNOWN_KEY, "{hint}", {"key": str(unknown)[:MAX_NAME], "hint": hint})
        return value


class Candidate(Strict):
    """One item that may be shown: known to the export by its id, or brought along as fields or text."""

    item_id: Id | None = Field(None, description="Of the export's items, unless `item` or `text` is given.")
    item: Fields | None = Field(None, description="Fields of an item, rendered with the template of training.")
    text: Text | None = Field(None, description="The item as ready text.")
    context: Context | None = Field(
        None, description="Fields of this impression (price, times bought …) or ready text."
    )
    value: Positive | None = Field(None, description="What it is worth (margin, price …); value_weight asks for it.")
    boost: Boost | None = Field(None, description="Added to the utility as it is.")
    features: Fields | None = Field(
        None,
        description="Features that the export reads, such as a price; by default fields of context, item and user.",
    )
    attributes: Fields | None = Field(
        None, description="What lists are made by where ω is not 0; by default fields of item, or the known item's own."
    )


Recent = Annotated[
    Annotated[list[Event], Field(max_length=MAX_EVENTS, fail_fast=True)] | None,
    Field(description="What the shopper took, the latest first, to compare candidates with; by default `history`."),
]


class ShopperRequest(Strict):
    """One shopper, in fields or as ready text."""

    request_id: Id | None = Field(None, description="Handed through.")
    user: Fields | None = Field(None, description="Fields of the shopper.")
    history: History | None = Field(
        None,
        description="Past events in the order of training: titles, or ids of the export's items. Where the export "
        "tells kinds of events apart, an object with such a list for the name of each section.",
    )
    prefix: Annotated[StrictStr, Field(max_length=MAX_PREFIX)] | None = Field(
        None, description="The shopper as ready text, instead of `user` and `history`."
    )


class SlateRequest(ShopperRequest):
    """One shopper and the candidates to choose from."""

    recent: Recent = None

    candidates: Annotated[list[Candidate], Field(min_length=1, max_length=MAX_CANDIDATES, fail_fast=True)]
    omega: Annotated[dict[Name, Weight], Field(max_length=MAX_FIELDS), BeforeValidator(check_few)] | None = Field(
        None, description="Weight ω of each list-wise objective; where none is given, the export's operating point."
    )
    value_weight: Weight | None = Field(
        None, description="Weight of log value; every candidate then needs a value. Default: the export's."
    )


class ExplainRequest(SlateRequest):
    """A slate of which some candidates are to be explained."""

    explain: Annotated[list[Id], Field(min_length=1, max_length=MAX_FIELDS, fail_fast=True)] | None = Field(
        None, description="Places (whole numbers, from 0) or item_ids (texts); default: the candidate ranked first."
    )


class RankRequest(SlateRequest):
    """A slate to rank."""

    top: Annotated[StrictInt, Field(ge=1, le=MAX_CANDIDATES), BeforeValidator(whole)] | None = Field(
        None, description="How many candidates to answer with; default: all."
    )


MAX_PRICES = 10_000

PRICE = {"type": "number", "exclusiveMinimum": 0, "maximum": 1e9}
LIST = {"type": "array", "items": PRICE, "minItems": 1, "maxItems": MAX_PRICES}
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
            str(key): check_prices(part) if isinstance(part, list) else check_plain(part) for key, part in value.items()
        }
    if not isinstance(value, list):
        raise ValueError("give a list of prices, or an object with least, most and step, or with factors")
    if len(value) > MAX_PRICES:
        raise ValueError(f"there are more than {MAX_PRICES:,} prices")
    return [check_plain(part) for part in value]


Prices = Annotated[Any, AfterValidator(check_prices), WithJsonSchema({"anyOf": [LIST, BOUNDS, FACTORS]})]
Margin = Annotated[Any, AfterValidator(check_plain), WithJsonSchema({**NUMBER, "minimum": 0, "exclusiveMaximum": 1})]
Ending = Annotated[Any, AfterValidator(check_plain), WithJsonSchema({**NUMBER, "minimum": 0, "exclusiveMaximum": 1000})]
Change = Annotated[Any, AfterValidator(check_plain), WithJsonSchema({**NUMBER, "exclusiveMinimum": 0, "maximum": 1e9})]
Cost = Annotated[Any, AfterValidator(check_plain), WithJsonSchema({**NUMBER, "minimum": 0, "maximum": 1e9})]


class PriceCandidate(Candidate):
    """One item whose price is to be chosen; its context or features tell the current one, where it is known."""

    cost: Cost | None = Field(None, description="What the item costs the shop; needed for profit.")
    prices: Prices | None = Field(
        None, description="Allowed prices of this candidate, instead of those of the request."
    )


class PriceRequest(ShopperRequest):
    """One shopper, and the candidates whose prices are to be chosen."""

    recent: Recent = None
    candidates: Annotated[list[PriceCandidate], Field(min_length=1, max_length=MAX_CANDIDATES, fail_fast=True)]
    prices: Prices | None = Field(
        None, description="Allowed prices: a list, least, most and step, or factors of each current price."
    )
    goal: Literal["profit", "revenue"] | None = Field(
        None, description="What is to be largest; default: profit where a candidate has a cost, else revenue."
    )
    field: Name | None = Field(None, description="What the price is called in the data; default: price.")
    min_margin: Margin | None = Field(None, description="Least (price − cost) / price; every candidate needs its cost.")
    endings: Annotated[list[Ending], Field(max_length=MOST_ENDINGS, fail_fast=True)] | None = Field(
        None, description="What prices end in, such as 0.49 and 0.99; allowed prices become the nearest such ones."
    )
    max_change: Change | None = Field(None, description="Largest change, as a share of the present price.")
    force: StrictBool | None = Field(
        None, description="Advise a change where the data do not show that demand answers to the price; default: false."
    )


MAX_PAST = 10_000
MAX_RECALLED = 1_000

TIMES = {"type": "number", "minimum": 0, "maximum": 1e6}
IDS = {"type": "array", "items": ID, "maxItems": MAX_PAST}
COUNTS = {"type": "object", "additionalProperties": TIMES, "maxProperties": MAX_PAST}


def check_past(value: Any) -> Any:
    """What was bought: ids, or how often by id."""
    if not isinstance(value, list | dict):
        raise ValueError("give a list of item_ids, or an object with how often each was bought")
    if len(value) > MAX_PAST:
        raise ValueError(f"there are more than {MAX_PAST:,} items")
    if isinstance(value, list):
        return [check_id(item) for item in value]
    return {check_name(item): check_plain(times) for item, times in value.items()}


Past = Annotated[Any, AfterValidator(check_past), WithJsonSchema({"anyOf": [IDS, COUNTS]})]


class RecallQuota(Strict):
    """How many of the found items at least are of a kind; none of more than `top`."""

    never_bought: Annotated[StrictInt, Field(ge=0, le=MAX_RECALLED), BeforeValidator(whole)] = Field(
        0, description="Items that the shopper has not bought."
    )
    new: Annotated[StrictInt, Field(ge=0, le=MAX_RECALLED), BeforeValidator(whole)] = Field(
        0, description="Items that nobody had bought when purchases were counted last."
    )


class RecallRequest(ShopperRequest):
    """One shopper, for whom the whole catalogue is searched."""

    bought: Past | None = Field(None, description="item_ids that the shopper has bought, or how often by item_id.")
    exclude: Annotated[list[Id], Field(max_length=MAX_PAST, fail_fast=True)] | None = Field(
        None, description="item_ids that must not come back."
    )
    exclude_bought: StrictBool | None = Field(None, description="Leave out what was bought.")
    top: Annotated[StrictInt, Field(ge=1, le=MAX_RECALLED), BeforeValidator(whole)] | None = Field(
        None, description="How many items; default: 100."
    )
    quota: RecallQuota | None = Field(None, description="How many of the items at least are of a kind.")
