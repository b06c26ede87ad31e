"""A data config that tells less of the shopper: what a new one has no words for."""

from collections.abc import Iterable
from pathlib import Path

from configs.schema import DataConfig
from data.prompts import piece_fields


def blanked(data: DataConfig, fields: Iterable[str], folder: Path) -> DataConfig:
    """The same data with an empty history and without the pieces that read one of `fields`, prepared in `folder`.

    A piece that reads several fields goes with the first of them that is blanked, as it vanishes where one is missing.
    """
    gone = set(fields)

    def kept(pieces: list[str]) -> list[str]:
        return [piece for piece in pieces if not gone & set(piece_fields([piece]))]

    prompt = data.prompt.model_copy(
        update={"prefix": kept(data.prompt.prefix), "context": kept(data.prompt.context)},
    )
    history = data.history.model_copy(update={"max_events": 0})
    return data.model_copy(update={"folder": folder, "prompt": prompt, "history": history})
