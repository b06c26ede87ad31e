"""The texts of a request's prompts by the templates of a run, for files, JSON and the server alike."""

from collections.abc import Mapping, Sequence
from typing import Any

from equipoise.configs.schema import HistoryConfig, PromptConfig, sections_of
from equipoise.data.prompts import ContextRenderer, history_text, is_missing, prefix_text, render_pieces
from equipoise.data.separators import one_line, teller_of


class PromptRenderer:
    """Renders fields as `prepare` does.

    Args:
        prompt, history: the templates of the run.
    """

    def __init__(self, prompt: PromptConfig, history: HistoryConfig | Sequence[HistoryConfig]) -> None:
        self.prompt, self.sections = prompt, sections_of(history)
        self.tell = teller_of(prompt, self.sections)
        self._contexts = ContextRenderer(prompt.context, prompt.separator, self.tell)

    @property
    def context_fields(self) -> list[str]:
        """The fields that contexts read, in the order in which `contexts` takes them."""
        return self._contexts.names

    def by_section(self, history: Any) -> list[Any]:
        """What a history holds for each section: a list is the only one's, a mapping names them.

        Raises:
            ValueError: a list where there are several sections, or an unknown one.
        """
        if history is None:
            return [None] * len(self.sections)
        keys = [section.key for section in self.sections]
        if isinstance(history, Mapping):
            for key in history:
                if key not in keys:
                    raise ValueError(f"has no section '{str(key)[:40]}': use {', '.join(keys)}")
            return [history.get(key) for key in keys]
        if len(keys) > 1:
            raise ValueError(f"has several sections: give an object with {', '.join(keys)}, each a list of titles")
        return [history]

    def titles(self, histories: Sequence[Sequence[Any]]) -> list[list[Any]]:
        """What a prefix says of each section of a history: its first `max_events` titles that are not blank."""
        return [
            [title for title in titles if not is_missing(title)][: section.max_events]
            for section, titles in zip(self.sections, histories, strict=True)
        ]

    def prefix(self, fields: Mapping[str, Any], histories: Sequence[Sequence[Any]]) -> str:
        """The shopper's text: from fields, and titles of past events by section."""
        sections = zip(self.sections, self.titles(histories), strict=True)
        texts = [history_text(titles, section.label, section.separator, self.tell) for section, titles in sections]
        return prefix_text(self.prompt.prefix, fields, texts, self.prompt.separator, self.tell)

    def ready(self, text: str) -> str:
        """A ready text, without the line breaks that would end a decoder's prompt."""
        return one_line(text, self.prompt, self.sections)

    def item(self, fields: Mapping[str, Any]) -> str:
        """An item's text; "" where its fields say nothing."""
        return render_pieces(self.prompt.item, fields, self.prompt.separator, self.tell)

    def context(self, fields: Mapping[str, Any]) -> str:
        """The text of one impression's context."""
        # Not through the ContextRenderer, which remembers by value: 1 and true are equal there, but read differently.
        return render_pieces(self.prompt.context, fields, self.prompt.separator, self.tell)

    def contexts(self, columns: Sequence[Sequence[Any]], count: int) -> list[str]:
        """The contexts of `count` impressions, from the columns of `context_fields`; equal ones are rendered once."""
        return self._contexts.texts(columns, count)
