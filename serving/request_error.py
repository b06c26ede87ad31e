"""What is wrong with one request, and where."""

from equipoise.common.errors import UserError


class RequestError(UserError):
    """A request that cannot be answered as it stands; a server answers it with a 4xx.

    Args:
        field: path of the faulty value inside the request, such as `candidates[3].item_id`.
        sentence: what is wrong with it and the way out, to be read after the path.
    """

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(f"{field} {sentence}")
        self.field, self.sentence = field, sentence
