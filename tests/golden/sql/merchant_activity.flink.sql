CREATE TEMPORARY TABLE `events` (
  `tenant` STRING,
  `id` STRING,
  `merchant_id` STRING,
  `customer_id` STRING,
  `occurred_at` TIMESTAMP(3),
  `amount_cents` BIGINT,
  `items` BIGINT,
  `__published` TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL,
  `__late` BOOLEAN METADATA FROM 'late' VIRTUAL,
  `__at` AS CASE WHEN `id` IS NULL THEN CAST(`__published` AS TIMESTAMP(3)) + INTERVAL '5' SECOND ELSE `occurred_at` END,
  `__seen` AS PROCTIME(),
  WATERMARK FOR `__at` AS `__at` - INTERVAL '5' SECOND
) WITH (
  'connector' = 'millstream-events',
  'topic' = 'commerce.purchases.events.v1',
  'properties.bootstrap.servers' = '${kafka}',
  'properties.allow.auto.create.topics' = 'false',
  'late.time' = 'occurred_at',
  'late.disorder-ms' = '5000',
  'properties.group.id' = 'millstream-merchants-flink',
  'properties.enable.auto.commit' = 'false',
  'properties.isolation.level' = 'read_committed',
  'properties.fetch.min.bytes' = '65536',
  'properties.fetch.max.wait.ms' = '10',
  'scan.startup.mode' = 'earliest-offset',
  'scan.topic-partition-discovery.interval' = '60 s',
  'value.format' = 'millstream-avro',
  'value.millstream-avro.url' = '${registry}',
  'value.millstream-avro.subject' = 'commerce.purchases.events.v1-value',
  'value.millstream-avro.schema' = '${schema of commerce.purchases.events.v1-value}'
);

CREATE TEMPORARY TABLE `feature_rows` (
  `__key` STRING,
  `tenant` STRING,
  `id` STRING,
  `entity` STRING,
  `merchant_id` STRING,
  `window_start` TIMESTAMP(3),
  `window_end` TIMESTAMP(3),
  `sequence` BIGINT,
  `purchases` BIGINT,
  `customers` BIGINT,
  `revenue_cents` BIGINT,
  `mean_basket_cents` DOUBLE,
  `largest_basket_cents` BIGINT,
  `items_per_purchase` DOUBLE,
  `revenue_change_cents` BIGINT,
  `large_baskets` BIGINT,
  `large_basket_share` DOUBLE,
  `region` STRING
) WITH (
  'connector' = 'kafka',
  'topic' = 'commerce.merchant_activity.features.v1',
  'properties.bootstrap.servers' = '${kafka}',
  'properties.allow.auto.create.topics' = 'false',
  'properties.acks' = 'all',
  'properties.linger.ms' = '2',
  'sink.delivery-guarantee' = 'at-least-once',
  'key.format' = 'raw',
  'key.fields' = '__key',
  'value.format' = 'millstream-avro',
  'value.fields-include' = 'EXCEPT_KEY',
  'value.millstream-avro.url' = '${registry}',
  'value.millstream-avro.subject' = 'commerce.merchant_activity.features.v1-value',
  'value.millstream-avro.schema' = '${schema of commerce.merchant_activity.features.v1-value}'
);

CREATE TEMPORARY TABLE `late_events` (
  `__key` STRING,
  `tenant` STRING,
  `id` STRING,
  `merchant_id` STRING,
  `customer_id` STRING,
  `occurred_at` TIMESTAMP(3),
  `amount_cents` BIGINT,
  `items` BIGINT
) WITH (
  'connector' = 'kafka',
  'topic' = 'commerce.merchant_activity.late.v1',
  'properties.bootstrap.servers' = '${kafka}',
  'properties.allow.auto.create.topics' = 'false',
  'properties.acks' = 'all',
  'properties.linger.ms' = '2',
  'sink.delivery-guarantee' = 'at-least-once',
  'key.format' = 'raw',
  'key.fields' = '__key',
  'value.format' = 'millstream-avro',
  'value.fields-include' = 'EXCEPT_KEY',
  'value.millstream-avro.url' = '${registry}',
  'value.millstream-avro.subject' = 'commerce.merchant_activity.late.v1-value',
  'value.millstream-avro.schema' = '${schema of commerce.merchant_activity.late.v1-value}'
);

