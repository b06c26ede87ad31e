"""What a request for a slate looks like: the form of `Recommender.prepare`, checked and described for OpenAPI."""

from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    StrictStr,
    WithJsonSchema,
    model_validator,
)

LARGEST = 1e15
LONGEST_NAME = 200
LONGEST_VALUE = 2_000
LONGEST_TEXT = 20_000
MOST_FIELDS = 200
MOST_EVENTS = 1_000
MOST_CANDIDATES = 10_000

TEXT = {"type": "string", "maxLength": LONGEST_VALUE}
NUMBER = {"type": "number", "minimum": -LARGEST, "maximum": LARGEST}
VALUE = {"anyOf": [TEXT, NUMBER, {"type": "boolean"}, {"type": "null"}]}
FIELDS = {
    "type": "object",
    "additionalProperties": VALUE,
    "maxProperties": MOST_FIELDS,
    "propertyNames": {"maxLength": LONGEST_NAME},
}


def check_value(value: Any) -> Any:
    """A field of a shopper, an item or a context: text, number, boolean or null."""
    if isinstance(value, str) and len(value) > LONGEST_VALUE:
        raise ValueError(f"the text has more than {LONGEST_VALUE} characters")
    if isinstance(value, (int, float)) and not abs(value) <= LARGEST:
        raise ValueError(f"the number is beyond ±{LARGEST:g}")
    if not isinstance(value, (str, int, float, bool, type(None))):
        raise ValueError("give a text, a number, a boolean or null")
    return value


def check_name(name: str) -> str:
    """The name of a field."""
    if len(name) > LONGEST_NAME:
        raise ValueError(f"a name of a field has more than {LONGEST_NAME} characters")
    return name


def check_context(context: Any) -> Any:
    """A context: ready text, or fields."""
    if isinstance(context, str):
        if len(context) > LONGEST_TEXT:
            raise ValueError(f"the text has more than {LONGEST_TEXT} characters")
        return context
    if not isinstance(context, dict):
        raise ValueError("give an object of fields or a ready text")
    if len(context) > MOST_FIELDS:
        raise ValueError(f"there are more than {MOST_FIELDS} fields")
    return {check_name(name): check_value(value) for name, value in context.items()}


def check_event(event: Any) -> Any:
    """A past event: the title of an item, or its id."""
    if isinstance(event, str):
        return check_value(event)
    if not isinstance(event, dict) or set(event) != {"item_id"} or not isinstance(event["item_id"], str):
        raise ValueError('give a title or {"item_id": "…"}')
    return {"item_id": check_value(event["item_id"])}


Name = Annotated[StrictStr, AfterValidator(check_name), WithJsonSchema({"type": "string", "maxLength": LONGEST_NAME})]
Value = Annotated[Any, AfterValidator(check_value), WithJsonSchema(VALUE)]
Fields = Annotated[dict[Name, Value], Field(max_length=MOST_FIELDS), WithJsonSchema(FIELDS)]
Text = Annotated[StrictStr, Field(max_length=LONGEST_TEXT)]
ItemId = Annotated[StrictStr, Field(min_length=1, max_length=LONGEST_VALUE)]
ITEM = {
    "type": "object",
    "properties": {"item_id": TEXT},
    "required": ["item_id"],
    "additionalProperties": False,
}
Event = Annotated[Any, AfterValidator(check_event), WithJsonSchema({"anyOf": [TEXT, ITEM]})]
CONTEXT = {"anyOf": [FIELDS, {"type": "string", "maxLength": LONGEST_TEXT}]}
Context = Annotated[Any, AfterValidator(check_context), WithJsonSchema(CONTEXT)]
Omega = Annotated[StrictFloat | StrictInt, Field(ge=-LARGEST, le=LARGEST)]


class Strict(BaseModel):
    """Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


class Candidate(Strict):
    """One item that may be shown: known by its id, or brought along."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": ["item_id"]}, {"required": ["item"]}, {"required": ["text"]}]}
    )

    item_id: ItemId = Field(default="", description="Of the export's items, unless `item` or `text` is given.")
    item: Fields = Field(default={}, description="Fields of an item, rendered with the template of training.")
    text: Text = Field(default="", description="The item as ready text.")
    context: Context = Field(default="", description="Fields of this impression (price, times bought …) or ready text.")

    @model_validator(mode="after")
    def _is_something(self) -> Self:
        if not self.model_fields_set & {"item_id", "item", "text"}:
            raise ValueError("name an item_id, or bring the item's fields or text")
        return self


class SlateRequest(Strict):
    """One shopper and the candidates to choose from."""

    request_id: Annotated[StrictStr, Field(max_length=LONGEST_NAME)] = Field(default="", description="Handed through.")
    user: Fields = Field(default={}, description="Fields of the shopper.")
    history: Annotated[list[Event], Field(max_length=MOST_EVENTS)] = Field(
        default=[], description="Past events in the order of training: titles, or ids of the export's items."
    )
    prefix: Text = Field(default="", description="The shopper as ready text, instead of `user` and `history`.")
    candidates: Annotated[list[Candidate], Field(min_length=1, max_length=MOST_CANDIDATES)]
    omega: dict[Name, Omega] = Field(
        default={}, description="Weight of each list-wise objective; default: the export's operating point."
    )

    @model_validator(mode="after")
    def _one_shopper(self) -> Self:
        if "prefix" in self.model_fields_set and self.model_fields_set & {"user", "history"}:
            raise ValueError("give either prefix, or user and history")
        return self


class RankRequest(SlateRequest):
    """A slate to rank."""

    top: Annotated[StrictInt, Field(ge=1, le=MOST_CANDIDATES)] = Field(
        default=MOST_CANDIDATES, description="How many candidates to answer with; default: all."
    )
