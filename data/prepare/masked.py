"""Data configs with fields of the user masked: what is unknown of a cold-start or an anonymous user."""

from collections.abc import Sequence
from pathlib import Path

from equipoise.common.errors import UserError
from equipoise.configs.schema import DataConfig, HistoryConfig, read_sections, trained_prompt
from equipoise.data.manifest import FILE_NAME, THINGS, Manifest
from equipoise.data.prompts import piece_fields
from equipoise.data.remote_copy import bring

PROFILE_ONLY, NOTHING, EVENTS = "profile_only", "nothing_told", "_events"
"""Endings of the folders of masked data."""


def unmasked_folder(folder: Path) -> Path:
    """The prepared folder from which one of masked data was made; another one as it is."""
    ending = folder.suffix.removeprefix(".")
    masked = ending in (PROFILE_ONLY, NOTHING) or (ending.endswith(EVENTS) and ending.removesuffix(EVENTS).isdigit())
    return folder.with_suffix("") if masked else folder


def mask_behaviour(data: DataConfig) -> DataConfig:
    """The same data without history and `data.behaviour`; see `mask_fields`."""
    return mask_fields(data, data.behaviour, PROFILE_ONLY)


def mask_to_events(data: DataConfig, events: int) -> DataConfig:
    """The same data as of shoppers with so many events: each section of the history has the latest ones alone.

    `data.behaviour` is left out. Whoever has fewer is told as before. See `mask_fields`.
    """
    return mask_fields(data, data.behaviour, f"{events}{EVENTS}", events)


def mask_all_fields(data: DataConfig) -> DataConfig:
    """The same data without history, `data.behaviour` and `data.profile`; see `mask_fields`."""
    return mask_fields(data, [*data.behaviour, *data.profile], NOTHING)


def mask_fields(data: DataConfig, fields: Sequence[str], name: str, events: int = 0) -> DataConfig:
    """The same data with a history of so many events and without what reads one of `fields`, in `FOLDER.NAME`.

    A piece that reads several fields goes with the first of them that is masked, as it vanishes where one is missing;
    a feature of that name is unknown, and so is a rate by one of them or by user_id.

    Raises:
        UserError: no piece and no feature reads such a field.
    """
    masked = set(fields)
    read = {*piece_fields(data.prompt.prefix), *piece_fields(data.prompt.context), *data.feature_names}
    read |= {name for rate in data.rates for name in rate.by}
    if masked - read:
        raise UserError(
            f"data.behaviour and data.profile name '{sorted(masked - read)[0]}', which data.prompt.prefix, "
            "data.prompt.context and data.features do not read: drop it"
        )

    def unmasked(pieces: list[str]) -> list[str]:
        return [piece for piece in pieces if not masked & set(piece_fields([piece]))]

    prompt = data.prompt.model_copy(
        update={"prefix": unmasked(data.prompt.prefix), "context": unmasked(data.prompt.context)},
    )
    unknown = {"user_id", *masked}
    masked |= {name for rate in data.rates if unknown & set(rate.by) for name in rate.names}
    sections = [
        section.model_copy(update={"items": False, **_told(section, events)}) for section in data.history_sections
    ]
    history = sections if isinstance(data.history, list) else sections[0]
    # Things keep their numbers, also where no thing of the history is left.
    comparison = data.comparison
    if comparison is not None:
        comparison = comparison.model_copy(update={"max_events": min(events, comparison.max_events)})
    features = [f.model_copy(update={"included": f.included and f.name not in masked}) for f in data.features]
    folder = data.folder.with_name(f"{data.folder.name}.{name}")
    remote = f"{data.remote.rstrip('/')}.{name}" if data.remote is not None else None
    masked_parts = {"prompt": prompt, "history": history, "features": features, "comparison": comparison}
    return data.model_copy(update={"folder": folder, "remote": remote, **masked_parts})


def _told(section: HistoryConfig, events: int) -> dict[str, int]:
    """What changes in a section that tells so many events at most."""
    return {"latest": min(events, section.latest or events)} if events else {"max_events": 0}


def is_prepared(masked: DataConfig, data: DataConfig) -> bool:
    """Whether the folder of a masked config holds the same requests as that of the original, masked as it asks for."""
    if not (masked.folder / FILE_NAME).is_file():
        return False
    manifest, own = Manifest.read(masked.folder), Manifest.read(data.folder)
    own_escape = trained_prompt(own.prompt).escape
    scales = {feature.name: feature.scale for feature in masked.features}
    return (
        trained_prompt(manifest.prompt) == masked.prompt.model_copy(update={"escape": own_escape})
        and read_sections(manifest.history) == masked.history_sections
        and manifest.comparison == (masked.comparison.prepared() if masked.comparison is not None else None)
        and (manifest.fields, manifest.user_groups) == (masked.fields, masked.user_groups)
        and manifest.rates == masked.rates
        and manifest.weights == own.weights
        and (manifest.position is None) == (own.position is None)
        and {name: scale.scale for name, scale in manifest.features.items()} == scales
        and manifest.untold == [feature.name for feature in masked.features if not feature.included]
        and manifest.labels == own.labels
        and (manifest.counts, manifest.splits) == (own.counts, own.splits)
        and all(manifest.hashes.get(name) == own.hashes.get(name) for name in ("items.parquet", THINGS))
    )


def anonymous_data(data: DataConfig) -> DataConfig:
    """The same requests as of anonymous users, which `equipoise prepare` has made for `train.feature_dropout`.

    Raises:
        UserError: it has not, or otherwise.
    """
    masked = mask_all_fields(data)
    bring(masked)
    if not is_prepared(masked, data):
        raise UserError(
            f"train.feature_dropout needs the same requests as of anonymous users, but {masked.folder} does not hold "
            "them: run `equipoise prepare` with this config, or set train.feature_dropout=0"
        )
    return masked
