"""SQLite's own functions and pragmas that only read: one table for the classification and for the agent's guard.

SQLite runs in the agent, without extensions, so a name can be nobody's function but the one that is compiled in.
"""

from __future__ import annotations

from dbward.domain.sql.lex import words

FUNCTIONS = words(
    """
    abs acos acosh asin asinh atan atan2 atanh avg bm25 ceil ceiling changes char coalesce concat concat_ws cos cosh
    count cume_dist current_date current_time current_timestamp date datetime degrees dense_rank exp first_value floor
    format glob group_concat hex highlight if ifnull iif instr json json_array json_array_length json_error_position
    json_extract json_group_array json_group_object json_insert json_object json_patch json_pretty json_quote
    json_remove json_replace json_set json_type json_valid jsonb jsonb_array jsonb_extract jsonb_group_array
    jsonb_group_object jsonb_insert jsonb_object jsonb_patch jsonb_remove jsonb_replace jsonb_set julianday lag
    last_insert_rowid last_value lead length like likelihood likely ln log log10 log2 lower ltrim match matchinfo max
    median min mod nth_value ntile nullif octet_length offsets percent_rank percentile percentile_cont percentile_disc
    pi pow power printf quote radians random randomblob rank replace round row_number rtreedepth rtreenode rtrim sign
    sin sinh snippet soundex sqlite_compileoption_get sqlite_compileoption_used sqlite_source_id sqlite_version sqrt
    strftime string_agg substr substring subtype sum tan tanh time timediff total total_changes trim trunc typeof
    unhex unicode unistr unistr_quote unixepoch unlikely upper zeroblob
    """
)
"""Without effect outside the statement. Not here: load_extension, fts3_tokenizer, sqlite_log, optimize."""

TABLE_FUNCTIONS = words("json_each json_tree")
"""Called in FROM. SQLite asks the guard about the tables that they are, not about functions."""

OPERATORS = words("-> ->>")
"""What SQLite calls by these names for an operator."""

PRAGMAS = words(
    """
    application_id auto_vacuum collation_list compile_options data_version database_list encoding foreign_key_check
    foreign_keys freelist_count function_list integrity_check journal_mode module_list page_count page_size pragma_list
    quick_check schema_version table_list user_version
    """
)
"""Read without an argument; most of them write with one."""

PRAGMAS_ABOUT = words(
    """
    foreign_key_check foreign_key_list index_info index_list index_xinfo integrity_check quick_check table_info
    table_list table_xinfo
    """
)
"""Their argument names what to read."""
