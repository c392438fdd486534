"""Built-in functions of MySQL and SQLite that a read may call. What is not here may be anybody's, and may write.

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
    Dialect.MYSQL: words(_SHARED + _MYSQL),
    Dialect.SQLITE: words(_SHARED + _SQLITE),
}
