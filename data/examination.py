"""What a prepared folder says of places: how likely each was looked at, next to the first one."""

from pydantic import BaseModel, ConfigDict

from equipoise.common.errors import UserError


class PositionStats(BaseModel):
    """Examination by place: P(click) = examination of the place · P(click | looked at).

    Attributes:
        column: `data.position`.
        first: the value of the column at the first place.
        examination: of the places in order, 1 at the first; the last one holds for all that follow.
        impressions: of the train split by place, those that follow counted with the last one.
        eta: of (place + 1)^−η, place from 0, that is nearest to them.
        rows: impressions that they were estimated on.
    """

    model_config = ConfigDict(extra="forbid")

    column: str
    first: int
    examination: list[float]
    impressions: list[int]
    eta: float
    rows: int


def check_position(prepared: PositionStats | None, column: str | None, folder: object) -> None:
    """Refuse a folder that was prepared with another `data.position`.

    Raises:
        UserError: names both.
    """
    there = prepared.column if prepared is not None else None
    if there != column:
        raise UserError(
            f"{folder} was prepared with data.position {there or 'null'}, the config has {column or 'null'}: run "
            "`equipoise prepare` again"
        )
