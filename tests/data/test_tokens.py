"""Token ids of prefixes and candidates, for encoders and decoders."""

from typing import Any

import pytest

from equipoise.common.errors import UserError
from equipoise.configs.schema import TokensConfig
from equipoise.data.tokens import SlateTokenizer

ITEMS = ["frozen pizza, brand private", "milk", "a very long description of a very ordinary loaf of white sliced bread"]


def limits(**values: int) -> TokensConfig:
    return TokensConfig(**{"max_prefix": 40, "max_candidate": 40, **values})


def plain(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_encoder_layout(wordpiece: Any) -> None:
    slates = SlateTokenizer(wordpiece, limits(), encoder=True, item_texts=ITEMS)
    cls, sep = wordpiece.cls_token_id, wordpiece.sep_token_id
    assert slates.prefix("age 35 to 44") == [cls, *plain(wordpiece, "age 35 to 44"), sep]
    with_context, without = slates.candidates([1, 0], ["on display", ""])
    assert with_context == [*plain(wordpiece, "milk"), *plain(wordpiece, ", on display"), sep]
    assert without == [*plain(wordpiece, ITEMS[0]), sep]
    # One text or two parts: a single prompt in stock form has the same ids.
    assert slates.prefix("age 35") == wordpiece("age 35")["input_ids"]
    assert slates.pad_id == wordpiece.pad_token_id
    assert slates.cut == {"prefix": 0, "candidate": 0}
    assert slates.seen == {"prefix": 2, "candidate": 2}


def test_decoder_layout(bytewise: Any) -> None:
    slates = SlateTokenizer(bytewise, limits(), encoder=False, item_texts=ITEMS)
    line_break = plain(bytewise, "\n")
    assert len(line_break) == 1
    prefix = slates.prefix("age 35")
    assert prefix == [bytewise.bos_token_id, *plain(bytewise, "age 35"), *line_break]
    (candidate,) = slates.candidates([1], ["on sale"])
    assert candidate == [*plain(bytewise, "milk, on sale"), *line_break]
    assert bytewise.decode(prefix[1:] + candidate) == "age 35\nmilk, on sale\n"
    assert slates.pad_id == 0  # this tokenizer has no padding token


def test_long_texts_are_cut_at_their_end_and_counted(bytewise: Any) -> None:
    slates = SlateTokenizer(bytewise, limits(max_prefix=10, max_candidate=12), encoder=False, item_texts=ITEMS)
    assert bytewise.decode(slates.prefix("12345678")[1:]) == "12345678\n"
    assert slates.cut["prefix"] == 0
    assert bytewise.decode(slates.prefix("123456789")[1:]) == "12345678\n"
    assert slates.prefix("123456789")[0] == bytewise.bos_token_id
    assert (slates.cut["prefix"], slates.seen["prefix"]) == (2, 3)

    texts = [
        bytewise.decode(ids) for ids in slates.candidates([1, 1, 0, 0, 2], ["sale!", "on sale", "", "sale", "x" * 30])
    ]
    assert texts == [
        "milk, sale!\n",  # 12 tokens fit
        "mi, on sale\n",  # the item gives way to the context
        "frozen pizz\n",
        "froze, sale\n",
        ", xxxxxxxxx\n",  # a context that fills everything is cut itself
    ]
    assert all(len(text) == 12 for text in texts)
    assert (slates.cut["candidate"], slates.seen["candidate"]) == (4, 5)


@pytest.mark.parametrize("encoder", [True, False])
def test_no_limit_is_ever_exceeded(encoder: bool, wordpiece: Any, bytewise: Any) -> None:
    tokenizer = wordpiece if encoder else bytewise
    least = limits(max_prefix=8, max_candidate=4)
    slates = SlateTokenizer(tokenizer, least, encoder, item_texts=[*ITEMS, ""])
    assert len(slates.prefix("many words " * 50)) == 8
    assert len(slates.prefix("")) == 2
    for ids in slates.candidates([0, 1, 2, 3, 3], ["", "a context", "", "", "another one"]):
        assert 1 <= len(ids) <= 4


def test_contexts_are_tokenised_once(wordpiece: Any) -> None:
    class Counting:
        def __init__(self) -> None:
            self.texts: list[str] = []

        def __getattr__(self, name: str) -> Any:
            return getattr(wordpiece, name)

        def __call__(self, texts: list[str], **options: Any) -> Any:
            self.texts += texts
            return wordpiece(texts, **options)

    counting = Counting()
    slates = SlateTokenizer(counting, limits(), encoder=True, item_texts=ITEMS)
    assert counting.texts == ITEMS  # every item once, at the start
    counting.texts.clear()
    first = slates.candidates([0, 1, 2], ["on sale", "on sale", "new"])
    assert sorted(counting.texts) == [", new", ", on sale"]
    assert slates.candidates([0, 1, 2], ["on sale", "on sale", "new"]) == first
    assert len(counting.texts) == 2
    slates.candidates([0], [""])
    assert len(counting.texts) == 2


def test_items_given_by_a_function_are_tokenised_as_they_occur(wordpiece: Any) -> None:
    asked: list[list[int]] = []

    def texts(numbers: list[int]) -> list[str]:
        asked.append(numbers)
        return [ITEMS[number] for number in numbers]

    lazy = SlateTokenizer(wordpiece, limits(), encoder=True, item_texts=texts)
    eager = SlateTokenizer(wordpiece, limits(), encoder=True, item_texts=ITEMS)
    for items in ([2, 0, 2], [0, 2], [1, 0]):
        contexts = ["new"] * len(items)
        assert lazy.candidates(items, contexts) == eager.candidates(items, contexts)
    assert asked == [[0, 2], [1]]
    lazy.most_items = 2
    assert lazy.candidates([1, 2], ["", ""]) == eager.candidates([1, 2], ["", ""])
    assert asked[2:] == [[1, 2]]  # the full store was emptied


def test_a_full_store_of_contexts_is_emptied_and_goes_on(wordpiece: Any) -> None:
    slates = SlateTokenizer(wordpiece, limits(), encoder=True, item_texts=ITEMS)
    expected = slates.candidates([0, 1], ["old", "new"])
    slates._contexts = {str(number): [1] for number in range(500_000)}
    slates._contexts["old"] = slates.ids([", old"])[0]
    assert slates.candidates([0, 1], ["old", "new"]) == expected
    assert len(slates._contexts) == 2


def test_returned_lists_belong_to_the_caller(wordpiece: Any) -> None:
    slates = SlateTokenizer(wordpiece, limits(), encoder=True, item_texts=ITEMS)
    (one,) = slates.candidates([1], ["new"])
    kept = list(one)
    one.clear()
    assert slates.candidates([1], ["new"]) == [kept]


def test_tokenizers_without_the_tokens_that_end_a_text_are_refused(bytewise: Any, wordpiece: Any) -> None:
    with pytest.raises(UserError, match=r"backbone\.tokenizer: an encoder needs \[CLS\] and \[SEP\]"):
        SlateTokenizer(bytewise, limits(), encoder=True, item_texts=ITEMS)
    # WordPiece drops line breaks: a decoder with such a tokenizer ends its texts with [SEP].
    slates = SlateTokenizer(wordpiece, limits(), encoder=False, item_texts=ITEMS)
    assert slates.candidates([1], [""]) == [[*plain(wordpiece, "milk"), wordpiece.sep_token_id]]


@pytest.mark.parametrize("encoder", [True, False])
def test_special_tokens_spelled_in_a_title_stay_text(encoder: bool, wordpiece: Any, bytewise: Any) -> None:
    tokenizer = wordpiece if encoder else bytewise
    hostile = "cheap [SEP] tea </s> <s> [CLS]"
    slates = SlateTokenizer(tokenizer, limits(), encoder=encoder, item_texts=[hostile])
    (candidate,) = slates.candidates([0], [hostile])
    inside = candidate[: -len(slates.candidate_end)]
    assert not set(inside) & set(tokenizer.all_special_ids)
    prefix = slates.prefix(hostile)
    inside = prefix[len(slates.start) : -len(slates.prefix_end)]
    assert not set(inside) & set(tokenizer.all_special_ids)
