WITH "__joined" AS (
SELECT
  "events"."tenant",
  "events"."merchant_id",
  "events"."at_ms",
  "events"."id",
  "events"."customer_id",
  "events"."amount_cents",
  "events"."items",
  "merchant"."size" AS "merchant.size",
  "merchant"."region" AS "merchant.region"
FROM "events"
LEFT JOIN "merchant" ON "merchant"."tenant" = "events"."tenant" AND "merchant"."merchant_id" = "events"."merchant_id"
), "__windowed" AS (
SELECT
  "tenant",
  "merchant_id",
  "at_ms",
  "id",
  "customer_id",
  "amount_cents",
  "items",
  "merchant.size",
  "merchant.region",
  UNNEST(RANGE(at_ms - (at_ms % 300000 + 300000) % 300000 + 300000, at_ms + 3600000 + 1, 300000)) AS "window_end"
FROM "__joined"
), "__level_0" AS (
SELECT
  "tenant", "merchant_id",
  "window_end" - 3600000 AS "window_start",
  "window_end",
  COUNT(*) AS "purchases",
  COUNT(DISTINCT "customer_id") AS "customers",
  COALESCE(CAST(SUM("amount_cents") AS BIGINT), 0) AS "revenue_cents",
  CAST(SUM("amount_cents") AS DOUBLE) / NULLIF(COUNT("amount_cents"), 0) AS "mean_basket_cents",
  CAST(MAX("amount_cents") AS BIGINT) AS "largest_basket_cents",
  CAST(CAST(SUM("items") AS BIGINT) AS DOUBLE) / NULLIF(CAST(COUNT(*) AS DOUBLE), 0) AS "items_per_purchase",
  COUNT(CASE WHEN ((("merchant.size" = 'small' AND "amount_cents" >= 10000) OR ("merchant.size" = 'medium' AND "amount_cents" >= 50000)) OR ("merchant.size" = 'large' AND "amount_cents" >= 200000)) THEN 1 END) AS "large_baskets",
  COALESCE(CAST(CAST(SUM(CASE WHEN ((("merchant.size" = 'small' AND "amount_cents" >= 10000) OR ("merchant.size" = 'medium' AND "amount_cents" >= 50000)) OR ("merchant.size" = 'large' AND "amount_cents" >= 200000)) THEN "amount_cents" END) AS BIGINT) AS DOUBLE) / NULLIF(CAST(CAST(SUM("amount_cents") AS BIGINT) AS DOUBLE), 0), 0.0e0) AS "large_basket_share",
  CAST(ARG_MAX("merchant.region", ROW(at_ms, "id")) AS VARCHAR) AS "region"
FROM "__windowed"
GROUP BY "tenant", "merchant_id", "window_end"
), "__level_1" AS (
SELECT
  *,
  ("revenue_cents" - COALESCE(FIRST_VALUE("revenue_cents") OVER ago_3600s, 0)) AS "revenue_change_cents"
FROM "__level_0"
WINDOW
  ago_3600s AS (PARTITION BY "tenant", "merchant_id" ORDER BY "window_end" RANGE BETWEEN 3600000 PRECEDING AND 3600000 PRECEDING)
)
SELECT
  "tenant",
  "merchant_id",
  "window_start",
  "window_end",
  "purchases",
  "customers",
  "revenue_cents",
  "mean_basket_cents",
  "largest_basket_cents",
  "items_per_purchase",
  "revenue_change_cents",
  "large_baskets",
  "large_basket_share",
  "region"
FROM "__level_1";
