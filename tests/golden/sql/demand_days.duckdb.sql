WITH "__windowed" AS (
SELECT
  "tenant",
  "region",
  "at_ms",
  "kind",
  at_ms - (at_ms % 86400000 + 86400000) % 86400000 + 86400000 AS "window_end"
FROM "events"
), "__level_0" AS (
SELECT
  "tenant", "region",
  "window_end" - 86400000 AS "window_start",
  "window_end",
  COUNT(CASE WHEN "kind" = 'booking' THEN 1 END) AS "bookings"
FROM "__windowed"
GROUP BY "tenant", "region", "window_end"
), "__level_1" AS (
SELECT
  *,
  (CAST(SUM("bookings") OVER last_2419200s AS DOUBLE) / 28) AS "bookings_28d",
  (CAST(SUM("bookings") OVER last_604800s AS DOUBLE) / 7) AS "bookings_7d",
  (CAST(SUM("bookings") OVER last_1209600s AS DOUBLE) / 14) AS "bookings_14d"
FROM "__level_0"
WINDOW
  last_2419200s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 2419199999 PRECEDING AND CURRENT ROW),
  last_604800s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 604799999 PRECEDING AND CURRENT ROW),
  last_1209600s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 1209599999 PRECEDING AND CURRENT ROW)
), "__level_2" AS (
SELECT
  *,
  (CAST("bookings_7d" AS DOUBLE) / NULLIF(CAST("bookings_28d" AS DOUBLE), 0)) AS "share_7d",
  (CAST("bookings_14d" AS DOUBLE) / NULLIF(CAST("bookings_28d" AS DOUBLE), 0)) AS "share_14d",
  (CAST("bookings" AS DOUBLE) / NULLIF(CAST("bookings_28d" AS DOUBLE), 0)) AS "share_now",
  (CAST(COALESCE(FIRST_VALUE("bookings") OVER ago_86400s, 0) AS DOUBLE) / NULLIF(CAST("bookings_28d" AS DOUBLE), 0)) AS "share_1d_ago",
  (CAST(COALESCE(FIRST_VALUE("bookings") OVER ago_172800s, 0) AS DOUBLE) / NULLIF(CAST("bookings_28d" AS DOUBLE), 0)) AS "share_2d_ago",
  (CAST(COALESCE(FIRST_VALUE("bookings") OVER ago_259200s, 0) AS DOUBLE) / NULLIF(CAST("bookings_28d" AS DOUBLE), 0)) AS "share_3d_ago",
  (CAST(COALESCE(FIRST_VALUE("bookings") OVER ago_345600s, 0) AS DOUBLE) / NULLIF(CAST("bookings_28d" AS DOUBLE), 0)) AS "share_4d_ago",
  (CAST(COALESCE(FIRST_VALUE("bookings") OVER ago_432000s, 0) AS DOUBLE) / NULLIF(CAST("bookings_28d" AS DOUBLE), 0)) AS "share_5d_ago",
  (CAST(COALESCE(FIRST_VALUE("bookings") OVER ago_518400s, 0) AS DOUBLE) / NULLIF(CAST("bookings_28d" AS DOUBLE), 0)) AS "share_6d_ago",
  (CAST(COALESCE(FIRST_VALUE("bookings") OVER ago_604800s, 0) AS DOUBLE) / NULLIF(CAST("bookings_28d" AS DOUBLE), 0)) AS "share_7d_ago",
  (CAST(COALESCE(FIRST_VALUE("bookings") OVER ago_691200s, 0) AS DOUBLE) / NULLIF(CAST("bookings_28d" AS DOUBLE), 0)) AS "share_8d_ago",
  (CAST(COALESCE(FIRST_VALUE("bookings") OVER ago_777600s, 0) AS DOUBLE) / NULLIF(CAST("bookings_28d" AS DOUBLE), 0)) AS "share_9d_ago",
  (CAST(COALESCE(FIRST_VALUE("bookings") OVER ago_864000s, 0) AS DOUBLE) / NULLIF(CAST("bookings_28d" AS DOUBLE), 0)) AS "share_10d_ago",
  (CAST(COALESCE(FIRST_VALUE("bookings") OVER ago_950400s, 0) AS DOUBLE) / NULLIF(CAST("bookings_28d" AS DOUBLE), 0)) AS "share_11d_ago",
  (CAST(COALESCE(FIRST_VALUE("bookings") OVER ago_1036800s, 0) AS DOUBLE) / NULLIF(CAST("bookings_28d" AS DOUBLE), 0)) AS "share_12d_ago",
  (CAST(COALESCE(FIRST_VALUE("bookings") OVER ago_1123200s, 0) AS DOUBLE) / NULLIF(CAST("bookings_28d" AS DOUBLE), 0)) AS "share_13d_ago",
  (CAST(COALESCE(FIRST_VALUE("bookings") OVER ago_1728000s, 0) AS DOUBLE) / NULLIF(CAST("bookings_28d" AS DOUBLE), 0)) AS "share_20d_ago",
  (CAST(COALESCE(FIRST_VALUE("bookings") OVER ago_2332800s, 0) AS DOUBLE) / NULLIF(CAST("bookings_28d" AS DOUBLE), 0)) AS "share_27d_ago"
FROM "__level_1"
WINDOW
  ago_86400s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 86400000 PRECEDING AND 86400000 PRECEDING),
  ago_172800s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 172800000 PRECEDING AND 172800000 PRECEDING),
  ago_259200s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 259200000 PRECEDING AND 259200000 PRECEDING),
  ago_345600s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 345600000 PRECEDING AND 345600000 PRECEDING),
  ago_432000s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 432000000 PRECEDING AND 432000000 PRECEDING),
  ago_518400s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 518400000 PRECEDING AND 518400000 PRECEDING),
  ago_604800s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 604800000 PRECEDING AND 604800000 PRECEDING),
  ago_691200s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 691200000 PRECEDING AND 691200000 PRECEDING),
  ago_777600s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 777600000 PRECEDING AND 777600000 PRECEDING),
  ago_864000s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 864000000 PRECEDING AND 864000000 PRECEDING),
  ago_950400s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 950400000 PRECEDING AND 950400000 PRECEDING),
  ago_1036800s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 1036800000 PRECEDING AND 1036800000 PRECEDING),
  ago_1123200s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 1123200000 PRECEDING AND 1123200000 PRECEDING),
  ago_1728000s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 1728000000 PRECEDING AND 1728000000 PRECEDING),
  ago_2332800s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 2332800000 PRECEDING AND 2332800000 PRECEDING)
)
SELECT
  "tenant",
  "region",
  "window_start",
  "window_end",
  "bookings",
  "bookings_28d",
  "bookings_7d",
  "bookings_14d",
  "share_7d",
  "share_14d",
  "share_now",
  "share_1d_ago",
  "share_2d_ago",
  "share_3d_ago",
  "share_4d_ago",
  "share_5d_ago",
  "share_6d_ago",
  "share_7d_ago",
  "share_8d_ago",
  "share_9d_ago",
  "share_10d_ago",
  "share_11d_ago",
  "share_12d_ago",
  "share_13d_ago",
  "share_20d_ago",
  "share_27d_ago"
FROM "__level_2";
