"""Data configs that tell less of the shopper: what a new one has no words for."""

from collections.abc import Sequence

from equipoise.common.errors import UserError
from equipoise.configs.schema import DataConfig
from equipoise.data.manifest import FILE_NAME, Manifest
from equipoise.data.prompts import piece_fields


def profile_only(data: DataConfig) -> DataConfig:
    """The same data without history and `data.behaviour`; `blanked` says how."""
    return blanked(data, data.behaviour, "profile_only")


def nothing_told(data: DataConfig) -> DataConfig:
    """The same data without history, `data.behaviour` and `data.profile`; `blanked` says how."""
    return blanked(data, [*data.behaviour, *data.profile], "nothing_told")


def blanked(data: DataConfig, fields: Sequence[str], name: str) -> DataConfig:
    """The same data with an empty history and without the pieces that read one of `fields`, in `FOLDER.NAME`.

    A piece that reads several fields goes with the first of them that is blanked, as it vanishes where one is missing;
    a feature of that name is unknown.

    Raises:
        UserError: no piece and no feature reads such a field.
    """
    gone = set(fields)
    read = {*piece_fields(data.prompt.prefix), *piece_fields(data.prompt.context), *data.feature_names}
    if gone - read:
        raise UserError(
            f"data.behaviour and data.profile name '{sorted(gone - read)[0]}', which data.prompt.prefix, "
            "data.prompt.context and data.features do not read: drop it"
        )

    def kept(pieces: list[str]) -> list[str]:
        return [piece for piece in pieces if not gone & set(piece_fields([piece]))]

    prompt = data.prompt.model_copy(
        update={"prefix": kept(data.prompt.prefix), "context": kept(data.prompt.context)},
    )
    history = data.history.model_copy(update={"max_events": 0, "items": False})
    features = [each.model_copy(update={"included": each.included and each.name not in gone}) for each in data.features]
    folder = data.folder.with_name(f"{data.folder.name}.{name}")
    return data.model_copy(update={"folder": folder, "prompt": prompt, "history": history, "features": features})


def is_prepared(told: DataConfig, data: DataConfig) -> bool:
    """Whether the folder of a blanked config holds the same requests as that of the original, told as it asks for."""
    if not (told.folder / FILE_NAME).is_file():
        return False
    found, own = Manifest.read(told.folder), Manifest.read(data.folder)
    return (
        found.prompt == told.prompt.model_dump(mode="json")
        and found.history == told.history.model_dump(mode="json")
        and (found.fields, found.user_groups) == (told.fields, told.user_groups)
        and {name: scale.scale for name, scale in found.features.items()} == {f.name: f.scale for f in told.features}
        and found.untold == [feature.name for feature in told.features if not feature.included]
        and found.labels == own.labels
        and (found.counts, found.splits) == (own.counts, own.splits)
        and found.hashes["items.parquet"] == own.hashes["items.parquet"]
    )
