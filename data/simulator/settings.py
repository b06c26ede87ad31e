"""How large a simulated shop is, and from which seed it comes."""

from dataclasses import asdict, dataclass
from typing import Any

from equipoise.common.errors import UserError
from equipoise.common.options import option


@dataclass(frozen=True)
class SimulatorSettings:
    """Sizes of a simulated shop.

    Raises:
        UserError: a size is out of range; names the option.
    """

    shoppers: int = option(2_000, "How many shoppers.")
    items: int = option(200, "How many items.")
    requests: int = option(5_000, "How many requests.")
    candidates: int = option(12, "Items shown in a request.")
    events: int = option(6, "Purchases of a shopper before the first request.")
    days: int = option(60, "Over which the requests are spread.")
    position_bias: float = option(0.5, "η of (place + 1)^-η, the chance to be looked at.")
    price_tests: float = option(0.6, "Share of impressions at a random price.")
    price_spread: float = option(1.8, "Largest factor of a random price.")
    price_response: float = option(1.0, "Factor of how demand answers to prices; 0: not at all.")
    substitutes: float = option(0.0, "How much prices of items of the same kind in a slate count.")
    competitor: float = option(0.0, "How much another shop's price of the item counts.")
    price_memory: float = option(0.0, "How much what a shopper last paid for the item counts.")
    seed: int = option(0, "Of all draws.")

    def __post_init__(self) -> None:
        for name in ("shoppers", "items", "requests", "days"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} is {getattr(self, name)}: give at least 1")
        if not 2 <= self.candidates <= self.items:
            raise UserError(
                f"--candidates is {self.candidates}, but a request shows 2 to {self.items} of the {self.items} items: "
                "lower it or raise --items"
            )
        strengths = ("price_response", "substitutes", "competitor", "price_memory")
        for name in ("events", "seed", "position_bias", *strengths):
            if not getattr(self, name) >= 0:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}: give 0 or more")
        if not 0 <= self.price_tests <= 1:
            raise UserError(f"--price-tests is {self.price_tests}: give a share from 0 to 1")
        if not 1 <= self.price_spread <= 10:
            raise UserError(f"--price-spread is {self.price_spread}: give a factor from 1 to 10")

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)

    @property
    def compares(self) -> bool:
        """Whether shoppers hold a price against other prices."""
        return self.substitutes > 0 or self.competitor > 0 or self.price_memory > 0
