"""The requests of a campaign: the rows of a table with the campaign's fields, values and boosts in them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from equipoise.common.errors import UserError
from equipoise.configs.campaign import Campaign
from equipoise.data.prompts import is_missing
from equipoise.data.requests.table import RequestTable
from equipoise.data.values import value_text
from equipoise.serving.frames import RequestRows, number_of
from equipoise.serving.recommender import PreparedRequest, Recommender


class CampaignRequests:
    """Makes each request of a table one of the campaign's.

    Args:
        campaign: what it says, values and boosts.
        recommender: knows which fields the prompts read.
        table: the requests.
        candidates: of every request, as JSON, in place of the table's own.
        candidate_rows: the same as rows, with the columns of attributes and values.
        candidates_path: their file.

    Raises:
        UserError: the campaign names a field that no prompt reads, or a column that is not there.
    """

    def __init__(
        self,
        campaign: Campaign,
        recommender: Recommender,
        table: RequestTable,
        candidates: Sequence[Mapping[str, Any]] | None = None,
        candidate_rows: Sequence[Mapping[str, Any]] = (),
        candidates_path: Path | None = None,
    ) -> None:
        self.campaign, self.recommender, self.table = campaign, recommender, table
        self.omega = _omega(campaign, recommender)
        self.common, self.rows = candidates, candidate_rows
        columns_read = set(table.kinds) if candidates is None else set(candidate_rows[0])
        source = table.path if candidates is None else candidates_path
        self.said = _said(campaign, recommender, table, columns_read)
        self.needed = [name for name in campaign.attributes if name != "item_id"]
        unread = [name for name in self.needed if name not in columns_read]
        self.of_items = {name: known for name in unread if (known := _known(recommender, name))}
        self.needed = [name for name in self.needed if name not in self.of_items]
        for name in (*self.needed, *([campaign.value] if campaign.value else [])):
            if name not in columns_read:
                raise UserError(f"{source} has no column {name}, which the campaign '{campaign.name}' reads: add it")
        own = set(table.kinds) - set(self.said)
        self.maker = RequestRows(recommender.reader, own, table.per_candidate, candidates)
        self.maker.check_names(str(table.path), table.kinds.keys() | self.said)
        self.maker.worth.pop("value", None)  # what the campaign calls value is put in below
        value = [campaign.value] if campaign.value and candidates is None else []
        more = [*self.maker.columns, table.key, *(self.needed if candidates is None else []), *value]
        self.columns = list(dict.fromkeys(more))

    def prepare(
        self, rows: Sequence[Mapping[str, Any]]
    ) -> tuple[PreparedRequest, dict[str, str | None], dict[str, list[str | None]]]:
        """The prepared request of some rows, its ids, and by attribute the group of each candidate.

        Raises:
            RequestError: names the request and the field that is wrong.
        """
        campaign = self.campaign
        with self.maker.named(rows):
            request = self.maker.request(rows)
            fields = self.recommender.fields
            if "user" in request:
                request["user"] |= {name: value for name, value in self.said.items() if name in fields["user"]}
            context = {name: value for name, value in self.said.items() if name in fields["context"]}
            columns = self._columns(rows, len(request["candidates"]))
            groups = {name: [_text(value) for value in columns[name]] for name in self.needed}
            for name, known in self.of_items.items():
                groups[name] = [known.get(_text(candidate["item_id"]) or "") for candidate in request["candidates"]]
            if "item_id" in campaign.attributes:
                groups["item_id"] = [_text(candidate["item_id"]) for candidate in request["candidates"]]
            candidates = []
            for index, given in enumerate(request["candidates"]):
                candidate = dict(given)
                if context:
                    candidate["context"] = {**candidate.get("context", {}), **context}
                if campaign.value and not is_missing(columns[campaign.value][index]):
                    candidate["value"] = number_of(columns[campaign.value][index])
                added = [boost.add for boost in campaign.boosts if groups[boost.attribute][index] == boost.group]
                if added:
                    candidate["boost"] = candidate.get("boost", 0.0) + sum(added)
                candidates.append(candidate)
            weight = campaign.value_weight if campaign.value else 0.0
            request |= {"candidates": candidates, "omega": self.omega, "value_weight": weight}
            return self.recommender.prepare(request), self.maker.identity(rows), groups

    def _columns(self, rows: Sequence[Mapping[str, Any]], count: int) -> dict[str, list[Any]]:
        """One value per candidate of every column that the campaign reads."""
        names = dict.fromkeys([*self.needed, *([self.campaign.value] if self.campaign.value else [])])
        if self.common is not None:
            return {name: [row[name] for row in self.rows] for name in names}
        if self.table.per_candidate:
            return {name: [row[name] for row in rows] for name in names}
        columns = {}
        for name in names:
            values = rows[0][name]
            if not isinstance(values, list) or len(values) != count:
                raise UserError(
                    f"{self.table.path}: {name} is no list with one value for each of the {count} candidates of "
                    f"'{rows[0][self.table.key]}': make it one"
                )
            columns[name] = values
        return columns


def _omega(campaign: Campaign, recommender: Recommender) -> dict[str, float]:
    """ω of the utilities, by which places are given: of objectives alone whose δ is added to them.

    Raises:
        UserError: the campaign weighs an objective that fills places of a list.
    """
    lists = recommender.reader.lists
    placed = [name for name, term in lists.terms.items() if term.kind != "adjust"] if lists else []
    wrong = [name for name in placed if campaign.omega.get(name)]
    if wrong:
        raise UserError(
            f"the campaign '{campaign.name}' weighs {wrong[0]} (omega), which fills the places of a list, while a "
            "campaign gives places by expected value: leave it out and cap or boost groups, or train it with form: "
            "parallel"
        )
    nearest = recommender.reader.operating_point.nearest_to_relevance
    return {**{name: nearest[name] for name in placed}, **campaign.omega}


def _said(campaign: Campaign, recommender: Recommender, table: RequestTable, columns_read: set[str]) -> dict[str, Any]:
    """The fields that the campaign puts into prompts; its name and dates only where a prompt reads them."""
    user, context = set(recommender.fields["user"]), set(recommender.fields["context"])
    for name in campaign.fields:
        if name not in user | context:
            known = ", ".join(sorted(user | context)) or "none"
            raise UserError(f"campaign '{campaign.name}': no prompt of this export reads {name}: name one of {known}")
    fields = {name: value for name, value in campaign.dated().items() if name in user | context} | campaign.fields
    for ready, names, columns in (("prefix", user, set(table.kinds)), ("context", context, columns_read)):
        if ready in columns and names & fields.keys():
            raise UserError(
                f"{table.path}: the column {ready} holds ready texts, into which the campaign cannot put "
                f"{', '.join(sorted(names & fields.keys()))}: give the fields instead"
            )
    return fields


def _known(recommender: Recommender, name: str) -> dict[str, str]:
    """The values of an attribute that the export's own items have, by item_id."""
    items = recommender.reader.items
    return items.attributes.get(name) or items.keys.get(name) or {}


def _text(value: Any) -> str | None:
    return None if is_missing(value) else value_text(value)
