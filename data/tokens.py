"""Texts to token ids: every item once, every prefix once, short contexts remembered.

A prompt is the prefix's ids followed by the candidate's ids; both are tokenised apart, so that a packed slate and a
single prompt hold the same tokens. Encoders: `[CLS] prefix [SEP]` and `candidate [SEP]`. Decoders: `(BOS) prefix \\n`
and `candidate \\n`, whose last token is the one that is read.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from equipoise.common.errors import UserError
from equipoise.configs.schema import TokensConfig

ItemTexts = Callable[[list[Any]], list[str]]
MOST_LAZY_ITEMS = 200_000
MOST_CONTEXTS = 500_000


def candidate_cut(item: np.ndarray, context: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many of a candidate's item ids and context ids stay, so that both fit into `room`; the context goes first.

    Args:
        item, context: int arrays, how many ids there are.

    Returns:
        int arrays, what stays of the item and of the context, and a bool array, whether something was cut.
    """
    kept_context = np.minimum(context, room)
    return np.minimum(item, room - kept_context), kept_context, item + context > room


class SlateTokenizer:
    """Tokenises prefixes and candidates of slates and counts what had to be cut.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        limits: the token limits of prefix and candidate.
        encoder: whether the backbone is an encoder (special tokens) or a decoder (line breaks).
        item_texts: the text of every item, by item_index, all tokenised at once; or a function from item indices, or
            whatever else names items, to their texts, and items are tokenised as they occur.
        most_items, most_contexts: how many are remembered, where items are tokenised as they occur.

    Raises:
        UserError: the tokenizer lacks a token that ends prefixes and candidates.
    """

    def __init__(
        self,
        tokenizer: Any,
        limits: TokensConfig,
        encoder: bool,
        item_texts: Sequence[str] | ItemTexts,
        most_items: int | None = None,
        most_contexts: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.limits = limits
        self.most_items, self.most_contexts = most_items or MOST_LAZY_ITEMS, most_contexts or MOST_CONTEXTS
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
        self._items: dict[Hashable, list[int]] = {}
        if not callable(item_texts):
            self._items.update(enumerate(self.ids(list(item_texts))))

    @property
    def candidate_room(self) -> int:
        """How many ids of item and context fit into a candidate."""
        return self.limits.max_candidate - len(self.candidate_end)

    def _line_break(self) -> list[int]:
        """The ids that end prefixes and candidates of decoders: a line break, or one token where none is known."""
        ids = self.ids(["\n"])[0]
        # Tokenizers made for encoders drop white space altogether.
        ends = (self.tokenizer.sep_token_id, self.tokenizer.eos_token_id)
        ids = ids or [token for token in ends if token is not None][:1]
        if not ids:
            raise UserError(
                "backbone.tokenizer: no token for a line break, and no sep or eos token to end a candidate with: "
                "choose another tokenizer"
            )
        return ids

    def ids(self, texts: list[str]) -> list[list[int]]:
        """Token ids of plain texts, nothing added and nothing cut."""
        if not texts:
            return []
        # A title that spells "[SEP]" or "</s>" must stay plain text, or a seller could end the prompt.
        return self.tokenizer(
            texts,
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]

    def prefix(self, text: str) -> list[int]:
        """Token ids of a prefix, at most `max_prefix`, cut at its end."""
        return self.prefixes([text])[0]

    def prefixes(self, texts: list[str]) -> list[list[int]]:
        """Token ids of many prefixes, tokenised at once."""
        room = self.limits.max_prefix - len(self.start) - len(self.prefix_end)
        every = self.ids(texts)
        self.seen["prefix"] += len(every)
        self.cut["prefix"] += sum(len(ids) > room for ids in every)
        return [[*self.start, *ids[:room], *self.prefix_end] for ids in every]

    def contexts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of contexts as they follow an item's: separator first, nothing cut; an empty one adds nothing."""
        context_ids = iter(self.ids([self.separator + text for text in texts if text]))
        return [next(context_ids) if text else [] for text in texts]

    def candidates(self, items: Sequence[Any], contexts: Sequence[str]) -> list[list[int]]:
        """Token ids of candidates: item text, then the impression's context; the item text is cut where too long."""
        new = sorted({context for context in contexts if context and context not in self._contexts})
        if len(self._contexts) + len(new) > self.most_contexts:
            self._contexts.clear()
            new = sorted({context for context in contexts if context})
        self._contexts.update(zip(new, map(self._remembered, self.contexts(new)), strict=True))
        self._meet(items)
        parts = [(self._items[i], self._contexts.get(c, [])) for i, c in zip(items, contexts, strict=True)]
        lengths = np.array([(len(item), len(context)) for item, context in parts], dtype=np.int64).reshape(-1, 2)
        kept_item, kept_context, over = candidate_cut(lengths[:, 0], lengths[:, 1], self.candidate_room)
        self.seen["candidate"] += len(parts)
        self.cut["candidate"] += int(over.sum())
        kept = zip(parts, kept_item.tolist(), kept_context.tolist(), strict=True)
        return [[*item[:i], *context[:c], *self.candidate_end] for (item, context), i, c in kept]

    def _remembered(self, ids: list[int]) -> list[int]:
        """As many ids as a candidate can hold, and one more where there are more, so that the cut is counted."""
        return ids[: self.candidate_room + 1]

    def _meet(self, items: Sequence[Any]) -> None:
        """Tokenise the items that occur for the first time, where their texts come from a function."""
        if self._texts_of is None:
            return
        new = sorted({item for item in items if item not in self._items})
        if len(self._items) + len(new) > self.most_items:
            self._items.clear()
            new = sorted(set(items))
        if new:
            ids = self.ids(self._texts_of(new))
            self._items.update(zip(new, map(self._remembered, ids), strict=True))