CREATE TEMPORARY TABLE `reference_merchant` (
  `tenant` STRING,
  `id` STRING,
  `merchant_id` STRING,
  `region` STRING,
  `size` STRING,
  `changed_at` TIMESTAMP(3)
) WITH (
  'connector' = 'millstream-reference',
  'topic' = 'commerce.merchants.events.v1',
  'properties.bootstrap.servers' = '${kafka}',
  'properties.allow.auto.create.topics' = 'false',
  'entity' = 'merchant_id',
  'most-rows' = '100000',
  'value.format' = 'millstream-avro',
  'value.millstream-avro.url' = '${registry}',
  'value.millstream-avro.subject' = 'commerce.merchants.events.v1-value',
  'value.millstream-avro.schema' = '${schema of commerce.merchants.events.v1-value}'
);

CREATE TEMPORARY VIEW `first_events` AS
SELECT `tenant`, `id`, `merchant_id`, `customer_id`, `occurred_at`, `amount_cents`, `items`, `__at`, `__late`
FROM (
  SELECT *,
    ROW_NUMBER() OVER (PARTITION BY `tenant`, `id` ORDER BY `__seen`) AS `__nth`
  FROM `events`
  WHERE `id` IS NOT NULL
)
WHERE `__nth` = 1;

CREATE TEMPORARY VIEW `needed` AS
SELECT
  `tenant`,
  `merchant_id`,
  `customer_id`,
  `amount_cents`,
  `items`,
  `__at`,
  CAST(`__at` AS STRING) || HEX(`id`) || ',' AS `__order`,
  PROCTIME() AS `__now`
FROM `first_events`
WHERE NOT `__late`;

CREATE TEMPORARY VIEW `looked_up` AS
SELECT
  `__event`.`tenant`,
  `__event`.`merchant_id`,
  `__event`.`customer_id`,
  `__event`.`amount_cents`,
  `__event`.`items`,
  `__event`.`__at`,
  `__event`.`__order`,
  `merchant`.`size` AS `merchant.size`,
  `merchant`.`region` AS `merchant.region`
FROM `needed` AS `__event`
LEFT JOIN `reference_merchant` FOR SYSTEM_TIME AS OF `__event`.`__now` AS `merchant`
ON `__event`.`tenant` = `merchant`.`tenant` AND `__event`.`merchant_id` = `merchant`.`merchant_id`;

CREATE TEMPORARY VIEW `windowed` AS
SELECT
  `tenant`, `merchant_id`, `window_start`, `window_end`, `window_time`,
  COUNT(*) AS `purchases`,
  COUNT(DISTINCT `customer_id`) AS `customers`,
  COALESCE(SUM(`amount_cents`), 0) AS `revenue_cents`,
  CAST(SUM(`amount_cents`) AS DOUBLE) / NULLIF(COUNT(`amount_cents`), 0) AS `mean_basket_cents`,
  MAX(`amount_cents`) AS `largest_basket_cents`,
  CAST(SUM(`items`) AS DOUBLE) / NULLIF(CAST(COUNT(*) AS DOUBLE), 0e0) AS `items_per_purchase`,
  COUNT(CASE WHEN (((`merchant.size` = 'small' AND `amount_cents` >= 10000) OR (`merchant.size` = 'medium' AND `amount_cents` >= 50000)) OR (`merchant.size` = 'large' AND `amount_cents` >= 200000)) THEN 1 END) AS `large_baskets`,
  COALESCE(CAST(SUM(CASE WHEN (((`merchant.size` = 'small' AND `amount_cents` >= 10000) OR (`merchant.size` = 'medium' AND `amount_cents` >= 50000)) OR (`merchant.size` = 'large' AND `amount_cents` >= 200000)) THEN `amount_cents` END) AS DOUBLE) / NULLIF(CAST(SUM(`amount_cents`) AS DOUBLE), 0e0), 0.0e0) AS `large_basket_share`,
  SUBSTRING(MAX(`__order` || `merchant.region`) FROM POSITION(',' IN MAX(`__order` || `merchant.region`)) + 1) AS `region`
