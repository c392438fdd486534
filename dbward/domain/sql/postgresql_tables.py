"""What is known of PostgreSQL's statements and of what a read is made of. Anything that is not here is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dbward.domain.sql.lex import words
from dbward.domain.sql.statements import Kind


@dataclass(frozen=True, slots=True)
class Known:
    """A statement type: its kind, the word for what it does, and the words such a statement may begin with."""

    kind: Kind
    verb: str
    starts: frozenset[str]


def _known(kind: Kind, verb: str, starts: str = "") -> Known:
    return Known(kind, verb, words(starts or verb))


STATEMENTS: Final[Mapping[str, Known]] = {
    "SelectStmt": _known(Kind.SELECT, "SELECT", "SELECT WITH VALUES TABLE ("),
    "VariableShowStmt": _known(Kind.SELECT, "SHOW"),
    "VariableSetStmt": _known(Kind.SELECT, "SET"),
    "ExplainStmt": _known(Kind.SELECT, "EXPLAIN"),
    "InsertStmt": _known(Kind.DML, "INSERT", "INSERT WITH"),
    "UpdateStmt": _known(Kind.DML, "UPDATE", "UPDATE WITH"),
    "DeleteStmt": _known(Kind.DML, "DELETE", "DELETE WITH"),
    "MergeStmt": _known(Kind.DML, "MERGE", "MERGE WITH"),
    "CallStmt": _known(Kind.DML, "CALL"),
    "NotifyStmt": _known(Kind.DML, "NOTIFY"),
    "RefreshMatViewStmt": _known(Kind.DML, "REFRESH"),
    "VacuumStmt": _known(Kind.DML, "VACUUM", "VACUUM ANALYZE ANALYSE"),
    "ReindexStmt": _known(Kind.DML, "REINDEX"),
    "ClusterStmt": _known(Kind.DML, "CLUSTER"),
    "CreateStmt": _known(Kind.DDL, "CREATE"),
    "CreateTableAsStmt": _known(Kind.DDL, "CREATE"),
    "ViewStmt": _known(Kind.DDL, "CREATE"),
    "IndexStmt": _known(Kind.DDL, "CREATE"),
    "AlterTableStmt": _known(Kind.DDL, "ALTER"),
    "AlterSeqStmt": _known(Kind.DDL, "ALTER"),
    "AlterObjectSchemaStmt": _known(Kind.DDL, "ALTER"),
    "RenameStmt": _known(Kind.DDL, "ALTER"),
    "CommentStmt": _known(Kind.DDL, "COMMENT"),
    "DropStmt": _known(Kind.DESTRUCTIVE_DDL, "DROP"),
    "TruncateStmt": _known(Kind.DESTRUCTIVE_DDL, "TRUNCATE"),
    "CreateSeqStmt": _known(Kind.DESTRUCTIVE_DDL, "CREATE"),
}

SCRIPTED: Final[Mapping[str, Known]] = {
    type_: _known(Kind.DDL, verb.split()[0], verb)
    for verb, types in {
        "CREATE": """
            CreateFunctionStmt CreateTrigStmt CreateEnumStmt CompositeTypeStmt CreateRangeStmt CreateDomainStmt
            DefineStmt CreateSchemaStmt CreateExtensionStmt CreatePolicyStmt RuleStmt CreateStatsStmt CreateCastStmt
            CreateOpClassStmt CreateOpFamilyStmt CreateEventTrigStmt
            """,
        "ALTER": """
            AlterFunctionStmt AlterEnumStmt AlterDomainStmt AlterTypeStmt AlterExtensionStmt AlterExtensionContentsStmt
            AlterPolicyStmt AlterStatsStmt AlterOwnerStmt AlterObjectDependsStmt AlterDefaultPrivilegesStmt
            AlterEventTrigStmt
            """,
        "DO": "DoStmt",
        "LOCK": "LockStmt",
        "GRANT REVOKE": "GrantStmt",
    }.items()
    for type_ in types.split()
}
"""What only a file of a migration may hold: code, types, schemas, extensions, rights. No accounts, no settings of the
server, no files of its machine. Nothing is known of what they do."""

OBJECTS_OF_SCRIPTS: Final = words(
    """
    OBJECT_AGGREGATE OBJECT_CAST OBJECT_COLLATION OBJECT_COLUMN OBJECT_CONVERSION OBJECT_DOMAIN OBJECT_DOMCONSTRAINT
    OBJECT_EVENT_TRIGGER OBJECT_EXTENSION OBJECT_FUNCTION OBJECT_OPCLASS OBJECT_OPERATOR OBJECT_OPFAMILY OBJECT_POLICY
    OBJECT_PROCEDURE OBJECT_ROUTINE OBJECT_RULE OBJECT_SCHEMA OBJECT_STATISTIC_EXT OBJECT_TABCONSTRAINT OBJECT_TRIGGER
    OBJECT_TYPE OBJECT_ATTRIBUTE
    """
)
"""Objects that statements which are known may be about in such a file, beside those of `OBJECTS`."""

LIBRARIES: Final = words("c internal")
"""Languages whose functions are those of the server's machine."""

ALTERATIONS_OF_SCRIPTS: Final = words(
    """
    AT_EnableAlwaysTrig AT_EnableReplicaTrig AT_EnableTrigAll AT_DisableTrigAll AT_EnableTrigUser AT_DisableTrigUser
    AT_EnableRule AT_EnableAlwaysRule AT_EnableReplicaRule AT_DisableRule AT_AddOf AT_DropOf
    """
)

