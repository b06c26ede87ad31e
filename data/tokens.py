"""Texts to token ids: every item once, every prefix once, short contexts remembered.

A prompt is the prefix's ids followed by the candidate's ids; both are tokenised apart, so that a packed slate and a
single prompt hold the same tokens. Encoders: `[CLS] prefix [SEP]` and `candidate [SEP]`. Decoders: `(BOS) prefix \\n`
and `candidate \\n`, whose last token is the one that is read.
"""

from collections.abc import Callable, Sequence
from typing import Any

from configs.errors import UserError
from configs.schema import TokensConfig

ItemTexts = Callable[[list[int]], list[str]]
MOST_LAZY_ITEMS = 200_000


class SlateTokenizer:
    """Tokenises prefixes and candidates of slates and counts what had to be cut.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        limits: the token limits of prefix and candidate.
        encoder: whether the backbone is an encoder (special tokens) or a decoder (line breaks).
        item_texts: the text of every item, by item_index, all tokenised at once; or a function from item indices to
            their texts, and items are tokenised as they occur.

    Raises:
        UserError: the tokenizer lacks a token that ends prefixes and candidates.
    """

    def __init__(
        self, tokenizer: Any, limits: TokensConfig, encoder: bool, item_texts: Sequence[str] | ItemTexts
    ) -> None:
        self.tokenizer = tokenizer
        self.limits = limits
        self._contexts: dict[str, list[int]] = {}
        self.seen = {"prefix": 0, "candidate": 0}
        self.cut = {"prefix": 0, "candidate": 0}
        if encoder:
            if tokenizer.cls_token_id is None or tokenizer.sep_token_id is None:
                raise UserError("backbone.tokenizer: an encoder needs [CLS] and [SEP] tokens: choose its own tokenizer")
            self.start, self.prefix_end = [tokenizer.cls_token_id], [tokenizer.sep_token_id]
            self.candidate_end = [tokenizer.sep_token_id]
        else:
            self.start = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
            self.prefix_end = self.candidate_end = self._line_break()
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        self.separator = ", "
        self._texts_of = item_texts if callable(item_texts) else None
        self._items = {} if callable(item_texts) else dict(enumerate(self._ids(list(item_texts))))

    def _line_break(self) -> list[int]:
        """The ids that end prefixes and candidates of decoders: a line break, or one token where none is known."""
        ids = self._ids(["\n"])[0]
        # Tokenizers made for encoders drop white space altogether.
        ends = (self.tokenizer.sep_token_id, self.tokenizer.eos_token_id)
        ids = ids or [token for token in ends if token is not None][:1]
        if not ids:
            raise UserError(
                "backbone.tokenizer: no token for a line break, and no sep or eos token to end a candidate with: "
                "choose another tokenizer"
            )
        return ids

    def _ids(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        # A title that spells "[SEP]" or "</s>" must stay plain text, or a seller could end the prompt.
        options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        return self.tokenizer(texts, **options)["input_ids"]

    def prefix(self, text: str) -> list[int]:
        """Token ids of a prefix, at most `max_prefix`, cut at its end."""
        room = self.limits.max_prefix - len(self.start) - len(self.prefix_end)
        ids = self._ids([text])[0]
        self.seen["prefix"] += 1
        self.cut["prefix"] += len(ids) > room
        return [*self.start, *ids[:room], *self.prefix_end]

    def candidates(self, items: Sequence[int], contexts: Sequence[str]) -> list[list[int]]:
        """Token ids of candidates: item text, then the impression's context; the item text is cut where too long."""
        new = sorted({context for context in contexts if context and context not in self._contexts})
        if len(self._contexts) + len(new) > 500_000:
            self._contexts.clear()
            new = sorted({context for context in contexts if context})
        self._contexts.update(zip(new, self._ids([self.separator + context for context in new]), strict=True))
        self._meet(items)
        room = self.limits.max_candidate - len(self.candidate_end)
        out = []
        for item, context in zip(items, contexts, strict=True):
            item_ids, context_ids = self._items[item], self._contexts.get(context, [])
            over = len(item_ids) + len(context_ids) > room
            if over:
                context_ids = context_ids[:room]
                item_ids = item_ids[: room - len(context_ids)]
            self.seen["candidate"] += 1
            self.cut["candidate"] += over
            out.append([*item_ids, *context_ids, *self.candidate_end])
        return out

    def _meet(self, items: Sequence[int]) -> None:
        """Tokenise the items that occur for the first time, where their texts come from a function."""
        if self._texts_of is None:
            return
        new = sorted({item for item in items if item not in self._items})
        if len(self._items) + len(new) > MOST_LAZY_ITEMS:
            self._items.clear()
            new = sorted(set(items))
        if new:
            self._items.update(zip(new, self._ids(self._texts_of(new)), strict=True))
