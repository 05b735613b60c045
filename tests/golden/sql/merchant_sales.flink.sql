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
  'properties.group.id' = 'millstream-sales-flink',
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
  `revenue_cents` BIGINT,
  `mean_cents` DOUBLE,
  `std_cents` DOUBLE,
  `largest_cents` BIGINT,
  `last_cents` BIGINT,
  `free` BIGINT,
  `items_per_purchase` DOUBLE
) WITH (
  'connector' = 'kafka',
  'topic' = 'commerce.merchant_sales.features.v1',
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
  'value.millstream-avro.subject' = 'commerce.merchant_sales.features.v1-value',
  'value.millstream-avro.schema' = '${schema of commerce.merchant_sales.features.v1-value}'
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
  'topic' = 'commerce.merchant_sales.late.v1',
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
  'value.millstream-avro.subject' = 'commerce.merchant_sales.late.v1-value',
  'value.millstream-avro.schema' = '${schema of commerce.merchant_sales.late.v1-value}'
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
  `amount_cents`,
  `items`,
  `__at`,
  CAST(`__at` AS STRING) || HEX(`id`) || ',' AS `__order`
FROM `first_events`
WHERE NOT `__late`;

CREATE TEMPORARY VIEW `windowed` AS
SELECT
  `tenant`, `merchant_id`, `window_start`, `window_end`, `window_time`,
  COUNT(*) AS `purchases`,
  COALESCE(SUM(`amount_cents`), 0) AS `revenue_cents`,
  CAST(SUM(`amount_cents`) AS DOUBLE) / NULLIF(COUNT(`amount_cents`), 0) AS `mean_cents`,
  SQRT(CAST(CAST(COUNT(`amount_cents`) AS DECIMAL(19, 0)) * SUM(CAST(`amount_cents` AS DECIMAL(19, 0)) * CAST(`amount_cents` AS DECIMAL(19, 0))) - SUM(CAST(`amount_cents` AS DECIMAL(19, 0))) * SUM(CAST(`amount_cents` AS DECIMAL(19, 0))) AS DOUBLE)) / NULLIF(COUNT(`amount_cents`), 0) AS `std_cents`,
  MAX(`amount_cents`) AS `largest_cents`,
  CAST(SUBSTRING(MAX(`__order` || CAST(`amount_cents` AS STRING)) FROM POSITION(',' IN MAX(`__order` || CAST(`amount_cents` AS STRING))) + 1) AS BIGINT) AS `last_cents`,
  COUNT(CASE WHEN `amount_cents` = 0 THEN 1 END) AS `free`,
  CAST(SUM(`items`) AS DOUBLE) / NULLIF(CAST(COUNT(*) AS DOUBLE), 0e0) AS `items_per_purchase`
FROM TABLE(TUMBLE(TABLE `needed`, DESCRIPTOR(`__at`), INTERVAL '1' MINUTE))
GROUP BY `tenant`, `merchant_id`, `window_start`, `window_end`, `window_time`;

CREATE TEMPORARY VIEW `features` AS
SELECT `tenant`, `merchant_id`, `window_start`, `window_end`, `purchases`, `revenue_cents`, `mean_cents`, `std_cents`, `largest_cents`, `last_cents`, `free`, `items_per_purchase`
FROM `windowed`;

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
  `revenue_cents` AS `revenue_cents`,
  `mean_cents` AS `mean_cents`,
  `std_cents` AS `std_cents`,
  `largest_cents` AS `largest_cents`,
  `last_cents` AS `last_cents`,
  `free` AS `free`,
  `items_per_purchase` AS `items_per_purchase`
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
