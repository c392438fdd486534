"""Built-in functions of MySQL and SQLite that a read may call. What is not here may be anybody's, and may write.

No list of forbidden names can be complete; this one only has to be right. Every name does nothing but compute, in each
of its overloads. Names are as the database folds them: lower-case.
"""

from __future__ import annotations

from dbward.domain.model import Dialect
from dbward.domain.sql import sqlite_names
from dbward.domain.sql.lex import words

_MYSQL = """
abs acos adddate addtime aes_decrypt aes_encrypt ascii asin atan atan2 avg bin bit_and bit_count bit_length bit_or
bit_xor cast ceil ceiling char char_length character_length coalesce coercibility collation compress concat concat_ws
connection_id conv convert convert_tz cos cot count crc32 cume_dist curdate current_date current_role current_time
current_timestamp current_user curtime database date date_add date_format date_sub datediff day dayname dayofmonth
dayofweek dayofyear degrees dense_rank elt exp export_set extract extractvalue field find_in_set first_value floor
format found_rows from_base64 from_days from_unixtime get_format greatest group_concat hex hour if ifnull inet6_aton
inet6_ntoa inet_aton inet_ntoa instr isnull json_array json_array_append json_array_insert json_arrayagg json_contains
json_contains_path json_depth json_extract json_insert json_keys json_length json_merge_patch json_merge_preserve
json_object json_objectagg json_overlaps json_pretty json_quote json_remove json_replace json_search json_set
json_type json_unquote json_valid json_value lag last_day last_insert_id last_value lcase lead least left length ln
localtime localtimestamp locate log log10 log2 lower lpad ltrim make_set makedate maketime match max md5 microsecond
mid min minute mod month monthname now nth_value ntile nullif oct octet_length ord percent_rank period_add period_diff
pi position pow power quarter quote radians rand rank regexp_instr regexp_replace regexp_substr repeat replace reverse
right round row_count row_number rpad rtrim schema sec_to_time second session_user sha sha1 sha2 sign sin soundex
space sqrt st_astext st_distance st_x st_y std stddev stddev_pop stddev_samp str_to_date strcmp subdate substr
substring substring_index subtime sum sysdate system_user tan time time_format time_to_sec timediff timestamp
timestampadd timestampdiff to_base64 to_days to_seconds trim truncate ucase uncompress unhex unix_timestamp updatexml
upper user utc_date utc_time utc_timestamp uuid values var_pop var_samp variance version week weekday weekofyear
weight_string year yearweek
"""

FUNCTIONS: dict[Dialect, frozenset[str]] = {
    Dialect.MYSQL: words(_MYSQL),
    Dialect.SQLITE: sqlite_names.FUNCTIONS | sqlite_names.TABLE_FUNCTIONS | {"cast"},
}
