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
  'properties.group.id' = 'millstream-forecasts-flink',
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
  `bookings_28d` DOUBLE,
  `bookings_7d` DOUBLE,
  `bookings_14d` DOUBLE,
  `share_7d` DOUBLE,
  `share_14d` DOUBLE,
  `share_now` DOUBLE,
  `share_1d_ago` DOUBLE,
  `share_2d_ago` DOUBLE,
  `share_3d_ago` DOUBLE,
  `share_4d_ago` DOUBLE,
  `share_5d_ago` DOUBLE,
  `share_6d_ago` DOUBLE,
  `share_7d_ago` DOUBLE,
  `share_8d_ago` DOUBLE,
  `share_9d_ago` DOUBLE,
  `share_10d_ago` DOUBLE,
  `share_11d_ago` DOUBLE,
  `share_12d_ago` DOUBLE,
  `share_13d_ago` DOUBLE,
  `share_20d_ago` DOUBLE,
  `share_27d_ago` DOUBLE
) WITH (
  'connector' = 'kafka',
  'topic' = 'demand.demand_days.features.v1',
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
  'value.millstream-avro.subject' = 'demand.demand_days.features.v1-value',
  'value.millstream-avro.schema' = '${schema of demand.demand_days.features.v1-value}'
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
  'topic' = 'demand.demand_days.late.v1',
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
  'value.millstream-avro.subject' = 'demand.demand_days.late.v1-value',
  'value.millstream-avro.schema' = '${schema of demand.demand_days.late.v1-value}'
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
  COUNT(CASE WHEN `kind` = 'booking' THEN 1 END) AS `bookings`
FROM TABLE(TUMBLE(TABLE `needed`, DESCRIPTOR(`__at`), INTERVAL '1' DAY))
GROUP BY `tenant`, `region`, `window_start`, `window_end`, `window_time`;

CREATE TEMPORARY VIEW `level_1_2419199999ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`,
  CAST(SUM(`bookings`) OVER w AS DOUBLE) / 28 AS `__last_2419200s_bookings`
FROM `windowed`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '27 23:59:59.999' DAY TO SECOND(3) PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_1_1209599999ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `__last_2419200s_bookings`,
  CAST(SUM(`bookings`) OVER w AS DOUBLE) / 14 AS `__last_1209600s_bookings`
FROM `level_1_2419199999ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '13 23:59:59.999' DAY TO SECOND(3) PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_1_604799999ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `__last_2419200s_bookings`, `__last_1209600s_bookings`,
  CAST(SUM(`bookings`) OVER w AS DOUBLE) / 7 AS `__last_604800s_bookings`
FROM `level_1_1209599999ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '6 23:59:59.999' DAY TO SECOND(3) PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_1` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`,
  COALESCE(`__last_2419200s_bookings`, 0) AS `bookings_28d`,
  COALESCE(`__last_604800s_bookings`, 0) AS `bookings_7d`,
  COALESCE(`__last_1209600s_bookings`, 0) AS `bookings_14d`
FROM `level_1_604799999ms`;

CREATE TEMPORARY VIEW `level_2_2332800000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_28d`, `bookings_7d`, `bookings_14d`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '27' DAY THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_2332800s_bookings`
FROM `level_1`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '27' DAY PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_2_1728000000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_28d`, `bookings_7d`, `bookings_14d`, `__ago_2332800s_bookings`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '20' DAY THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_1728000s_bookings`
FROM `level_2_2332800000ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '20' DAY PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_2_1123200000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_28d`, `bookings_7d`, `bookings_14d`, `__ago_2332800s_bookings`, `__ago_1728000s_bookings`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '13' DAY THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_1123200s_bookings`
FROM `level_2_1728000000ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '13' DAY PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_2_1036800000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_28d`, `bookings_7d`, `bookings_14d`, `__ago_2332800s_bookings`, `__ago_1728000s_bookings`, `__ago_1123200s_bookings`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '12' DAY THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_1036800s_bookings`
FROM `level_2_1123200000ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '12' DAY PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_2_950400000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_28d`, `bookings_7d`, `bookings_14d`, `__ago_2332800s_bookings`, `__ago_1728000s_bookings`, `__ago_1123200s_bookings`, `__ago_1036800s_bookings`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '11' DAY THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_950400s_bookings`
FROM `level_2_1036800000ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '11' DAY PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_2_864000000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_28d`, `bookings_7d`, `bookings_14d`, `__ago_2332800s_bookings`, `__ago_1728000s_bookings`, `__ago_1123200s_bookings`, `__ago_1036800s_bookings`, `__ago_950400s_bookings`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '10' DAY THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_864000s_bookings`
FROM `level_2_950400000ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '10' DAY PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_2_777600000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_28d`, `bookings_7d`, `bookings_14d`, `__ago_2332800s_bookings`, `__ago_1728000s_bookings`, `__ago_1123200s_bookings`, `__ago_1036800s_bookings`, `__ago_950400s_bookings`, `__ago_864000s_bookings`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '9' DAY THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_777600s_bookings`
FROM `level_2_864000000ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '9' DAY PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_2_691200000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_28d`, `bookings_7d`, `bookings_14d`, `__ago_2332800s_bookings`, `__ago_1728000s_bookings`, `__ago_1123200s_bookings`, `__ago_1036800s_bookings`, `__ago_950400s_bookings`, `__ago_864000s_bookings`, `__ago_777600s_bookings`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '8' DAY THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_691200s_bookings`
FROM `level_2_777600000ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '8' DAY PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_2_604800000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_28d`, `bookings_7d`, `bookings_14d`, `__ago_2332800s_bookings`, `__ago_1728000s_bookings`, `__ago_1123200s_bookings`, `__ago_1036800s_bookings`, `__ago_950400s_bookings`, `__ago_864000s_bookings`, `__ago_777600s_bookings`, `__ago_691200s_bookings`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '7' DAY THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_604800s_bookings`
FROM `level_2_691200000ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '7' DAY PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_2_518400000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_28d`, `bookings_7d`, `bookings_14d`, `__ago_2332800s_bookings`, `__ago_1728000s_bookings`, `__ago_1123200s_bookings`, `__ago_1036800s_bookings`, `__ago_950400s_bookings`, `__ago_864000s_bookings`, `__ago_777600s_bookings`, `__ago_691200s_bookings`, `__ago_604800s_bookings`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '6' DAY THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_518400s_bookings`
FROM `level_2_604800000ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '6' DAY PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_2_432000000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_28d`, `bookings_7d`, `bookings_14d`, `__ago_2332800s_bookings`, `__ago_1728000s_bookings`, `__ago_1123200s_bookings`, `__ago_1036800s_bookings`, `__ago_950400s_bookings`, `__ago_864000s_bookings`, `__ago_777600s_bookings`, `__ago_691200s_bookings`, `__ago_604800s_bookings`, `__ago_518400s_bookings`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '5' DAY THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_432000s_bookings`
FROM `level_2_518400000ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '5' DAY PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_2_345600000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_28d`, `bookings_7d`, `bookings_14d`, `__ago_2332800s_bookings`, `__ago_1728000s_bookings`, `__ago_1123200s_bookings`, `__ago_1036800s_bookings`, `__ago_950400s_bookings`, `__ago_864000s_bookings`, `__ago_777600s_bookings`, `__ago_691200s_bookings`, `__ago_604800s_bookings`, `__ago_518400s_bookings`, `__ago_432000s_bookings`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '4' DAY THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_345600s_bookings`
FROM `level_2_432000000ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '4' DAY PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_2_259200000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_28d`, `bookings_7d`, `bookings_14d`, `__ago_2332800s_bookings`, `__ago_1728000s_bookings`, `__ago_1123200s_bookings`, `__ago_1036800s_bookings`, `__ago_950400s_bookings`, `__ago_864000s_bookings`, `__ago_777600s_bookings`, `__ago_691200s_bookings`, `__ago_604800s_bookings`, `__ago_518400s_bookings`, `__ago_432000s_bookings`, `__ago_345600s_bookings`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '3' DAY THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_259200s_bookings`
FROM `level_2_345600000ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '3' DAY PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_2_172800000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_28d`, `bookings_7d`, `bookings_14d`, `__ago_2332800s_bookings`, `__ago_1728000s_bookings`, `__ago_1123200s_bookings`, `__ago_1036800s_bookings`, `__ago_950400s_bookings`, `__ago_864000s_bookings`, `__ago_777600s_bookings`, `__ago_691200s_bookings`, `__ago_604800s_bookings`, `__ago_518400s_bookings`, `__ago_432000s_bookings`, `__ago_345600s_bookings`, `__ago_259200s_bookings`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '2' DAY THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_172800s_bookings`
FROM `level_2_259200000ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '2' DAY PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_2_86400000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_28d`, `bookings_7d`, `bookings_14d`, `__ago_2332800s_bookings`, `__ago_1728000s_bookings`, `__ago_1123200s_bookings`, `__ago_1036800s_bookings`, `__ago_950400s_bookings`, `__ago_864000s_bookings`, `__ago_777600s_bookings`, `__ago_691200s_bookings`, `__ago_604800s_bookings`, `__ago_518400s_bookings`, `__ago_432000s_bookings`, `__ago_345600s_bookings`, `__ago_259200s_bookings`, `__ago_172800s_bookings`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '1' DAY THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_86400s_bookings`
FROM `level_2_172800000ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '1' DAY PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_2` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_28d`, `bookings_7d`, `bookings_14d`,
  (CAST(`bookings_7d` AS DOUBLE) / NULLIF(CAST(`bookings_28d` AS DOUBLE), 0e0)) AS `share_7d`,
  (CAST(`bookings_14d` AS DOUBLE) / NULLIF(CAST(`bookings_28d` AS DOUBLE), 0e0)) AS `share_14d`,
  (CAST(`bookings` AS DOUBLE) / NULLIF(CAST(`bookings_28d` AS DOUBLE), 0e0)) AS `share_now`,
  (CAST(`__ago_86400s_bookings` AS DOUBLE) / NULLIF(CAST(`bookings_28d` AS DOUBLE), 0e0)) AS `share_1d_ago`,
  (CAST(`__ago_172800s_bookings` AS DOUBLE) / NULLIF(CAST(`bookings_28d` AS DOUBLE), 0e0)) AS `share_2d_ago`,
  (CAST(`__ago_259200s_bookings` AS DOUBLE) / NULLIF(CAST(`bookings_28d` AS DOUBLE), 0e0)) AS `share_3d_ago`,
  (CAST(`__ago_345600s_bookings` AS DOUBLE) / NULLIF(CAST(`bookings_28d` AS DOUBLE), 0e0)) AS `share_4d_ago`,
  (CAST(`__ago_432000s_bookings` AS DOUBLE) / NULLIF(CAST(`bookings_28d` AS DOUBLE), 0e0)) AS `share_5d_ago`,
  (CAST(`__ago_518400s_bookings` AS DOUBLE) / NULLIF(CAST(`bookings_28d` AS DOUBLE), 0e0)) AS `share_6d_ago`,
  (CAST(`__ago_604800s_bookings` AS DOUBLE) / NULLIF(CAST(`bookings_28d` AS DOUBLE), 0e0)) AS `share_7d_ago`,
  (CAST(`__ago_691200s_bookings` AS DOUBLE) / NULLIF(CAST(`bookings_28d` AS DOUBLE), 0e0)) AS `share_8d_ago`,
  (CAST(`__ago_777600s_bookings` AS DOUBLE) / NULLIF(CAST(`bookings_28d` AS DOUBLE), 0e0)) AS `share_9d_ago`,
  (CAST(`__ago_864000s_bookings` AS DOUBLE) / NULLIF(CAST(`bookings_28d` AS DOUBLE), 0e0)) AS `share_10d_ago`,
  (CAST(`__ago_950400s_bookings` AS DOUBLE) / NULLIF(CAST(`bookings_28d` AS DOUBLE), 0e0)) AS `share_11d_ago`,
  (CAST(`__ago_1036800s_bookings` AS DOUBLE) / NULLIF(CAST(`bookings_28d` AS DOUBLE), 0e0)) AS `share_12d_ago`,
  (CAST(`__ago_1123200s_bookings` AS DOUBLE) / NULLIF(CAST(`bookings_28d` AS DOUBLE), 0e0)) AS `share_13d_ago`,
  (CAST(`__ago_1728000s_bookings` AS DOUBLE) / NULLIF(CAST(`bookings_28d` AS DOUBLE), 0e0)) AS `share_20d_ago`,
  (CAST(`__ago_2332800s_bookings` AS DOUBLE) / NULLIF(CAST(`bookings_28d` AS DOUBLE), 0e0)) AS `share_27d_ago`
FROM `level_2_86400000ms`;

CREATE TEMPORARY VIEW `features` AS
SELECT `tenant`, `region`, `window_start`, `window_end`, `bookings`, `bookings_28d`, `bookings_7d`, `bookings_14d`, `share_7d`, `share_14d`, `share_now`, `share_1d_ago`, `share_2d_ago`, `share_3d_ago`, `share_4d_ago`, `share_5d_ago`, `share_6d_ago`, `share_7d_ago`, `share_8d_ago`, `share_9d_ago`, `share_10d_ago`, `share_11d_ago`, `share_12d_ago`, `share_13d_ago`, `share_20d_ago`, `share_27d_ago`
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
  `bookings_28d` AS `bookings_28d`,
  `bookings_7d` AS `bookings_7d`,
  `bookings_14d` AS `bookings_14d`,
  `share_7d` AS `share_7d`,
  `share_14d` AS `share_14d`,
  `share_now` AS `share_now`,
  `share_1d_ago` AS `share_1d_ago`,
  `share_2d_ago` AS `share_2d_ago`,
  `share_3d_ago` AS `share_3d_ago`,
  `share_4d_ago` AS `share_4d_ago`,
  `share_5d_ago` AS `share_5d_ago`,
  `share_6d_ago` AS `share_6d_ago`,
  `share_7d_ago` AS `share_7d_ago`,
  `share_8d_ago` AS `share_8d_ago`,
  `share_9d_ago` AS `share_9d_ago`,
  `share_10d_ago` AS `share_10d_ago`,
  `share_11d_ago` AS `share_11d_ago`,
  `share_12d_ago` AS `share_12d_ago`,
  `share_13d_ago` AS `share_13d_ago`,
  `share_20d_ago` AS `share_20d_ago`,
  `share_27d_ago` AS `share_27d_ago`
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
