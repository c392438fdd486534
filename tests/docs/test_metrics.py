"""docs/reference/metrics.md lists what there is to scrape: each metric with its kind, its type and its labels."""

from __future__ import annotations

import re
from pathlib import Path

from dbward.domain.model import Target
from dbward.metrics import Metrics
from dbward.services import monitoring

PAGE = (Path(__file__).parents[2] / "docs/reference/metrics.md").read_text()
ROW = re.compile(r"^\| `(?P<name>\w+)` \| (?P<type>\w+) \| (?P<labels>[^|]*) \|", re.MULTILINE)

Documented = dict[str, tuple[str, frozenset[str]]]


def documented(heading: str) -> Documented:
    section = re.search(rf"^## {heading}$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert section is not None
    rows = list(ROW.finditer(section[1]))
    assert len({row["name"] for row in rows}) == len(rows)
    return {row["name"]: (row["type"], frozenset(re.findall(r"`(\w+)`", row["labels"]))) for row in rows}


def test_the_page_lists_what_a_process_counts() -> None:
    found: Documented = {}
    for family in raised().families():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = (family.type, frozenset(labels))
    assert documented("Per process") == found


def test_the_page_lists_what_is_read_from_the_state() -> None:
    found = {name: ("gauge", frozenset(labels)) for name, (_, labels) in monitoring.SHARED.items()}
    assert documented("Shared") == found


def test_queries_and_alerts_name_what_exists() -> None:
    known = documented("Per process").keys() | documented("Shared").keys()
    used = {re.sub(r"_bucket$", "", name) for name in re.findall(r"\bdbward_\w+", PAGE)}
    assert used - known == set()


def raised() -> Metrics:
    """With at least one sample in every family, for it is the samples that show the labels."""
    target = Target("app", "production")
    metrics = Metrics({target})
    metrics.request_moved("pending", target)
    metrics.executed(target, 1.0)
    metrics.answered("GET", "/health", 200, 0.001)
    metrics.webhook_deliveries.labels("delivered")
    metrics.preflights.labels("ready")
    return metrics
