"""What one request may hold."""

from dataclasses import dataclass


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
        explained_slate: candidates of a request that is explained: its slate is scored once per piece of the prompt.
    """

    candidates: int = 512
    prefix_chars: int = 20_000
    text_chars: int = 4_000
    prices: int = 2_048
    history: int = 1_000
    boost: float = 5.0
    recalled: int = 1_000
    past: int = 10_000
    explained: int = 3
    explained_slate: int = 100
