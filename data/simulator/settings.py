"""How large a simulated shop is, and from which seed it comes."""

from dataclasses import asdict, dataclass
from typing import Any

from equipoise.common.errors import UserError


@dataclass(frozen=True)
class SimulatorSettings:
    """Sizes of a simulated shop.

    Attributes:
        shoppers, items, requests: how many there are.
        candidates: items shown in each request, all different.
        events: of each shopper before the first request, for histories.
        days: over which the requests are spread.
        position_bias: η; the candidate in place k (from 0) is looked at with probability (k + 1)^−η. 0: no bias.
        price_tests: the share of impressions whose price is a random multiple of the shop's, not the shop's own.
        price_spread: the multiples lie between 1 / spread and spread.
        seed: of all draws.

    Raises:
        UserError: a size is out of range; names the option.
    """

    shoppers: int = 2_000
    items: int = 200
    requests: int = 5_000
    candidates: int = 12
    events: int = 6
    days: int = 60
    position_bias: float = 0.5
    price_tests: float = 0.6
    price_spread: float = 1.8
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("shoppers", "items", "requests", "days"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} is {getattr(self, name)}: give at least 1")
        if not 2 <= self.candidates <= self.items:
            raise UserError(
                f"--candidates is {self.candidates}, but a request shows 2 to {self.items} of the {self.items} items: "
                "lower it or raise --items"
            )
        for name in ("events", "seed", "position_bias"):
            if not getattr(self, name) >= 0:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}: give 0 or more")
        if not 0 <= self.price_tests <= 1:
            raise UserError(f"--price-tests is {self.price_tests}: give a share from 0 to 1")
        if not 1 <= self.price_spread <= 10:
            raise UserError(f"--price-spread is {self.price_spread}: give a factor from 1 to 10")

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)
