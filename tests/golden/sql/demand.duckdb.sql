WITH "__joined" AS (
SELECT
  "rides"."tenant",
  "rides"."city",
  "rides"."at_ms",
  "rides"."id",
  "rides"."kind",
  "rides"."fare",
  "driver_of"."level" AS "driver_of.level"
FROM "rides"
LEFT JOIN "driver_of" ON "driver_of"."tenant" = "rides"."tenant" AND "driver_of"."id" = "rides"."driver"
), "__windowed" AS (
SELECT
  "tenant",
  "city",
  "at_ms",
  "id",
  "kind",
  "fare",
  "driver_of.level",
  at_ms - (at_ms % 60000 + 60000) % 60000 + 60000 AS "window_end"
FROM "__joined"
), "__level_0" AS (
SELECT
  "tenant", "city",
  "window_end" - 60000 AS "window_start",
  "window_end",
  COUNT(CASE WHEN "kind" = 'booking' THEN 1 END) AS "bookings",
  CAST(SUM("fare") AS BIGINT) AS "fares",
  QUANTILE_CONT(CAST("fare" AS DOUBLE), 0.9e0) AS "high",
  CAST(COUNT(CASE WHEN "kind" = 'booking' THEN 1 END) AS DOUBLE) / NULLIF(CAST(COUNT(*) AS DOUBLE), 0) AS "share",
  COUNT(CASE WHEN "driver_of.level" = 'gold' THEN 1 END) AS "gold",
  CAST(ARG_MAX("kind", ROW(at_ms, "id")) AS VARCHAR) AS "last_kind"
FROM "__windowed"
GROUP BY "tenant", "city", "window_end"
), "__level_1" AS (
SELECT
  *,
  COALESCE(FIRST_VALUE("bookings") OVER ago_3600s, 0) AS "before",
  (CAST(SUM("bookings") OVER last_3600s AS DOUBLE) / 60) AS "average",
  (CAST(COALESCE("fares", 0) AS DOUBLE) / NULLIF(CAST("bookings" AS DOUBLE), 0)) AS "per_ride"
FROM "__level_0"
WINDOW
  ago_3600s AS (PARTITION BY "tenant", "city" ORDER BY "window_end" RANGE BETWEEN 3600000 PRECEDING AND 3600000 PRECEDING),
  last_3600s AS (PARTITION BY "tenant", "city" ORDER BY "window_end" RANGE BETWEEN 3599999 PRECEDING AND CURRENT ROW)
)
SELECT
  "tenant",
  "city",
  "window_start",
  "window_end",
  "bookings",
  "fares",
  "high",
  "share",
  "before",
  "average",
  "per_ride",
  "gold",
  "last_kind"
FROM "__level_1";
