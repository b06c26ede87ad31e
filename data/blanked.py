"""Data configs that tell less of the shopper: what a new one has no words for."""

from collections.abc import Sequence

from configs.errors import UserError
from configs.schema import DataConfig
from data.manifest import FILE_NAME, Manifest
from data.prompts import piece_fields


def profile_only(data: DataConfig) -> DataConfig:
    """The same data without history and `data.behaviour`; `blanked` says how."""
    return blanked(data, data.behaviour, "profile_only")


def nothing_told(data: DataConfig) -> DataConfig:
    """The same data without history, `data.behaviour` and `data.profile`; `blanked` says how."""
    return blanked(data, [*data.behaviour, *data.profile], "nothing_told")


def blanked(data: DataConfig, fields: Sequence[str], name: str) -> DataConfig:
    """The same data with an empty history and without the pieces that read one of `fields`, in `FOLDER.NAME`.

    A piece that reads several fields goes with the first of them that is blanked, as it vanishes where one is missing.

    Raises:
        UserError: no piece reads such a field.
    """
    gone = set(fields)
    read = {*piece_fields(data.prompt.prefix), *piece_fields(data.prompt.context)}
    if gone - read:
        raise UserError(
            f"data.behaviour and data.profile name '{sorted(gone - read)[0]}', which neither data.prompt.prefix nor "
            "data.prompt.context reads: drop it"
        )

    def kept(pieces: list[str]) -> list[str]:
        return [piece for piece in pieces if not gone & set(piece_fields([piece]))]

    prompt = data.prompt.model_copy(
        update={"prefix": kept(data.prompt.prefix), "context": kept(data.prompt.context)},
    )
    history = data.history.model_copy(update={"max_events": 0})
    folder = data.folder.with_name(f"{data.folder.name}.{name}")
    return data.model_copy(update={"folder": folder, "prompt": prompt, "history": history})


def is_prepared(told: DataConfig, data: DataConfig) -> bool:
    """Whether the folder of a blanked config holds the same requests as that of the original, told as it asks for."""
    if not (told.folder / FILE_NAME).is_file():
        return False
    found, own = Manifest.read(told.folder), Manifest.read(data.folder)
    return (
        found.prompt == told.prompt.model_dump(mode="json")
        and found.history == told.history.model_dump(mode="json")
        and (found.fields, found.user_groups) == (told.fields, told.user_groups)
        and (found.counts, found.splits) == (own.counts, own.splits)
        and found.hashes["items.parquet"] == own.hashes["items.parquet"]
    )
