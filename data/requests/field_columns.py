"""The columns of a file of requests: misspelt ones are refused, those that are read and not there are told once."""

import logging
from collections.abc import Collection, Iterable

from equipoise.common.errors import UserError
from equipoise.common.nearest import nearest

log = logging.getLogger(__name__)

ALIKE = 0.8
"""Least likeness of the name of a column nobody reads to one that is not there: tables hold other columns, too."""


def check_field_columns(source: str, wanted: Iterable[str], columns: Collection[str], read: Collection[str]) -> None:
    """Compare the columns of a file with the fields that prompts and heads read.

    Args:
        source: the file, for messages.
        wanted: fields that are read wherever they are given.
        columns: of the file.
        read: those of them that something reads.

    Raises:
        UserError: a column that nothing reads has nearly the name of a field that is not there.
    """
    unread = [name for name in columns if name not in read]
    absent = [name for name in dict.fromkeys(wanted) if name not in columns]
    for name in absent:
        if (meant := nearest(name, unread, ALIKE)) is not None:
            raise UserError(
                f"{source} has the column '{meant}', which nothing reads, and lacks '{name}': rename it, or drop it"
            )
    if absent:
        log.info(f"note: {source} lacks {', '.join(absent)}: scored as unknown")