EXPLAINED: Final = words("SelectStmt InsertStmt UpdateStmt DeleteStmt MergeStmt CreateTableAsStmt")
"""What EXPLAIN may be asked for; the rest of what the grammar lets through is refused."""

OBJECTS: Final = words("OBJECT_TABLE OBJECT_VIEW OBJECT_MATVIEW OBJECT_INDEX OBJECT_SEQUENCE")
"""Objects that may be altered, renamed and dropped: no accounts, rights, code, types or whole schemas."""

HOLDING_ROWS: Final = words("OBJECT_SCHEMA OBJECT_TYPE OBJECT_DOMAIN OBJECT_EXTENSION")
"""Whose CASCADE takes tables, or columns of them, along."""

GRANTED: Final = OBJECTS | words(
    "OBJECT_FUNCTION OBJECT_PROCEDURE OBJECT_ROUTINE OBJECT_SCHEMA OBJECT_TYPE OBJECT_DOMAIN OBJECT_DATABASE"
)
"""On what such a file may grant and revoke rights."""

RENAMED: Final = OBJECTS | words("OBJECT_COLUMN OBJECT_TABCONSTRAINT")
"""What else has a name that may be changed, or be commented on."""

ALTERATIONS: Final = words(
    """
    AT_AddColumn AT_ColumnDefault AT_DropNotNull AT_SetNotNull AT_SetExpression AT_DropExpression AT_SetStatistics
    AT_SetOptions AT_ResetOptions AT_SetStorage AT_SetCompression AT_DropColumn AT_AddIndex AT_AddConstraint
    AT_AlterConstraint AT_ValidateConstraint AT_AddIndexConstraint AT_DropConstraint AT_AlterColumnType AT_ClusterOn
    AT_DropCluster AT_SetLogged AT_SetUnLogged AT_SetRelOptions AT_ResetRelOptions AT_ReplicaIdentity
    AT_AttachPartition AT_DetachPartition AT_DetachPartitionFinalize AT_AddIdentity AT_SetIdentity AT_DropIdentity
    AT_AddInherit AT_DropInherit AT_ChangeOwner AT_EnableRowSecurity AT_DisableRowSecurity AT_ForceRowSecurity
    AT_NoForceRowSecurity AT_EnableTrig AT_DisableTrig
    """
)

NODES: Final = words(
    """
    A_ArrayExpr A_Const A_Expr A_Indices A_Indirection A_Star Alias BitString Boolean BooleanTest BoolExpr
    CTECycleClause CTESearchClause CaseExpr CaseWhen CoalesceExpr CollateClause ColumnDef ColumnRef CommonTableExpr
    Float FuncCall GroupingFunc GroupingSet Integer JoinExpr JsonAggConstructor JsonArgument JsonArrayAgg
    JsonArrayConstructor
    JsonArrayQueryConstructor JsonBehavior JsonFormat JsonFuncExpr JsonIsPredicate JsonKeyValue JsonObjectAgg
    JsonObjectConstructor JsonOutput JsonParseExpr JsonReturning JsonScalarExpr JsonSerializeExpr JsonTable
    JsonTableColumn JsonTablePathSpec JsonValueExpr List MinMaxExpr NamedArgExpr NullTest RangeFunction RangeSubselect
    RangeTableFunc RangeTableFuncCol RangeTableSample RangeVar ResTarget RowExpr SQLValueFunction SelectStmt SortBy
    String SubLink TypeCast TypeName WindowDef WithClause XmlExpr XmlSerialize
    """
)
"""Nodes that a read may be made of."""

FIELD_NODES: Final[Mapping[str, str]] = {
    "alias": "Alias",
    "arg": "JsonValueExpr",
    "collClause": "CollateClause",
    "constructor": "JsonAggConstructor",
    "contextItem": "JsonValueExpr",
    "cycle_clause": "CTECycleClause",
    "expr": "JsonValueExpr",
    "format": "JsonFormat",
    "larg": "SelectStmt",
    "onEmpty": "JsonBehavior",
    "onError": "JsonBehavior",
    "on_empty": "JsonBehavior",
    "on_error": "JsonBehavior",
    "output": "JsonOutput",
    "over": "WindowDef",
    "pathspec": "JsonTablePathSpec",
    "rarg": "SelectStmt",
    "relation": "RangeVar",
    "returning": "JsonReturning",
    "search_clause": "CTESearchClause",
    "typeName": "TypeName",
    "val": "JsonValueExpr",
    "value": "JsonValueExpr",
    "withClause": "WithClause",
}
"""The node type of fields that libpg_query writes without naming it. Any other such field makes it no read."""

SAMPLING: Final = words("bernoulli system")

NAMED_KINDS: Final[Mapping[str, frozenset[str]]] = {
    "AEXPR_BETWEEN": frozenset({"BETWEEN"}),
    "AEXPR_NOT_BETWEEN": frozenset({"NOT BETWEEN"}),
    "AEXPR_BETWEEN_SYM": frozenset({"BETWEEN SYMMETRIC"}),
    "AEXPR_NOT_BETWEEN_SYM": frozenset({"NOT BETWEEN SYMMETRIC"}),
}
"""Kinds of `A_Expr` whose name is no operator."""

SETTINGS: Final = words("timezone datestyle intervalstyle application_name extra_float_digits bytea_output")
"""What SET may change: how values are shown, in this session alone."""

TIMEOUTS: Final = words("statement_timeout lock_timeout idle_in_transaction_session_timeout")
TIMEOUT_MAX_MS: Final = 30_000
"""SET may give itself less time, never lift a limit: the longest value, which is also the default of the policy."""
