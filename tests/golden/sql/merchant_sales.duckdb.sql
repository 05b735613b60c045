WITH "__windowed" AS (
SELECT
  "tenant",
  "merchant_id",
  "at_ms",
  "id",
  "amount_cents",
  "items",
  at_ms - (at_ms % 60000 + 60000) % 60000 + 60000 AS "window_end"
FROM "events"
)
SELECT
  "tenant", "merchant_id",
  "window_end" - 60000 AS "window_start",
  "window_end",
  COUNT(*) AS "purchases",
  COALESCE(CAST(SUM("amount_cents") AS BIGINT), 0) AS "revenue_cents",
  CAST(SUM("amount_cents") AS DOUBLE) / NULLIF(COUNT("amount_cents"), 0) AS "mean_cents",
  SQRT(CAST(COUNT("amount_cents") * SUM(CAST("amount_cents" AS HUGEINT) * CAST("amount_cents" AS HUGEINT)) - SUM(CAST("amount_cents" AS HUGEINT)) * SUM(CAST("amount_cents" AS HUGEINT)) AS DOUBLE)) / NULLIF(COUNT("amount_cents"), 0) AS "std_cents",
  CAST(MAX("amount_cents") AS BIGINT) AS "largest_cents",
  CAST(ARG_MAX("amount_cents", ROW(at_ms, "id")) AS BIGINT) AS "last_cents",
  COUNT(CASE WHEN "amount_cents" = 0 THEN 1 END) AS "free",
  CAST(CAST(SUM("items") AS BIGINT) AS DOUBLE) / NULLIF(CAST(COUNT(*) AS DOUBLE), 0) AS "items_per_purchase"
FROM "__windowed"
GROUP BY "tenant", "merchant_id", "window_end";
