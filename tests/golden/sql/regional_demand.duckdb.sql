WITH "__windowed" AS (
SELECT
  "tenant",
  "region",
  "at_ms",
  "kind",
  at_ms - (at_ms % 60000 + 60000) % 60000 + 60000 AS "window_end"
FROM "events"
), "__level_0" AS (
SELECT
  "tenant", "region",
  "window_end" - 60000 AS "window_start",
  "window_end",
  COUNT(CASE WHEN "kind" = 'booking' THEN 1 END) AS "bookings",
  COUNT(CASE WHEN "kind" = 'search' THEN 1 END) AS "searches",
  COUNT(CASE WHEN "kind" = 'cancel' THEN 1 END) AS "cancels",
  CAST(COUNT(CASE WHEN "kind" = 'booking' THEN 1 END) AS DOUBLE) / NULLIF(CAST(COUNT(CASE WHEN "kind" = 'search' THEN 1 END) AS DOUBLE), 0) AS "conversion"
FROM "__windowed"
GROUP BY "tenant", "region", "window_end"
), "__level_1" AS (
SELECT
  *,
  (CAST(SUM("bookings") OVER last_900s AS DOUBLE) / 15) AS "rolling_avg",
  COALESCE(FIRST_VALUE("bookings") OVER ago_86400s, 0) AS "seasonality_day",
  COALESCE(FIRST_VALUE("bookings") OVER ago_604800s, 0) AS "seasonality_week"
FROM "__level_0"
WINDOW
  last_900s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 899999 PRECEDING AND CURRENT ROW),
  ago_86400s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 86400000 PRECEDING AND 86400000 PRECEDING),
  ago_604800s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 604800000 PRECEDING AND 604800000 PRECEDING)
), "__level_2" AS (
SELECT
  *,
  ("rolling_avg" - (CAST(SUM("bookings") OVER last_3600s AS DOUBLE) / 60)) AS "trend"
FROM "__level_1"
WINDOW
  last_3600s AS (PARTITION BY "tenant", "region" ORDER BY "window_end" RANGE BETWEEN 3599999 PRECEDING AND CURRENT ROW)
)
SELECT
  "tenant",
  "region",
  "window_start",
  "window_end",
  "bookings",
  "searches",
  "cancels",
  "conversion",
  "rolling_avg",
  "trend",
  "seasonality_day",
  "seasonality_week"
FROM "__level_2";
