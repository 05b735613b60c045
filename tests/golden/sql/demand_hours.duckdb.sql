WITH "__windowed" AS (
SELECT
  "tenant",
  "region",
  "at_ms",
  "kind",
  at_ms - (at_ms % 3600000 + 3600000) % 3600000 + 3600000 AS "window_end"
FROM "events"
), "__level_0" AS (
SELECT
  "tenant", "region",
  "window_end" - 3600000 AS "window_start",
  "window_end",
  COUNT(CASE WHEN "kind" = 'booking' THEN 1 END) AS "bookings"
FROM "__windowed"
GROUP BY "tenant", "region", "window_end"
), "__level_1" AS (
SELECT
  *,
  (CAST(SUM("bookings") OVER last_604800s AS DOUBLE) / 168) AS "bookings_7d",
  (CAST(SUM("bookings") OVER last_10800s AS DOUBLE) / 3) AS "bookings_3h",
  (CAST(SUM("bookings") OVER last_86400s AS DOUBLE) / 24) AS "bookings_24h"
FROM "__level_0"
WINDOW
  last_604800s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 604799999 PRECEDING AND CURRENT ROW),
  last_10800s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 10799999 PRECEDING AND CURRENT ROW),
  last_86400s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 86399999 PRECEDING AND CURRENT ROW)
), "__level_2" AS (
SELECT
  *,
  (CAST("bookings_3h" AS DOUBLE) / NULLIF(CAST("bookings_7d" AS DOUBLE), 0)) AS "share_3h",
  (CAST("bookings_24h" AS DOUBLE) / NULLIF(CAST("bookings_7d" AS DOUBLE), 0)) AS "share_24h",
  (CAST("bookings" AS DOUBLE) / NULLIF(CAST("bookings_7d" AS DOUBLE), 0)) AS "share_now",
  (CAST(COALESCE(FIRST_VALUE("bookings") OVER ago_3600s, 0) AS DOUBLE) / NULLIF(CAST("bookings_7d" AS DOUBLE), 0)) AS "share_1h_ago",
  (CAST(COALESCE(FIRST_VALUE("bookings") OVER ago_7200s, 0) AS DOUBLE) / NULLIF(CAST("bookings_7d" AS DOUBLE), 0)) AS "share_2h_ago",
  (CAST(COALESCE(FIRST_VALUE("bookings") OVER ago_10800s, 0) AS DOUBLE) / NULLIF(CAST("bookings_7d" AS DOUBLE), 0)) AS "share_3h_ago",
  (CAST(COALESCE(FIRST_VALUE("bookings") OVER ago_18000s, 0) AS DOUBLE) / NULLIF(CAST("bookings_7d" AS DOUBLE), 0)) AS "share_5h_ago",
  (CAST(COALESCE(FIRST_VALUE("bookings") OVER ago_39600s, 0) AS DOUBLE) / NULLIF(CAST("bookings_7d" AS DOUBLE), 0)) AS "share_11h_ago",
  (CAST(COALESCE(FIRST_VALUE("bookings") OVER ago_79200s, 0) AS DOUBLE) / NULLIF(CAST("bookings_7d" AS DOUBLE), 0)) AS "share_22h_ago",
  (CAST(COALESCE(FIRST_VALUE("bookings") OVER ago_82800s, 0) AS DOUBLE) / NULLIF(CAST("bookings_7d" AS DOUBLE), 0)) AS "share_23h_ago",
  (CAST(COALESCE(FIRST_VALUE("bookings") OVER ago_86400s, 0) AS DOUBLE) / NULLIF(CAST("bookings_7d" AS DOUBLE), 0)) AS "share_24h_ago",
  (CAST(COALESCE(FIRST_VALUE("bookings") OVER ago_165600s, 0) AS DOUBLE) / NULLIF(CAST("bookings_7d" AS DOUBLE), 0)) AS "share_46h_ago",
  (CAST(COALESCE(FIRST_VALUE("bookings") OVER ago_169200s, 0) AS DOUBLE) / NULLIF(CAST("bookings_7d" AS DOUBLE), 0)) AS "share_47h_ago",
  (CAST(COALESCE(FIRST_VALUE("bookings") OVER ago_514800s, 0) AS DOUBLE) / NULLIF(CAST("bookings_7d" AS DOUBLE), 0)) AS "share_143h_ago",
  (CAST(COALESCE(FIRST_VALUE("bookings") OVER ago_518400s, 0) AS DOUBLE) / NULLIF(CAST("bookings_7d" AS DOUBLE), 0)) AS "share_144h_ago",
  (CAST(COALESCE(FIRST_VALUE("bookings") OVER ago_522000s, 0) AS DOUBLE) / NULLIF(CAST("bookings_7d" AS DOUBLE), 0)) AS "share_145h_ago",
  (CAST(COALESCE(FIRST_VALUE("bookings") OVER ago_597600s, 0) AS DOUBLE) / NULLIF(CAST("bookings_7d" AS DOUBLE), 0)) AS "share_166h_ago",
  (CAST(COALESCE(FIRST_VALUE("bookings") OVER ago_601200s, 0) AS DOUBLE) / NULLIF(CAST("bookings_7d" AS DOUBLE), 0)) AS "share_167h_ago",
  (CAST(COALESCE(FIRST_VALUE("bookings") OVER ago_604800s, 0) AS DOUBLE) / NULLIF(CAST("bookings_7d" AS DOUBLE), 0)) AS "share_168h_ago",
  (CAST(COALESCE(FIRST_VALUE("bookings") OVER ago_1202400s, 0) AS DOUBLE) / NULLIF(CAST("bookings_7d" AS DOUBLE), 0)) AS "share_334h_ago",
  (CAST(COALESCE(FIRST_VALUE("bookings") OVER ago_1206000s, 0) AS DOUBLE) / NULLIF(CAST("bookings_7d" AS DOUBLE), 0)) AS "share_335h_ago"
FROM "__level_1"
WINDOW
  ago_3600s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 3600000 PRECEDING AND 3600000 PRECEDING),
  ago_7200s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 7200000 PRECEDING AND 7200000 PRECEDING),
  ago_10800s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 10800000 PRECEDING AND 10800000 PRECEDING),
  ago_18000s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 18000000 PRECEDING AND 18000000 PRECEDING),
  ago_39600s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 39600000 PRECEDING AND 39600000 PRECEDING),
  ago_79200s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 79200000 PRECEDING AND 79200000 PRECEDING),
  ago_82800s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 82800000 PRECEDING AND 82800000 PRECEDING),
  ago_86400s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 86400000 PRECEDING AND 86400000 PRECEDING),
  ago_165600s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 165600000 PRECEDING AND 165600000 PRECEDING),
  ago_169200s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 169200000 PRECEDING AND 169200000 PRECEDING),
  ago_514800s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 514800000 PRECEDING AND 514800000 PRECEDING),
  ago_518400s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 518400000 PRECEDING AND 518400000 PRECEDING),
  ago_522000s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 522000000 PRECEDING AND 522000000 PRECEDING),
  ago_597600s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 597600000 PRECEDING AND 597600000 PRECEDING),
  ago_601200s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 601200000 PRECEDING AND 601200000 PRECEDING),
  ago_604800s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 604800000 PRECEDING AND 604800000 PRECEDING),
  ago_1202400s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 1202400000 PRECEDING AND 1202400000 PRECEDING),
  ago_1206000s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 1206000000 PRECEDING AND 1206000000 PRECEDING)
)
SELECT
  "tenant",
  "region",
  "window_start",
  "window_end",
  "bookings",
  "bookings_7d",
  "bookings_3h",
  "bookings_24h",
  "share_3h",
  "share_24h",
  "share_now",
  "share_1h_ago",
  "share_2h_ago",
  "share_3h_ago",
  "share_5h_ago",
  "share_11h_ago",
  "share_22h_ago",
  "share_23h_ago",
  "share_24h_ago",
  "share_46h_ago",
  "share_47h_ago",
  "share_143h_ago",
  "share_144h_ago",
  "share_145h_ago",
  "share_166h_ago",
  "share_167h_ago",
  "share_168h_ago",
  "share_334h_ago",
  "share_335h_ago"
FROM "__level_2";
