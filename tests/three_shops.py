"""Tables of three made-up shops as their own systems write them: German, French and Spanish; one has no request ids."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np


@dataclass(frozen=True)
class Shop:
    """How one shop names and writes things; `columns` from our names to its own."""

    language: str
    delimiter: str
    encoding: str
    columns: dict[str, str]
    moment: Callable[[datetime], str]
    amount: Callable[[float], str]
    yes_no: tuple[str, str]
    goods: tuple[str, ...]
    brands: tuple[str, ...]
    groups: tuple[str, ...]
    files: dict[str, str]


def _comma(value: float, group: str) -> str:
    return f"{value:,.2f}".replace(",", "x").replace(".", ",").replace("x", group)


SHOPS = {
    "de": Shop(
        "de", ";", "cp1252",
        {"request_id": "Sitzung", "timestamp": "Zeitpunkt", "user_id": "Kundennr", "item_id": "Artikelnr",
         "click": "angeklickt", "conversion": "gekauft", "title": "Bezeichnung",
         "category": "Warengruppe", "brand": "Marke", "price": "Preis",
         "group": "Altersgruppe"},
        lambda t: t.astimezone(ZoneInfo("Europe/Berlin")).strftime("%d.%m.%Y %H:%M"),
        lambda v: f"{_comma(v, '.')} €", ("nein", "ja"),
        ("Wollmütze", "Röcke aus Leinen", "Jeansjacke", "Strümpfe"), ("Größe & Söhne", "Nordwind"),
        ("18–29", "30–49", "50+"),
        {"impressions": "Einblendungen.csv", "items": "Artikel.csv", "users": "Kunden.csv", "events": "Käufe.csv"},
    ),
    "fr": Shop(
        "fr", "\t", "utf-8",
        {"timestamp": "horodatage", "user_id": "id_client", "item_id": "code_article", "click": "cliqué",
         "conversion": "acheté", "title": "libellé", "category": "rayon",
         "brand": "marque", "price": "prix", "group": "région"},
        lambda t: t.strftime("%d/%m/%Y %H:%M:%S"),
        lambda v: f"{_comma(v, chr(0x202F))} €", ("non", "oui"),
        ("Fromage de chèvre", "Thé vert", "Crème brûlée", "Baguette"), ("Château Doré", "Belle Île"),
        ("Nord", "Sud", "Île-de-France"),
        {"impressions": "affichages.tsv", "items": "articles.tsv", "users": "clients.tsv", "events": "achats.tsv"},
    ),
    "es": Shop(
        "es", ",", "utf-8",
        {"request_id": "id_sesion", "timestamp": "momento", "user_id": "quien", "item_id": "que", "click": "le_gusto",
         "conversion": "se_lo_llevo", "title": "nombre", "category": "familia", "brand": "marca",
         "price": "precio", "group": "ciudad"},
        lambda t: str(int(t.timestamp() * 1000)),
        lambda v: _comma(v, "."), ("0", "1"),
        ("Jabón de Marsella", "Champú de niños", "Colonia añeja", "Cepillo"), ("Señora", "Niña"),
        ("Cádiz", "León", "Málaga"),
        {"impressions": "vistas.csv", "items": "articulos.csv", "users": "personas.csv", "events": "compras.csv"},
    ),
}  # fmt: skip


def write_shop(shop: Shop, folder: Path, requests: int = 80, candidates: int = 6, seed: int = 0) -> dict[str, Path]:
    """Write the four tables of a shop; clicks follow what a shopper's group likes."""
    rng = np.random.default_rng(seed)
    kinds = len(shop.goods)
    prices = [round(float(3 + 41 * n + (n % 7) * 0.35), 2) for n in range(32)]
    items = [
        {"item_id": f"{100 + n}", "title": f"{shop.goods[n % kinds]} Nº {n}",
         "category": shop.goods[n % kinds].split()[0], "brand": shop.brands[n % 2], "price": shop.amount(prices[n])}
        for n in range(32)
    ]  # fmt: skip
    users = [{"user_id": f"K{n}", "group": shop.groups[n % 3]} for n in range(20)]
    start, impressions, events = datetime(2026, 3, 2, 9, tzinfo=UTC), [], []
    for request in range(requests):
        user = int(rng.integers(20))
        moment = start + timedelta(hours=7 * request, minutes=13)
        for item in rng.choice(32, candidates, replace=False):
            click = int(rng.random() < (0.75 if item % kinds == user % 3 else 0.12))
            bought = int(click and rng.random() < 0.5)
            named = {"request_id": f"S{request}", "user_id": f"K{user}", "item_id": f"{100 + item}"}
            labels = {"click": shop.yes_no[click], "conversion": shop.yes_no[bought]}
            impressions.append({**named, "timestamp": shop.moment(moment), **labels})
            if bought:
                after = shop.moment(moment + timedelta(minutes=20))
                events.append({"user_id": f"K{user}", "item_id": f"{100 + item}", "timestamp": after})
    paths = {}
    tables: dict[str, list[dict[str, Any]]] = {
        "impressions": impressions,
        "items": items,
        "users": users,
        "events": events,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        paths[name] = folder / shop.files[name]
        with paths[name].open("w", newline="", encoding=shop.encoding) as file:
            fields = [ours for ours in rows[0] if ours in shop.columns]
            writer = csv.writer(file, delimiter=shop.delimiter)
            writer.writerow([shop.columns[ours] for ours in fields])
            writer.writerows([[row[ours] for ours in fields] for row in rows])
    return paths
