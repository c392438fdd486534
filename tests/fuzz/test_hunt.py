"""A short hunt with fixed seeds; `make fuzz` is the long one. And that the hunt would find something."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from dbward.domain.model import Dialect
from tests.fuzz.hunt import hunt, maker
from tests.fuzz.texts import soup, text
from tests.support import services
from tests.truth.judging import Maker
from tests.truth.photographs import differences

TEXTS = 3_000


@pytest.fixture(scope="module", params=list(Dialect))
def arena(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Dialect, Maker]]:
    """A dialect, and what makes worlds for it."""
    dialect: Dialect = request.param
    directory = tmp_path_factory.mktemp("worlds")
    match dialect:
        case Dialect.POSTGRESQL:
            with services.own_postgres() as url:
                yield dialect, maker(dialect, url, directory)
        case Dialect.MYSQL:
            with services.own_mariadb() as url:
                yield dialect, maker(dialect, url, directory)
        case Dialect.SQLITE:
            yield dialect, maker(dialect, None, directory)


def test_nothing_that_is_called_a_read_changes_anything(arena: tuple[Dialect, Maker]) -> None:
    dialect, make = arena
    bag = hunt(make, dialect, "ci", range(TEXTS))
    assert bag.findings == []
    assert bag.reads > TEXTS * 0.04
    assert bag.ran > bag.reads * 0.3, "the engine understands too few of the reads for this to mean anything"


def test_the_soup_leaves_marks(arena: tuple[Dialect, Maker]) -> None:
    """Without a classifier, its queries run the functions that they call."""
    dialect, make = arena
    dice = random.Random("ci")
    with make() as world:
        before = world.photograph()
        for _ in range(150):
            world.run([soup(dice, dialect, "query")])
        changed = differences(before, world.photograph())
    mark = {Dialect.POSTGRESQL: "rows of public.audit_log", Dialect.MYSQL: "rows", Dialect.SQLITE: "marks"}[dialect]
    assert any(line.startswith(f"{mark}:") for line in changed), changed


def test_a_text_is_made_from_its_seed(arena: tuple[Dialect, Maker]) -> None:
    dialect, _ = arena
    made = [text(f"ci:{number}", dialect) for number in range(100)]
    assert made == [text(f"ci:{number}", dialect) for number in range(100)]
    assert len(set(made)) > 90
