"""What a server does with a ranking before it is answered: draw the list, and log what is shown."""

import secrets
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from equipoise.serving.explore import make_explorer
from equipoise.serving.ranking import Ranking
from equipoise.serving.recommender import Recommender
from equipoise.serving.server.options import ServerOptions
from equipoise.serving.shown_log import LogRows, ShownLog, ShownRequest


class Shown:
    """Draws the lists that are shown and logs them, as the options of a server say.

    Args:
        recommender: the loaded export.
        options: of the server.

    Raises:
        UserError: an option makes no sense, or the log cannot be written.
    """

    def __init__(self, recommender: Recommender, options: ServerOptions) -> None:
        self.explorer = make_explorer(options.explore, options.explore_seed)
        self.log: ShownLog | None = None
        if options.log is not None:
            rows = LogRows(recommender.reader, recommender.pointwise, recommender.listwise, recommender.version)
            self.log = ShownLog(options.log, rows)

    @property
    def active(self) -> bool:
        """Whether lists are drawn or logged at all."""
        return self.explorer is not None or self.log is not None

    def start(self) -> None:
        """Begin to log."""
        if self.log is not None:
            self.log.start()

    def carry_over(self, before: "Shown") -> None:
        """Count on from where the server's log stands, whose last part may still be written."""
        if self.log is not None and before.log is not None:
            self.log.counts = before.log.counts

    def close(self) -> None:
        """Write what is not yet in the log."""
        if self.log is not None:
            self.log.close()

    def __call__(self, ranking: Ranking, given: Mapping[str, Any]) -> Ranking:
        """The list that is shown. A request without a name gets one where it is logged, for labels must find it."""
        if self.log is not None and ranking.request_id is None:
            ranking = replace(ranking, request_id=secrets.token_hex(16))
        drawn = ranking if self.explorer is None else self.explorer(ranking)
        if self.log is not None:
            self.log.put(ShownRequest(given, drawn, datetime.now(UTC).replace(tzinfo=None)))
        return drawn
