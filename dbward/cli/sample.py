"""A small shop as a SQLite database, so that dbward can be tried without a database of one's own.

Its rows are made from a fixed seed: every copy is the same, and examples in the documentation stay true.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

CUSTOMERS = 800
ORDERS = 3000

_SCHEMA = """
CREATE TABLE customers (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    email TEXT NOT NULL UNIQUE,
    city TEXT NOT NULL,
    country TEXT NOT NULL,
    created_at TEXT NOT NULL
);
CREATE TABLE products (
    id INTEGER PRIMARY KEY,
    sku TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    category TEXT NOT NULL,
    price_cents INTEGER NOT NULL CHECK (price_cents > 0),
    stock INTEGER NOT NULL CHECK (stock >= 0)
);
CREATE TABLE orders (
    id INTEGER PRIMARY KEY,
    customer_id INTEGER NOT NULL REFERENCES customers (id),
    status TEXT NOT NULL CHECK (status IN ('open', 'paid', 'shipped', 'returned')),
    note TEXT,
    ordered_at TEXT NOT NULL
);
CREATE TABLE order_items (
    order_id INTEGER NOT NULL REFERENCES orders (id) ON DELETE CASCADE,
    line INTEGER NOT NULL,
    product_id INTEGER NOT NULL REFERENCES products (id),
    quantity INTEGER NOT NULL CHECK (quantity > 0),
    price_cents INTEGER NOT NULL,
    PRIMARY KEY (order_id, line)
);
CREATE INDEX orders_by_customer ON orders (customer_id);
CREATE INDEX order_items_by_product ON order_items (product_id);
"""

_FIRST = (
    "Aiko", "Amara", "Anna", "Ben", "Carla", "Chen", "Dario", "Elif", "Emma", "Farid", "Grace", "Hana", "Ivan", "Jonas",
    "Kofi", "Lea", "Lucía", "Mateo", "Mei", "Nadia", "Noah", "Olu", "Priya", "Ravi", "Sofia", "Tom", "Yara", "Zoë",
)  # fmt: skip
_LAST = (
    "Abebe", "Bauer", "Costa", "Dubois", "Eriksen", "Fischer", "García", "Haddad", "Ito", "Jensen", "Kim", "Larsen",
    "Moreau", "Nguyen", "O'Brien", "Okafor", "Patel", "Rossi", "Schmidt", "Silva", "Tanaka", "Weber", "Yildiz", "Zhang",
)  # fmt: skip
_CITIES = (
    ("Berlin", "DE"), ("Bogotá", "CO"), ("Dublin", "IE"), ("Kyoto", "JP"), ("Lagos", "NG"), ("Lisbon", "PT"),
    ("Lyon", "FR"), ("Mumbai", "IN"), ("Oslo", "NO"), ("São Paulo", "BR"), ("Seoul", "KR"), ("Toronto", "CA"),
)  # fmt: skip
_GOODS = {
    "kitchen": ("Kettle", "Pan", "Knife", "Grinder", "Scale", "Teapot"),
    "office": ("Lamp", "Desk mat", "Notebook", "Fountain pen", "Monitor arm", "Chair"),
    "outdoor": ("Tent", "Stove", "Backpack", "Headlamp", "Water filter", "Hammock"),
    "audio": ("Headphones", "Speaker", "Microphone", "Turntable", "Cable", "Amplifier"),
}
_FINISH = ("Basic", "Classic", "Compact", "Pro", "Travel")
_NOTES = ("gift wrap, please", "leave at the neighbour's", "50% voucher used", "call before delivery")
_START = datetime(2024, 1, 8, 9, 0)  # noqa: DTZ001 - the sample's own local time


def create_sample(path: Path) -> None:
    """Write the sample to `path`, whole or not at all; a file that is already there is replaced."""
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    rng = random.Random(20240108)  # noqa: S311 - made-up rows, nothing secret
    with closing(sqlite3.connect(draft)) as db, db:
        db.executescript(_SCHEMA)
        products = list(_products(rng))
        prices = {row[0]: row[4] for row in products}
        db.executemany("INSERT INTO customers VALUES (?, ?, ?, ?, ?, ?)", _customers(rng))
        db.executemany("INSERT INTO products VALUES (?, ?, ?, ?, ?, ?)", products)
        for order, items in _orders(rng, prices):
            db.execute("INSERT INTO orders VALUES (?, ?, ?, ?, ?)", order)
            db.executemany("INSERT INTO order_items VALUES (?, ?, ?, ?, ?)", items)
    draft.replace(path)


def _customers(rng: random.Random) -> Iterator[tuple[int, str, str, str, str, str]]:
    for number in range(1, CUSTOMERS + 1):
        first, last = rng.choice(_FIRST), rng.choice(_LAST)
        city, country = rng.choice(_CITIES)
        joined = _START - timedelta(minutes=rng.randrange(900 * 24 * 60))
        yield number, f"{first} {last}", f"customer{number}@example.com", city, country, joined.isoformat(sep=" ")


def _products(rng: random.Random) -> Iterator[tuple[int, str, str, str, int, int]]:
    number = 0
    for category, goods in _GOODS.items():
        for name in goods:
            for finish in _FINISH:
                number += 1
                price = rng.randrange(9, 400) * 100 + rng.choice((0, 50, 95, 99))
                yield (
                    number,
                    f"{category[:3].upper()}-{number:04d}",
                    f"{name} {finish}",
                    category,
                    price,
                    rng.randrange(200),
                )


def _orders(
    rng: random.Random, prices: dict[int, int]
) -> Iterator[tuple[tuple[int, int, str, str | None, str], list[tuple[int, int, int, int, int]]]]:
    at = _START
    for number in range(1, ORDERS + 1):
        at += timedelta(minutes=rng.randrange(5, 500))
        status = rng.choices(("open", "paid", "shipped", "returned"), weights=(8, 15, 70, 7))[0]
        note = rng.choice(_NOTES) if rng.random() < 0.1 else None
        order = (number, rng.randrange(1, CUSTOMERS + 1), status, note, at.isoformat(sep=" "))
        chosen = rng.sample(sorted(prices), rng.choices((1, 2, 3, 4), weights=(50, 30, 15, 5))[0])
        items = [
            (number, line, product, rng.randrange(1, 4), prices[product]) for line, product in enumerate(chosen, 1)
        ]
        yield order, items
