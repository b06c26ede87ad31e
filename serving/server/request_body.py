"""What a request for a slate looks like, for OpenAPI and as a first check.

Shapes, types and sizes are checked here, before anything of a request is touched; `RequestReader` then checks what only
the export knows: items, fields, objectives and the bounds of ω.
"""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, StrictStr, WithJsonSchema

LARGEST = 1e15
LONGEST_NAME = 200
LONGEST_VALUE = 4_000
LONGEST_PREFIX = 20_000
MOST_FIELDS = 200
MOST_EVENTS = 1_000
MOST_CANDIDATES = 10_000

TEXT = {"type": "string", "maxLength": LONGEST_VALUE}
ID = {"anyOf": [{**TEXT, "minLength": 1}, {"type": "integer", "minimum": -LARGEST, "maximum": LARGEST}]}
NUMBER = {"type": "number", "minimum": -LARGEST, "maximum": LARGEST}
VALUE = {"anyOf": [TEXT, NUMBER, {"type": "boolean"}, {"type": "null"}]}
FIELDS = {
    "type": "object",
    "additionalProperties": VALUE,
    "maxProperties": MOST_FIELDS,
    "propertyNames": {"maxLength": LONGEST_NAME},
}
KNOWN_ITEM = {"type": "object", "properties": {"item_id": ID}, "required": ["item_id"], "additionalProperties": False}


def check_value(value: Any) -> Any:
    """A field of a shopper, an item or a context: text, number, boolean or null."""
    if isinstance(value, str):
        if len(value) > LONGEST_VALUE:
            raise ValueError(f"the text has more than {LONGEST_VALUE:,} characters")
    elif isinstance(value, (int, float)):
        if not abs(value) <= LARGEST:
            raise ValueError(f"the number is beyond ±{LARGEST:g}")
    elif value is not None:
        raise ValueError("give a text, a number, true, false or null")
    return value


def whole(value: Any) -> Any:
    """7.0 as 7, which are one number in JSON; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def check_id(value: Any) -> Any:
    """An id: text or a whole number."""
    value = whole(value)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise ValueError("give an id, a text or a whole number")
    return check_value(value)


def check_name(name: str) -> str:
    """The name of a field."""
    if len(name) > LONGEST_NAME:
        raise ValueError(f"the name of a field has more than {LONGEST_NAME} characters")
    return name


def check_context(context: Any) -> Any:
    """A context: ready text, or fields."""
    if isinstance(context, str):
        return check_value(context)
    if not isinstance(context, dict):
        raise ValueError("give an object of fields or a ready text")
    if len(context) > MOST_FIELDS:
        raise ValueError(f"there are more than {MOST_FIELDS} fields")
    return {check_name(name): check_value(value) for name, value in context.items()}


def check_event(event: Any) -> Any:
    """A past event: the title of an item, or its id."""
    if isinstance(event, str):
        return check_value(event)
    if not isinstance(event, dict) or set(event) != {"item_id"}:
        raise ValueError('give a title or {"item_id": …}')
    return {"item_id": check_id(event["item_id"])}


Name = Annotated[StrictStr, AfterValidator(check_name), WithJsonSchema({"type": "string", "maxLength": LONGEST_NAME})]
Value = Annotated[Any, AfterValidator(check_value), WithJsonSchema(VALUE)]
Fields = Annotated[dict[Name, Value], Field(max_length=MOST_FIELDS), WithJsonSchema(FIELDS)]
Text = Annotated[StrictStr, Field(max_length=LONGEST_VALUE)]
Id = Annotated[Any, AfterValidator(check_id), WithJsonSchema(ID)]
Event = Annotated[Any, AfterValidator(check_event), WithJsonSchema({"anyOf": [TEXT, KNOWN_ITEM]})]
Context = Annotated[Any, AfterValidator(check_context), WithJsonSchema({"anyOf": [FIELDS, TEXT]})]
Weight = Annotated[Any, AfterValidator(check_value), WithJsonSchema(NUMBER)]
Positive = Annotated[Any, AfterValidator(check_value), WithJsonSchema({**NUMBER, "minimum": 1e-15})]
Boost = Annotated[Any, AfterValidator(check_value), WithJsonSchema({**NUMBER, "minimum": -5, "maximum": 5})]


class Strict(BaseModel):
    """Unknown keys are errors; null is the same as leaving a key out."""

    model_config = ConfigDict(extra="forbid")


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


class ShopperRequest(Strict):
    """One shopper, in fields or as ready text."""

    request_id: Id | None = Field(None, description="Handed through.")
    user: Fields | None = Field(None, description="Fields of the shopper.")
    history: Annotated[list[Event], Field(max_length=MOST_EVENTS)] | None = Field(
        None, description="Past events in the order of training: titles, or ids of the export's items."
    )
    prefix: Annotated[StrictStr, Field(max_length=LONGEST_PREFIX)] | None = Field(
        None, description="The shopper as ready text, instead of `user` and `history`."
    )


class SlateRequest(ShopperRequest):
    """One shopper and the candidates to choose from."""

    candidates: Annotated[list[Candidate], Field(min_length=1, max_length=MOST_CANDIDATES)]
    omega: Annotated[dict[Name, Weight], Field(max_length=MOST_FIELDS)] | None = Field(
        None, description="Weight ω of each list-wise objective; where none is given, the export's operating point."
    )
    value_weight: Weight | None = Field(
        None, description="Weight of log value; every candidate then needs a value. Default: the export's."
    )


class ExplainRequest(SlateRequest):
    """A slate of which some candidates are to be explained."""

    explain: Annotated[list[Id], Field(min_length=1, max_length=MOST_FIELDS)] | None = Field(
        None, description="Places (whole numbers, from 0) or item_ids (texts); default: the candidate ranked first."
    )


class RankRequest(SlateRequest):
    """A slate to rank."""

    top: Annotated[StrictInt, Field(ge=1, le=MOST_CANDIDATES), BeforeValidator(whole)] | None = Field(
        None, description="How many candidates to answer with; default: all."
    )
