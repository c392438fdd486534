"""Built-in functions that a read may call, by dialect. What is not here may be anybody's function, and may write.

No list of forbidden names can be complete; this one only has to be right. Every name does nothing but compute, in each
of its overloads. Names are as the database folds them: lower-case.
"""

from __future__ import annotations

from dbward.domain.model import Dialect
from dbward.domain.sql.lex import words

_SHARED = """
abs acos asin atan atan2 avg cast ceil ceiling char_length character_length coalesce concat concat_ws cos cot count
cume_dist degrees dense_rank exp extract first_value floor greatest lag last_value lead least length ln log lower lpad
ltrim max min mod nth_value ntile nullif octet_length percent_rank pi position power radians rank repeat replace
reverse round row_number rpad rtrim sign sin sqrt substr substring sum tan trim upper
"""

_POSTGRESQL = """
acosh age array_agg array_append array_cat array_dims array_length array_lower array_ndims array_position
array_positions array_prepend array_remove array_replace array_to_json array_to_string array_upper ascii asinh atanh
bit_and bit_count bit_length bit_or bool_and bool_or btrim cardinality cbrt chr clock_timestamp col_description
convert_from convert_to corr cosh covar_pop covar_samp current_database current_schema current_schemas current_setting
current_time current_timestamp date_bin date_part date_trunc decode div encode every factorial format gcd
gen_random_uuid generate_series generate_subscripts get_byte grouping has_column_privilege has_database_privilege
has_schema_privilege has_table_privilege host inet_client_addr inet_server_addr initcap isempty isfinite json_agg
json_array_elements json_array_elements_text json_array_length json_build_array json_build_object json_each
json_each_text json_extract_path json_extract_path_text json_object json_object_agg json_object_keys json_strip_nulls
json_to_record json_to_recordset json_typeof jsonb_agg jsonb_array_elements jsonb_array_elements_text
jsonb_array_length jsonb_build_array jsonb_build_object jsonb_each jsonb_each_text jsonb_extract_path
jsonb_extract_path_text jsonb_insert jsonb_object jsonb_object_agg jsonb_object_keys jsonb_path_exists
jsonb_path_match jsonb_path_query jsonb_path_query_array jsonb_path_query_first jsonb_pretty jsonb_set
jsonb_strip_nulls jsonb_to_record jsonb_to_recordset jsonb_typeof justify_days justify_hours justify_interval lcm left
localtime localtimestamp lower_inc lower_inf make_date make_interval make_time make_timestamp make_timestamptz masklen
md5 mode netmask network now num_nonnulls num_nulls numnode obj_description overlay parse_ident percentile_cont
percentile_disc pg_backend_pid pg_column_size pg_database_size pg_encoding_to_char pg_get_constraintdef pg_get_expr
pg_get_functiondef pg_get_indexdef pg_get_userbyid pg_get_viewdef pg_indexes_size pg_is_in_recovery
pg_postmaster_start_time pg_relation_size pg_size_bytes pg_size_pretty pg_table_is_visible pg_table_size
pg_total_relation_size pg_typeof phraseto_tsquery plainto_tsquery quote_ident quote_literal quote_nullable random
range_merge regexp_count regexp_instr regexp_like regexp_match regexp_matches regexp_replace regexp_split_to_array
regexp_split_to_table regexp_substr regr_count regr_intercept regr_r2 regr_slope right row_to_json scale setweight
sha224 sha256 sha384 sha512 shobj_description sinh split_part starts_with statement_timestamp stddev stddev_pop
stddev_samp string_agg string_to_array string_to_table strip strpos tanh timeofday to_ascii to_char to_date to_hex
to_json to_jsonb to_number to_regclass to_regtype to_timestamp to_tsquery to_tsvector transaction_timestamp translate
trim_array trunc ts_headline ts_rank ts_rank_cd unnest upper_inc upper_inf var_pop var_samp variance version
websearch_to_tsquery width_bucket xmlagg xmlcomment xpath xpath_exists
"""

_MYSQL = """
adddate addtime aes_decrypt aes_encrypt ascii bin bit_and bit_count bit_length bit_or bit_xor char coercibility
collation compress connection_id conv convert convert_tz crc32 curdate current_date current_role current_time
current_timestamp current_user curtime database date date_add date_format date_sub datediff day dayname dayofmonth
dayofweek dayofyear elt export_set extractvalue field find_in_set format found_rows from_base64 from_days
from_unixtime get_format group_concat hex hour if ifnull inet6_aton inet6_ntoa inet_aton inet_ntoa instr isnull
json_array json_array_append json_array_insert json_arrayagg json_contains json_contains_path json_depth json_extract
json_insert json_keys json_length json_merge_patch json_merge_preserve json_object json_objectagg json_overlaps
json_pretty json_quote json_remove json_replace json_search json_set json_type json_unquote json_valid json_value
last_day last_insert_id lcase left localtime localtimestamp locate log10 log2 make_set makedate maketime match md5
microsecond mid minute month monthname now oct ord period_add period_diff pow quarter quote rand regexp_instr
regexp_replace regexp_substr right row_count schema sec_to_time second session_user sha sha1 sha2 soundex space
st_astext st_distance st_x st_y std stddev stddev_pop stddev_samp str_to_date strcmp subdate substring_index subtime
sysdate system_user time time_format time_to_sec timediff timestamp timestampadd timestampdiff to_base64 to_days
to_seconds truncate ucase uncompress unhex unix_timestamp updatexml user utc_date utc_time utc_timestamp uuid values
var_pop var_samp variance version week weekday weekofyear weight_string year yearweek
"""

_SQLITE = """
acosh asinh atanh changes char cosh date datetime format glob group_concat hex ifnull iif instr json json_array
json_array_length json_each json_error_position json_extract json_group_array json_group_object json_insert
json_object json_patch json_pretty json_quote json_remove json_replace json_set json_tree json_type json_valid jsonb
jsonb_array jsonb_extract julianday last_insert_rowid like likelihood likely log10 log2 pow printf quote random
randomblob sinh sqlite_version strftime string_agg tanh time timediff total total_changes trunc typeof unhex unicode
unixepoch unlikely zeroblob
"""

FUNCTIONS: dict[Dialect, frozenset[str]] = {
    Dialect.POSTGRESQL: words(_SHARED + _POSTGRESQL),
    Dialect.MYSQL: words(_SHARED + _MYSQL),
    Dialect.SQLITE: words(_SHARED + _SQLITE),
}

POSTGRESQL_TYPES = words(
    """
    bigint bit bool boolean box bpchar bytea char character cidr circle date daterange dec decimal double float float4
    float8 inet int int2 int4 int4range int8 int8range integer interval json jsonb jsonpath line lseg macaddr macaddr8
    money name numeric numrange oid path point polygon real regclass regconfig regproc regprocedure regrole regtype
    smallint text time timestamp timestamptz timetz tsquery tsrange tstzrange tsvector uuid varbit varchar xml
    """
)
"""Types whose input runs nobody's code; a domain or a user's type may. First words of those that have several."""

POSTGRESQL_OPERATORS = words(
    """
    + - * / % ^ = <> != < > <= >= || ~ !~ ~* !~* & | # << >> <<= >>= && @> <@ -> ->> #> #>> #- ? ?| ?& @? @@ <-> -|- &<
    &> ~~ !~~ ~~* !~~* => ^@
    """
)
"""Any other operator may be a user's. `@` is left out on purpose: a common parser does not see a call behind it."""
