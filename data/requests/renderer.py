"""The texts of a request's prompts by the templates of a run, for files, JSON and the server alike."""

from collections.abc import Mapping, Sequence
from typing import Any

from equipoise.configs.schema import HistoryConfig, PromptConfig
from equipoise.data.prompts import ContextRenderer, is_missing, prefix_text, render_pieces


class PromptRenderer:
    """Renders fields as `prepare` does.

    Args:
        prompt, history: the templates of the run.
    """

    def __init__(self, prompt: PromptConfig, history: HistoryConfig) -> None:
        self.prompt, self.history = prompt, history
        self._contexts = ContextRenderer(prompt.context, prompt.separator)

    @property
    def context_fields(self) -> list[str]:
        """The fields that contexts read, in the order in which `contexts` takes them."""
        return self._contexts.names

    def titles(self, history: Sequence[Any]) -> list[Any]:
        """What a prefix says of a history: its first `max_events` titles that are not blank."""
        return [title for title in history if not is_missing(title)][: self.history.max_events]

    def prefix(self, fields: Mapping[str, Any], history: Sequence[Any]) -> str:
        """The shopper's text: from fields, and titles of past events."""
        titles = self.titles(history)
        return prefix_text(self.prompt.prefix, fields, titles, self.history.label, self.prompt.separator)

    def item(self, fields: Mapping[str, Any]) -> str:
        """An item's text; "" where its fields say nothing."""
        return render_pieces(self.prompt.item, fields, self.prompt.separator)

    def context(self, fields: Mapping[str, Any]) -> str:
        """The text of one impression's context."""
        # Not through the ContextRenderer, which remembers by value: 1 and true are equal there, but read differently.
        return render_pieces(self.prompt.context, fields, self.prompt.separator)

    def contexts(self, columns: Sequence[Sequence[Any]], count: int) -> list[str]:
        """The contexts of `count` impressions, from the columns of `context_fields`; equal ones are rendered once."""
        return self._contexts.texts(columns, count)
