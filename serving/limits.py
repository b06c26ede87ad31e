"""What one request may hold."""

from dataclasses import dataclass

from equipoise.export.request_schema import HISTORY_ENTRIES, LARGEST_BOOST, PREFIX_CHARS, TEXT_CHARS


@dataclass(frozen=True)
class Limits:
    """Bounds that keep one request from taking all memory or time; a request beyond them is refused, never cut.

    Attributes:
        candidates: of a request.
        prefix_chars: of a ready prefix.
        text_chars: of every other text: a field's value, a title, a ready item text or context.
        prices: pairs of candidate and price of one request for prices.
        history: entries of a history; the prompt tells the first `max_events` of them alone.
        boost: largest size of a candidate's boost, in utility: a factor of e^5 ≈ 148 in pCTR·pCVR.
        recalled: items that one request for recall may ask for.
        past: items that it names as bought, or to leave out.
        explained: candidates that one explanation names.
        unknown_fields: whether fields that nothing reads are ignored.
        explained_slate: candidates of a request that is explained: its slate is scored once per piece of the prompt.
    """

    candidates: int = 512
    prefix_chars: int = PREFIX_CHARS
    text_chars: int = TEXT_CHARS
    prices: int = 2_048
    history: int = HISTORY_ENTRIES
    boost: float = LARGEST_BOOST
    recalled: int = 1_000
    past: int = 10_000
    explained: int = 3
    explained_slate: int = 100
    unknown_fields: bool = False
