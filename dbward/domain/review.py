"""The SQL review: what in a text deserves a second look, or must not run at all, by the rules of `review_rules`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from dbward.domain.model import Action, Dialect
from dbward.domain.review_rules import DEFAULT_ACTIONS as DEFAULT_ACTIONS  # noqa: PLC0414 - belongs to this interface
from dbward.domain.review_rules import RULES, SQUAWK, Reviewed, Rule
from dbward.domain.review_steps import steps
from dbward.domain.schema import NO_SCHEMA, Schema
from dbward.domain.sql.facts import facts
from dbward.domain.sql.statements import Classification, Facts, Finding, Kind, RuleActions

PARSE_FAILURE: Final = "parse_failure"
"""Not a rule that anybody could switch off: a write that cannot be seen into."""

_BYPASSABLE: Final = frozenset(rule.name for rule in RULES if rule.bypassable)
_ORDER: Final = {rule.name: place for place, rule in enumerate(RULES)}


def review(
    classification: Classification,
    dialect: Dialect,
    actions: RuleActions = DEFAULT_ACTIONS,
    schema: Schema = NO_SCHEMA,
    advice: Iterable[Finding] = (),
    *,
    known: Sequence[Facts] | None = None,
    in_transaction: bool | None = None,
) -> tuple[Finding, ...]:
    """Every finding whose rule is not off, in the order of the text; a rule that `actions` lacks does its default.

    `advice`: what another tool has found; it is dropped where a table is new. `known`: the facts of each statement, for
    who has them already. `in_transaction`: whether one is around it all; None: around all but a single
    statement, as a list is run.
    """
    if known is None:
        known = [facts(statement, dialect) for statement in classification.statements]
    text = Reviewed(classification, tuple(known), steps(known, dialect, schema), dialect, schema, in_transaction)
    found = [*_parse_failures(text)]
    for rule in RULES:
        action = actions.get(rule.name, rule.action)
        if action is not Action.OFF and dialect in rule.dialects:
            found.extend(_findings(rule, action, text))
    if actions.get(SQUAWK, DEFAULT_ACTIONS[SQUAWK]) is not Action.OFF:
        found.extend(advised for advised in advice if not _is_on_new_tables(text, advised.statement_index))
    return tuple(sorted(found, key=_place))


def _is_on_new_tables(text: Reviewed, index: int) -> bool:
    """Whether a statement is only about tables that the text has created: advice is about locks, and nobody waits."""
    return bool(text.steps[index]) and all(step.on_new_table for step in text.steps[index])


def _place(finding: Finding) -> tuple[int, int, int]:
    return finding.statement_index, finding.position, _ORDER.get(finding.rule, len(_ORDER))


def _findings(rule: Rule, action: Action, text: Reviewed) -> Iterator[Finding]:
    for index in range(len(text.facts)):
        for spot in rule.look(text, index):
            yield Finding(
                rule=rule.name,
                action=action,
                message=rule.message.format(**spot.words),
                hint=rule.hint.format(**spot.words),
                statement_index=index,
                position=spot.at + 1,
            )
            if not rule.each:
                break


def _parse_failures(text: Reviewed) -> Iterator[Finding]:
    """Where no rule could look, none is satisfied. What has no tree is of a kind that no rule is about."""
    for index, (statement, known) in enumerate(zip(text.classification.statements, text.facts, strict=True)):
        if not known.known and statement.kind is Kind.DML and statement.tree is not None:
            yield Finding(
                rule=PARSE_FAILURE,
                action=Action.BLOCK,
                message="what this statement does cannot be seen",
                hint="write it in a simpler form",
                statement_index=index,
            )


def blocking(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(finding for finding in findings if finding.action is Action.BLOCK)


def bypassable(findings: Iterable[Finding]) -> bool:
    """Whether an emergency that allows DDL may go past all that blocks. Whether the statements are DDL is not asked."""
    return all(finding.rule in _BYPASSABLE for finding in blocking(findings))
