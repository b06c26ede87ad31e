"""What the commands of use cases may be told; light, for the command line reads it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equipoise.common.errors import UserError
from equipoise.common.options import option
from equipoise.scoring.options import AT_EXPORT, BASE

DEVICE = "Where the model runs, such as cuda."
OVERWRITE = "Replace an earlier file."


@dataclass(frozen=True)
class RecallOptions:
    """What a call of `equipoise recall` may choose."""

    top: int = option(100, "Items per shopper.")
    exclude_bought: bool = option(False, "Leave out the items of the column `bought`.")
    never_bought: int = option(0, "Of each shopper's items, at least so many that are not among those.")
    new: int = option(0, "Of each shopper's items, at least so many that nobody had bought yet.")
    device: str = option("cpu", DEVICE)
    base: str | None = option(None, BASE, shown=AT_EXPORT)
    overwrite: bool = option(False, OVERWRITE)


@dataclass(frozen=True)
class CampaignOptions:
    """What a call of `equipoise campaign` may choose."""

    candidates: Path | None = option(None, "One list of candidates for all shoppers.")
    device: str = option("cpu", DEVICE)
    base: str | None = option(None, BASE, shown=AT_EXPORT)
    max_candidates: int | None = option(None, "Of a request.", shown="as in training")
    overwrite: bool = option(False, OVERWRITE)


@dataclass(frozen=True)
class ExplainOptions:
    """What a call of `equipoise explain` may choose."""

    items: tuple[str, ...] = option((), "item_id to explain; may be repeated. Default: the best.", "--item")
    picture: Path | None = option(None, "Picture to write: .png, .svg or .pdf.")
    out: Path | None = option(None, "JSON file to write.")
    device: str = option("cpu", DEVICE)
    base: str | None = option(None, BASE, shown=AT_EXPORT)


@dataclass(frozen=True)
class PriceOptions:
    """The allowed prices as text, in one of three forms, and what is made of them."""

    prices: str | None = option(None, "Allowed prices: 3.49,3.99.")
    bounds: str | None = option(None, "Allowed prices: LEAST:MOST:STEP.")
    factors: str | None = option(None, "Allowed prices, by the current one: 0.9,1,1.1.")
    goal: str | None = option(None, "profit or revenue.", shown="profit where there is a column cost")
    field: str = option("price", "What the price is called in the data.")
    min_margin: float | None = option(None, "Least share of the price above the cost.", shown="none")
    endings: str | None = option(None, "What prices end in: 0.49,0.99.", shown="anything")
    max_change: float | None = option(None, "Largest change, as a share of the present price.", shown="any")
    force: bool = option(False, "Advise changes even where the data show no response.")
    device: str = option("cpu", DEVICE)
    base: str | None = option(None, BASE, shown=AT_EXPORT)
    cache_mb: int = option(256, "MiB of prefixes of returning shoppers, and of items, that are kept.")
    overwrite: bool = option(False, OVERWRITE)

    def allowed(self) -> Any:
        """The allowed prices as JSON (equipoise.serving.price_grid), None where the file gives them.

        Raises:
            UserError: several forms are given, or one is malformed.
        """
        given = [name for name in ("prices", "bounds", "factors") if getattr(self, name) is not None]
        if len(given) > 1:
            raise UserError(f"--{given[0]} and --{given[1]} exclude each other: drop one of them")
        if not given:
            return None
        name, text = given[0], getattr(self, given[0])
        parts = text.split(":" if name == "bounds" else ",")
        try:
            numbers = [float(part) for part in parts]
        except ValueError as error:
            raise UserError(f"--{name} '{text}' holds something that is not a number: write {_FORMS[name]}") from error
        if name == "bounds":
            if len(numbers) != 3:
                raise UserError(f"--bounds '{text}' has {len(numbers)} numbers: write {_FORMS[name]}")
            return dict(zip(("least", "most", "step"), numbers, strict=True))
        return {"factors": numbers} if name == "factors" else numbers

    def asked(self) -> dict[str, Any]:
        """What every request of the file asks for beside its own columns.

        Raises:
            UserError: an option is malformed.
        """
        try:
            endings = None if self.endings is None else [float(part) for part in self.endings.split(",")]
        except ValueError as error:
            raise UserError(
                f"--endings '{self.endings}' holds something that is not a number: write 0.49,0.99"
            ) from error
        limits = {"min_margin": self.min_margin, "endings": endings, "max_change": self.max_change}
        return {"prices": self.allowed(), "goal": self.goal, "field": self.field, "force": self.force, **limits}


_FORMS = {
    "prices": "them like 3.49,3.99",
    "bounds": "LEAST:MOST:STEP, such as 3:5:0.25",
    "factors": "them like 0.9,1,1.1",
}
