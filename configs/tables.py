"""Where a user's tables are, and how their columns are called and written, in a run configuration."""

import codecs
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from equipoise.configs.section import Section

URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
ONE_PATH, MAPPED = "path of a table", "mapped table"
"""Tags of the two forms of a table, which errors leave out."""

_BY_GROUP = {
    ("", "."): ("plain",),
    (".", ","): (
        *("german", "austrian", "dutch", "spanish", "italian", "portuguese", "brazilian", "danish", "turkish", "greek"),
        *("indonesian", "romanian", "croatian", "slovenian", "serbian", "argentinian", "belgian", "vietnamese"),
    ),
    (" ", ","): (
        *("french", "polish", "swedish", "norwegian", "finnish", "czech", "slovak", "russian", "ukrainian"),
        *("hungarian", "bulgarian", "lithuanian", "latvian", "estonian"),
    ),
    (",", "."): (
        *("english", "american", "british", "irish", "australian", "canadian", "indian", "japanese", "chinese"),
        *("korean", "thai", "mexican", "hebrew"),
    ),
    ("'", "."): ("swiss", "liechtenstein"),
}
NUMBER_FORMATS = {name: signs for signs, names in _BY_GROUP.items() for name in names}
"""How numbers are written: name → sign between groups of digits, sign before decimals."""
EPOCHS = {"epoch_seconds": 1, "epoch_milliseconds": 1_000, "epoch_microseconds": 1_000_000}
"""Moments as numbers since 1970-01-01 UTC: name → how many of them are a second."""
YES_NO = "yes_no"
YES = (
    *(
        "yes",
        "y",
        "true",
        "t",
        "on",
        "1",
        "ja",
        "j",
        "wahr",
        "w",
        "oui",
        "o",
        "vrai",
        "si",
        "sí",
        "sì",
        "s",
        "verdadero",
    ),
    *("vero", "sim", "verdadeiro", "tak", "prawda", "ano", "áno", "igen", "da", "да", "истина", "так", "ναι", "evet"),
    *("kyllä", "joo", "jah", "taip", "jā", "waar", "sand", "sant", "はい", "是", "예", "네", "نعم", "כן", "có", "ya"),
)
NO = (
    *("no", "n", "false", "f", "off", "0", "nein", "falsch", "non", "faux", "falso", "não", "nao", "nee", "onwaar"),
    *("nie", "fałsz", "ne", "nem", "nu", "нет", "ложь", "ні", "όχι", "οχι", "hayır", "hayir", "nej", "nei", "ei"),
    *("nē", "falsk", "falskt", "いいえ", "否", "不是", "아니요", "아니오", "لا", "לא", "không", "tidak"),
)


class YesNoWords(Section):
    """Words that a column writes for yes and for no."""

    MAY_BE_EMPTY: ClassVar[tuple[str, ...]] = ("no",)

    yes: Annotated[list[str], Field(min_length=1)]
    """Words, in any case, that mean yes."""
    no: Annotated[list[str], Field(min_length=1)]
    """Words that mean no; "" reads an empty cell as no."""

    @model_validator(mode="before")
    @classmethod
    def _unquoted(cls, value: Any) -> Any:
        """YAML reads an unquoted yes or no as true or false, both as a key and as a word."""
        if not isinstance(value, dict):
            return value
        spelled = {True: ["yes", "true", "on", "y"], False: ["no", "false", "off", "n"]}
        names = {True: "yes", False: "no"}
        words = {names[key] if isinstance(key, bool) else key: given for key, given in value.items()}
        for name, given in words.items():
            given = given if isinstance(given, list) else [given]
            words[name] = [w for one in given for w in (spelled[one] if isinstance(one, bool) else [str(one)])]
        return words

    @model_validator(mode="after")
    def _apart(self) -> "YesNoWords":
        both = {word.strip().lower() for word in self.yes} & {word.strip().lower() for word in self.no}
        if both:
            raise ValueError(f"'{sorted(both)[0]}' means both yes and no: drop one")
        return self