FROM TABLE(HOP(TABLE `looked_up`, DESCRIPTOR(`__at`), INTERVAL '5' MINUTE, INTERVAL '1' HOUR))
GROUP BY `tenant`, `merchant_id`, `window_start`, `window_end`, `window_time`;

CREATE TEMPORARY VIEW `level_1_3600000ms` AS
SELECT
  `tenant`, `merchant_id`, `window_start`, `window_end`, `window_time`, `purchases`, `customers`, `revenue_cents`, `mean_basket_cents`, `largest_basket_cents`, `items_per_purchase`, `large_baskets`, `large_basket_share`, `region`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '1' HOUR THEN FIRST_VALUE(`revenue_cents`) OVER w END, 0) AS `__ago_3600s_revenue_cents`
FROM `windowed`
WINDOW w AS (PARTITION BY `tenant`, `merchant_id` ORDER BY `window_time` RANGE BETWEEN INTERVAL '1' HOUR PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_1` AS
SELECT
  `tenant`, `merchant_id`, `window_start`, `window_end`, `window_time`, `purchases`, `customers`, `revenue_cents`, `mean_basket_cents`, `largest_basket_cents`, `items_per_purchase`, `large_baskets`, `large_basket_share`, `region`,
  COALESCE((`revenue_cents` - `__ago_3600s_revenue_cents`), 0) AS `revenue_change_cents`
FROM `level_1_3600000ms`;

CREATE TEMPORARY VIEW `features` AS
SELECT `tenant`, `merchant_id`, `window_start`, `window_end`, `purchases`, `customers`, `revenue_cents`, `mean_basket_cents`, `largest_basket_cents`, `items_per_purchase`, `revenue_change_cents`, `large_baskets`, `large_basket_share`, `region`
FROM `level_1`;

STATEMENT SET BEGIN
INSERT INTO `feature_rows`
SELECT
  REPLACE(REPLACE(`tenant`, '%', '%25'), '|', '%7C') || '|' || REPLACE(REPLACE(`merchant_id`, '%', '%25'), '|', '%7C') AS `__key`,
  `tenant` AS `tenant`,
  `merchant_id` || '|' || CAST(`window_end` AS STRING) || '|0' AS `id`,
  `merchant_id` AS `entity`,
  `merchant_id` AS `merchant_id`,
  `window_start` AS `window_start`,
  `window_end` AS `window_end`,
  CAST(0 AS BIGINT) AS `sequence`,
  `purchases` AS `purchases`,
  `customers` AS `customers`,
  `revenue_cents` AS `revenue_cents`,
  `mean_basket_cents` AS `mean_basket_cents`,
  `largest_basket_cents` AS `largest_basket_cents`,
  `items_per_purchase` AS `items_per_purchase`,
  `revenue_change_cents` AS `revenue_change_cents`,
  `large_baskets` AS `large_baskets`,
  `large_basket_share` AS `large_basket_share`,
  `region` AS `region`
FROM `features`;
INSERT INTO `late_events`
SELECT
  REPLACE(REPLACE(`tenant`, '%', '%25'), '|', '%7C') || '|' || REPLACE(REPLACE(`merchant_id`, '%', '%25'), '|', '%7C') AS `__key`,
  `tenant` AS `tenant`,
  `id` AS `id`,
  `merchant_id` AS `merchant_id`,
  `customer_id` AS `customer_id`,
  `occurred_at` AS `occurred_at`,
  `amount_cents` AS `amount_cents`,
  `items` AS `items`
FROM `first_events`
WHERE `__late`;
END;
