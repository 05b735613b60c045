CREATE TEMPORARY TABLE `events` (
  `tenant` STRING,
  `id` STRING,
  `user_id` STRING,
  `region` STRING,
  `kind` STRING,
  `occurred_at` TIMESTAMP(3),
  `__published` TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL,
  `__late` BOOLEAN METADATA FROM 'late' VIRTUAL,
  `__at` AS CASE WHEN `id` IS NULL THEN CAST(`__published` AS TIMESTAMP(3)) + INTERVAL '1' SECOND ELSE `occurred_at` END,
  `__seen` AS PROCTIME(),
  WATERMARK FOR `__at` AS `__at` - INTERVAL '1' SECOND
) WITH (
  'connector' = 'millstream-events',
  'topic' = 'user-events',
  'properties.bootstrap.servers' = '${kafka}',
  'properties.allow.auto.create.topics' = 'false',
  'late.time' = 'occurred_at',
  'late.disorder-ms' = '1000',
  'properties.group.id' = 'millstream-demand-flink',
  'properties.enable.auto.commit' = 'false',
  'properties.isolation.level' = 'read_committed',
  'properties.fetch.min.bytes' = '65536',
  'properties.fetch.max.wait.ms' = '10',
  'scan.startup.mode' = 'earliest-offset',
  'scan.topic-partition-discovery.interval' = '60 s',
  'value.format' = 'millstream-avro',
  'value.millstream-avro.url' = '${registry}',
  'value.millstream-avro.subject' = 'user-events-value',
  'value.millstream-avro.schema' = '${schema of user-events-value}'
);

CREATE TEMPORARY TABLE `feature_rows` (
  `__key` STRING,
  `tenant` STRING,
  `id` STRING,
  `entity` STRING,
  `region` STRING,
  `window_start` TIMESTAMP(3),
  `window_end` TIMESTAMP(3),
  `sequence` BIGINT,
  `bookings` BIGINT,
  `searches` BIGINT,
  `cancels` BIGINT,
  `conversion` DOUBLE,
  `rolling_avg` DOUBLE,
  `trend` DOUBLE,
  `seasonality_day` BIGINT,
  `seasonality_week` BIGINT
) WITH (
  'connector' = 'kafka',
  'topic' = 'demand.regional_demand.features.v1',
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
  'value.millstream-avro.subject' = 'demand.regional_demand.features.v1-value',
  'value.millstream-avro.schema' = '${schema of demand.regional_demand.features.v1-value}'
);

CREATE TEMPORARY TABLE `late_events` (
  `__key` STRING,
  `tenant` STRING,
  `id` STRING,
  `user_id` STRING,
  `region` STRING,
  `kind` STRING,
  `occurred_at` TIMESTAMP(3)
) WITH (
  'connector' = 'kafka',
  'topic' = 'demand.regional_demand.late.v1',
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
  'value.millstream-avro.subject' = 'demand.regional_demand.late.v1-value',
  'value.millstream-avro.schema' = '${schema of demand.regional_demand.late.v1-value}'
);

CREATE TEMPORARY VIEW `first_events` AS
SELECT `tenant`, `id`, `user_id`, `region`, `kind`, `occurred_at`, `__at`, `__late`
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
  `region`,
  `kind`,
  `__at`
FROM `first_events`
WHERE NOT `__late`;

CREATE TEMPORARY VIEW `windowed` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`,
  COUNT(CASE WHEN `kind` = 'booking' THEN 1 END) AS `bookings`,
  COUNT(CASE WHEN `kind` = 'search' THEN 1 END) AS `searches`,
  COUNT(CASE WHEN `kind` = 'cancel' THEN 1 END) AS `cancels`,
  CAST(COUNT(CASE WHEN `kind` = 'booking' THEN 1 END) AS DOUBLE) / NULLIF(CAST(COUNT(CASE WHEN `kind` = 'search' THEN 1 END) AS DOUBLE), 0e0) AS `conversion`
FROM TABLE(TUMBLE(TABLE `needed`, DESCRIPTOR(`__at`), INTERVAL '1' MINUTE))
GROUP BY `tenant`, `region`, `window_start`, `window_end`, `window_time`;

CREATE TEMPORARY VIEW `level_1_604800000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `searches`, `cancels`, `conversion`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '7' DAY THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_604800s_bookings`
FROM `windowed`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '7' DAY PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_1_86400000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `searches`, `cancels`, `conversion`, `__ago_604800s_bookings`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '1' DAY THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_86400s_bookings`
FROM `level_1_604800000ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '1' DAY PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_1_899999ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `searches`, `cancels`, `conversion`, `__ago_604800s_bookings`, `__ago_86400s_bookings`,
  CAST(SUM(`bookings`) OVER w AS DOUBLE) / 15 AS `__last_900s_bookings`
FROM `level_1_86400000ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '0 00:14:59.999' DAY TO SECOND(3) PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_1` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `searches`, `cancels`, `conversion`,
  COALESCE(`__last_900s_bookings`, 0) AS `rolling_avg`,
  COALESCE(`__ago_86400s_bookings`, 0) AS `seasonality_day`,
  COALESCE(`__ago_604800s_bookings`, 0) AS `seasonality_week`
FROM `level_1_899999ms`;

CREATE TEMPORARY VIEW `level_2_3599999ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `searches`, `cancels`, `conversion`, `rolling_avg`, `seasonality_day`, `seasonality_week`,
  CAST(SUM(`bookings`) OVER w AS DOUBLE) / 60 AS `__last_3600s_bookings`
FROM `level_1`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '0 00:59:59.999' DAY TO SECOND(3) PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_2` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `searches`, `cancels`, `conversion`, `rolling_avg`, `seasonality_day`, `seasonality_week`,
  COALESCE((`rolling_avg` - `__last_3600s_bookings`), 0) AS `trend`
FROM `level_2_3599999ms`;

CREATE TEMPORARY VIEW `features` AS
SELECT `tenant`, `region`, `window_start`, `window_end`, `bookings`, `searches`, `cancels`, `conversion`, `rolling_avg`, `trend`, `seasonality_day`, `seasonality_week`
FROM `level_2`;

STATEMENT SET BEGIN
INSERT INTO `feature_rows`
SELECT
  REPLACE(REPLACE(`tenant`, '%', '%25'), '|', '%7C') || '|' || REPLACE(REPLACE(`region`, '%', '%25'), '|', '%7C') AS `__key`,
  `tenant` AS `tenant`,
  `region` || '|' || CAST(`window_end` AS STRING) || '|0' AS `id`,
  `region` AS `entity`,
  `region` AS `region`,
  `window_start` AS `window_start`,
  `window_end` AS `window_end`,
  CAST(0 AS BIGINT) AS `sequence`,
  `bookings` AS `bookings`,
  `searches` AS `searches`,
  `cancels` AS `cancels`,
  `conversion` AS `conversion`,
  `rolling_avg` AS `rolling_avg`,
  `trend` AS `trend`,
  `seasonality_day` AS `seasonality_day`,
  `seasonality_week` AS `seasonality_week`
FROM `features`;
INSERT INTO `late_events`
SELECT
  REPLACE(REPLACE(`tenant`, '%', '%25'), '|', '%7C') || '|' || REPLACE(REPLACE(`region`, '%', '%25'), '|', '%7C') AS `__key`,
  `tenant` AS `tenant`,
  `id` AS `id`,
  `user_id` AS `user_id`,
  `region` AS `region`,
  `kind` AS `kind`,
  `occurred_at` AS `occurred_at`
FROM `first_events`
WHERE `__late`;
END;