class TableFile(Section):
    """A table that is read under other names than its own; `columns` and `formats` go by the names of this project.

    A plain path stands for `{path: PATH}`. What a format reads becomes the plain text or moment that an unmapped table
    would hold, so that the same shop in another spelling gives the same slates.
    """

    path: str | None = None
    """File, folder, glob (logs/*.csv; several files are one table) or URL (s3://, gs://, hf://datasets/…, whose package
    is installed) of Parquet, CSV or JSONL; folders such as month=2026-01 are columns. null with `query`."""
    query: str | None = None
    """A query of DuckDB in place of a path, such as SELECT * FROM shop.public.clicks."""
    attach: dict[str, str] = Field(default_factory=dict)
    """Databases that the query reads, by name: {shop: shop.duckdb}, or {shop: "postgres:dbname=shop"} where DuckDB's
    extension is installed. Leave passwords to the database's own environment variables."""
    columns: dict[str, str | list[str]] = Field(default_factory=dict)
    """Our name of a column → its name in the table; a list of names joins their values, as a user and a moment may be
    the request. Columns that are not renamed keep their names."""
    formats: dict[str, str | YesNoWords] = Field(default_factory=dict)
    """Our name of a column → how it is written: a pattern of a moment such as "%d.%m.%Y %H:%M"; epoch_seconds,
    epoch_milliseconds, epoch_microseconds; numbers as in german (1.234,56), french (1 234,56), english (1,234.56),
    swiss, plain (1234.56), also with a currency; yes_no of many languages, or your own {yes: [bought], no: [seen]}."""
    timezone: str = "UTC"
    """Time zone of moments that have none of their own, such as Europe/Berlin."""
    encoding: str = "utf-8"
    """Of CSV and JSONL: utf-8, latin-1, cp1252, utf-16 and whatever else Python knows."""

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        try:
            codecs.lookup(value)
        except LookupError as error:
            raise ValueError(f"'{value}' is no encoding: name one such as utf-8, latin-1 or cp1252") from error
        return value

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        from zoneinfo import ZoneInfo

        try:
            ZoneInfo(value)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"'{value}' is no time zone: name one such as Europe/Berlin or UTC") from error
        return value

    @field_validator("formats")
    @classmethod
    def _known_formats(cls, value: dict[str, str | YesNoWords]) -> dict[str, str | YesNoWords]:
        for name, form in value.items():
            if isinstance(form, str) and "%" not in form and form not in (*NUMBER_FORMATS, *EPOCHS, YES_NO):
                raise ValueError(
                    f"{name}: '{form}' is no format: give a pattern of a moment such as %d.%m.%Y, one of "
                    f"{', '.join(EPOCHS)}, {YES_NO}, or how numbers are written: german, french, english, swiss, plain"
                )
        return value

    @model_validator(mode="after")
    def _one_place(self) -> "TableFile":
        if (self.path is None) == (self.query is None):
            raise ValueError("path and query exclude each other: give one of them")
        if self.attach and self.query is None:
            raise ValueError("attach is of a query: give query, or drop attach")
        return self

    @property
    def is_remote(self) -> bool:
        """Whether the table is elsewhere than on this machine."""
        return self.path is not None and URL.match(self.path) is not None

    @property
    def label(self) -> str:
        """What names the table in messages."""
        return self.path if self.path is not None else "the query"


def _form(value: Any) -> str:
    return MAPPED if isinstance(value, dict | TableFile) else ONE_PATH


Table = Annotated[Annotated[Path, Tag(ONE_PATH)] | Annotated[TableFile, Tag(MAPPED)], Discriminator(_form)]
"""A plain path, or a table that is mapped."""


class TablesConfig(Section):
    """The three tables of a data set, and optionally its events: Parquet, CSV or JSONL, by file ending.

    Each is a path, or `{path: …, columns: {item_id: sku}, formats: {price: german}}` where it has other names or
    spellings.
    """

    impressions: Table
    """One row per shown candidate: request, user, item, time and labels."""
    items: Table
    """One row per item; its columns fill the item pieces of the prompt."""
    users: Table | None = None
    """One row per user; null where impressions tell enough of them."""
    events: Table | None = None
    """Past purchases or other events, for histories; null leaves histories out."""

    @model_validator(mode="before")
    @classmethod
    def _of_urls(cls, value: Any) -> Any:
        """A plain URL is a table elsewhere, and no path."""
        if not isinstance(value, dict):
            return value
        return {k: {"path": v} if isinstance(v, str) and URL.match(v) else v for k, v in value.items()}

    @model_validator(mode="after")
    def _no_blank_path(self) -> "TablesConfig":
        for name in type(self).model_fields:
            table = getattr(self, name)
            if isinstance(table, Path) and not str(table).strip():
                raise ValueError(f"{name} is blank: name a file, a folder or a glob")
        return self

    @property
    def files(self) -> dict[str, TableFile]:
        """Name of every table that there is → where it is and how it is mapped."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        return {
            name: table if isinstance(table, TableFile) else TableFile(path=str(table))
            for name, table in given.items()
            if table is not None
        }
