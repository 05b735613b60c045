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
  'properties.group.id' = 'millstream-hourly_forecasts-flink',
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
  `bookings_7d` DOUBLE,
  `bookings_3h` DOUBLE,
  `bookings_24h` DOUBLE,
  `share_3h` DOUBLE,
  `share_24h` DOUBLE,
  `share_now` DOUBLE,
  `share_1h_ago` DOUBLE,
  `share_2h_ago` DOUBLE,
  `share_3h_ago` DOUBLE,
  `share_5h_ago` DOUBLE,
  `share_11h_ago` DOUBLE,
  `share_22h_ago` DOUBLE,
  `share_23h_ago` DOUBLE,
  `share_24h_ago` DOUBLE,
  `share_46h_ago` DOUBLE,
  `share_47h_ago` DOUBLE,
  `share_143h_ago` DOUBLE,
  `share_144h_ago` DOUBLE,
  `share_145h_ago` DOUBLE,
  `share_166h_ago` DOUBLE,
  `share_167h_ago` DOUBLE,
  `share_168h_ago` DOUBLE,
  `share_334h_ago` DOUBLE,
  `share_335h_ago` DOUBLE
) WITH (
  'connector' = 'kafka',
  'topic' = 'demand.demand_hours.features.v1',
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
  'value.millstream-avro.subject' = 'demand.demand_hours.features.v1-value',
  'value.millstream-avro.schema' = '${schema of demand.demand_hours.features.v1-value}'
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
  'topic' = 'demand.demand_hours.late.v1',
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
  'value.millstream-avro.subject' = 'demand.demand_hours.late.v1-value',
  'value.millstream-avro.schema' = '${schema of demand.demand_hours.late.v1-value}'
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
FROM TABLE(TUMBLE(TABLE `needed`, DESCRIPTOR(`__at`), INTERVAL '1' HOUR))
GROUP BY `tenant`, `region`, `window_start`, `window_end`, `window_time`;

CREATE TEMPORARY VIEW `level_1_604799999ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`,
  CAST(SUM(`bookings`) OVER w AS DOUBLE) / 168 AS `__last_604800s_bookings`
FROM `windowed`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '6 23:59:59.999' DAY TO SECOND(3) PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_1_86399999ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `__last_604800s_bookings`,
  CAST(SUM(`bookings`) OVER w AS DOUBLE) / 24 AS `__last_86400s_bookings`
FROM `level_1_604799999ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '0 23:59:59.999' DAY TO SECOND(3) PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_1_10799999ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `__last_604800s_bookings`, `__last_86400s_bookings`,
  CAST(SUM(`bookings`) OVER w AS DOUBLE) / 3 AS `__last_10800s_bookings`
FROM `level_1_86399999ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '0 02:59:59.999' DAY TO SECOND(3) PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_1` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`,
  COALESCE(`__last_604800s_bookings`, 0) AS `bookings_7d`,
  COALESCE(`__last_10800s_bookings`, 0) AS `bookings_3h`,
  COALESCE(`__last_86400s_bookings`, 0) AS `bookings_24h`
FROM `level_1_10799999ms`;

CREATE TEMPORARY VIEW `level_2_1206000000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_7d`, `bookings_3h`, `bookings_24h`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '13 23:00:00.000' DAY TO SECOND(3) THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_1206000s_bookings`
FROM `level_1`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '13 23:00:00.000' DAY TO SECOND(3) PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_2_1202400000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_7d`, `bookings_3h`, `bookings_24h`, `__ago_1206000s_bookings`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '13 22:00:00.000' DAY TO SECOND(3) THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_1202400s_bookings`
FROM `level_2_1206000000ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '13 22:00:00.000' DAY TO SECOND(3) PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_2_604800000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_7d`, `bookings_3h`, `bookings_24h`, `__ago_1206000s_bookings`, `__ago_1202400s_bookings`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '7' DAY THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_604800s_bookings`
FROM `level_2_1202400000ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '7' DAY PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_2_601200000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_7d`, `bookings_3h`, `bookings_24h`, `__ago_1206000s_bookings`, `__ago_1202400s_bookings`, `__ago_604800s_bookings`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '6 23:00:00.000' DAY TO SECOND(3) THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_601200s_bookings`
FROM `level_2_604800000ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '6 23:00:00.000' DAY TO SECOND(3) PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_2_597600000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_7d`, `bookings_3h`, `bookings_24h`, `__ago_1206000s_bookings`, `__ago_1202400s_bookings`, `__ago_604800s_bookings`, `__ago_601200s_bookings`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '6 22:00:00.000' DAY TO SECOND(3) THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_597600s_bookings`
FROM `level_2_601200000ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '6 22:00:00.000' DAY TO SECOND(3) PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_2_522000000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_7d`, `bookings_3h`, `bookings_24h`, `__ago_1206000s_bookings`, `__ago_1202400s_bookings`, `__ago_604800s_bookings`, `__ago_601200s_bookings`, `__ago_597600s_bookings`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '6 01:00:00.000' DAY TO SECOND(3) THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_522000s_bookings`
FROM `level_2_597600000ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '6 01:00:00.000' DAY TO SECOND(3) PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_2_518400000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_7d`, `bookings_3h`, `bookings_24h`, `__ago_1206000s_bookings`, `__ago_1202400s_bookings`, `__ago_604800s_bookings`, `__ago_601200s_bookings`, `__ago_597600s_bookings`, `__ago_522000s_bookings`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '6' DAY THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_518400s_bookings`
FROM `level_2_522000000ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '6' DAY PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_2_514800000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_7d`, `bookings_3h`, `bookings_24h`, `__ago_1206000s_bookings`, `__ago_1202400s_bookings`, `__ago_604800s_bookings`, `__ago_601200s_bookings`, `__ago_597600s_bookings`, `__ago_522000s_bookings`, `__ago_518400s_bookings`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '5 23:00:00.000' DAY TO SECOND(3) THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_514800s_bookings`
FROM `level_2_518400000ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '5 23:00:00.000' DAY TO SECOND(3) PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_2_169200000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_7d`, `bookings_3h`, `bookings_24h`, `__ago_1206000s_bookings`, `__ago_1202400s_bookings`, `__ago_604800s_bookings`, `__ago_601200s_bookings`, `__ago_597600s_bookings`, `__ago_522000s_bookings`, `__ago_518400s_bookings`, `__ago_514800s_bookings`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '47' HOUR THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_169200s_bookings`
FROM `level_2_514800000ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '47' HOUR PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_2_165600000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_7d`, `bookings_3h`, `bookings_24h`, `__ago_1206000s_bookings`, `__ago_1202400s_bookings`, `__ago_604800s_bookings`, `__ago_601200s_bookings`, `__ago_597600s_bookings`, `__ago_522000s_bookings`, `__ago_518400s_bookings`, `__ago_514800s_bookings`, `__ago_169200s_bookings`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '46' HOUR THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_165600s_bookings`
FROM `level_2_169200000ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '46' HOUR PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_2_86400000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_7d`, `bookings_3h`, `bookings_24h`, `__ago_1206000s_bookings`, `__ago_1202400s_bookings`, `__ago_604800s_bookings`, `__ago_601200s_bookings`, `__ago_597600s_bookings`, `__ago_522000s_bookings`, `__ago_518400s_bookings`, `__ago_514800s_bookings`, `__ago_169200s_bookings`, `__ago_165600s_bookings`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '1' DAY THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_86400s_bookings`
FROM `level_2_165600000ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '1' DAY PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_2_82800000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_7d`, `bookings_3h`, `bookings_24h`, `__ago_1206000s_bookings`, `__ago_1202400s_bookings`, `__ago_604800s_bookings`, `__ago_601200s_bookings`, `__ago_597600s_bookings`, `__ago_522000s_bookings`, `__ago_518400s_bookings`, `__ago_514800s_bookings`, `__ago_169200s_bookings`, `__ago_165600s_bookings`, `__ago_86400s_bookings`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '23' HOUR THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_82800s_bookings`
FROM `level_2_86400000ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '23' HOUR PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_2_79200000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_7d`, `bookings_3h`, `bookings_24h`, `__ago_1206000s_bookings`, `__ago_1202400s_bookings`, `__ago_604800s_bookings`, `__ago_601200s_bookings`, `__ago_597600s_bookings`, `__ago_522000s_bookings`, `__ago_518400s_bookings`, `__ago_514800s_bookings`, `__ago_169200s_bookings`, `__ago_165600s_bookings`, `__ago_86400s_bookings`, `__ago_82800s_bookings`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '22' HOUR THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_79200s_bookings`
FROM `level_2_82800000ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '22' HOUR PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_2_39600000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_7d`, `bookings_3h`, `bookings_24h`, `__ago_1206000s_bookings`, `__ago_1202400s_bookings`, `__ago_604800s_bookings`, `__ago_601200s_bookings`, `__ago_597600s_bookings`, `__ago_522000s_bookings`, `__ago_518400s_bookings`, `__ago_514800s_bookings`, `__ago_169200s_bookings`, `__ago_165600s_bookings`, `__ago_86400s_bookings`, `__ago_82800s_bookings`, `__ago_79200s_bookings`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '11' HOUR THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_39600s_bookings`
FROM `level_2_79200000ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '11' HOUR PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_2_18000000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_7d`, `bookings_3h`, `bookings_24h`, `__ago_1206000s_bookings`, `__ago_1202400s_bookings`, `__ago_604800s_bookings`, `__ago_601200s_bookings`, `__ago_597600s_bookings`, `__ago_522000s_bookings`, `__ago_518400s_bookings`, `__ago_514800s_bookings`, `__ago_169200s_bookings`, `__ago_165600s_bookings`, `__ago_86400s_bookings`, `__ago_82800s_bookings`, `__ago_79200s_bookings`, `__ago_39600s_bookings`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '5' HOUR THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_18000s_bookings`
FROM `level_2_39600000ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '5' HOUR PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_2_10800000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_7d`, `bookings_3h`, `bookings_24h`, `__ago_1206000s_bookings`, `__ago_1202400s_bookings`, `__ago_604800s_bookings`, `__ago_601200s_bookings`, `__ago_597600s_bookings`, `__ago_522000s_bookings`, `__ago_518400s_bookings`, `__ago_514800s_bookings`, `__ago_169200s_bookings`, `__ago_165600s_bookings`, `__ago_86400s_bookings`, `__ago_82800s_bookings`, `__ago_79200s_bookings`, `__ago_39600s_bookings`, `__ago_18000s_bookings`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '3' HOUR THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_10800s_bookings`
FROM `level_2_18000000ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '3' HOUR PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_2_7200000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_7d`, `bookings_3h`, `bookings_24h`, `__ago_1206000s_bookings`, `__ago_1202400s_bookings`, `__ago_604800s_bookings`, `__ago_601200s_bookings`, `__ago_597600s_bookings`, `__ago_522000s_bookings`, `__ago_518400s_bookings`, `__ago_514800s_bookings`, `__ago_169200s_bookings`, `__ago_165600s_bookings`, `__ago_86400s_bookings`, `__ago_82800s_bookings`, `__ago_79200s_bookings`, `__ago_39600s_bookings`, `__ago_18000s_bookings`, `__ago_10800s_bookings`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '2' HOUR THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_7200s_bookings`
FROM `level_2_10800000ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '2' HOUR PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_2_3600000ms` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_7d`, `bookings_3h`, `bookings_24h`, `__ago_1206000s_bookings`, `__ago_1202400s_bookings`, `__ago_604800s_bookings`, `__ago_601200s_bookings`, `__ago_597600s_bookings`, `__ago_522000s_bookings`, `__ago_518400s_bookings`, `__ago_514800s_bookings`, `__ago_169200s_bookings`, `__ago_165600s_bookings`, `__ago_86400s_bookings`, `__ago_82800s_bookings`, `__ago_79200s_bookings`, `__ago_39600s_bookings`, `__ago_18000s_bookings`, `__ago_10800s_bookings`, `__ago_7200s_bookings`,
  COALESCE(CASE WHEN FIRST_VALUE(`window_end`) OVER w = `window_end` - INTERVAL '1' HOUR THEN FIRST_VALUE(`bookings`) OVER w END, 0) AS `__ago_3600s_bookings`
FROM `level_2_7200000ms`
WINDOW w AS (PARTITION BY `tenant`, `region` ORDER BY `window_time` RANGE BETWEEN INTERVAL '1' HOUR PRECEDING AND CURRENT ROW);

CREATE TEMPORARY VIEW `level_2` AS
SELECT
  `tenant`, `region`, `window_start`, `window_end`, `window_time`, `bookings`, `bookings_7d`, `bookings_3h`, `bookings_24h`,
  (CAST(`bookings_3h` AS DOUBLE) / NULLIF(CAST(`bookings_7d` AS DOUBLE), 0e0)) AS `share_3h`,
  (CAST(`bookings_24h` AS DOUBLE) / NULLIF(CAST(`bookings_7d` AS DOUBLE), 0e0)) AS `share_24h`,
  (CAST(`bookings` AS DOUBLE) / NULLIF(CAST(`bookings_7d` AS DOUBLE), 0e0)) AS `share_now`,
  (CAST(`__ago_3600s_bookings` AS DOUBLE) / NULLIF(CAST(`bookings_7d` AS DOUBLE), 0e0)) AS `share_1h_ago`,
  (CAST(`__ago_7200s_bookings` AS DOUBLE) / NULLIF(CAST(`bookings_7d` AS DOUBLE), 0e0)) AS `share_2h_ago`,
  (CAST(`__ago_10800s_bookings` AS DOUBLE) / NULLIF(CAST(`bookings_7d` AS DOUBLE), 0e0)) AS `share_3h_ago`,
  (CAST(`__ago_18000s_bookings` AS DOUBLE) / NULLIF(CAST(`bookings_7d` AS DOUBLE), 0e0)) AS `share_5h_ago`,
  (CAST(`__ago_39600s_bookings` AS DOUBLE) / NULLIF(CAST(`bookings_7d` AS DOUBLE), 0e0)) AS `share_11h_ago`,
  (CAST(`__ago_79200s_bookings` AS DOUBLE) / NULLIF(CAST(`bookings_7d` AS DOUBLE), 0e0)) AS `share_22h_ago`,
  (CAST(`__ago_82800s_bookings` AS DOUBLE) / NULLIF(CAST(`bookings_7d` AS DOUBLE), 0e0)) AS `share_23h_ago`,
  (CAST(`__ago_86400s_bookings` AS DOUBLE) / NULLIF(CAST(`bookings_7d` AS DOUBLE), 0e0)) AS `share_24h_ago`,
  (CAST(`__ago_165600s_bookings` AS DOUBLE) / NULLIF(CAST(`bookings_7d` AS DOUBLE), 0e0)) AS `share_46h_ago`,
  (CAST(`__ago_169200s_bookings` AS DOUBLE) / NULLIF(CAST(`bookings_7d` AS DOUBLE), 0e0)) AS `share_47h_ago`,
  (CAST(`__ago_514800s_bookings` AS DOUBLE) / NULLIF(CAST(`bookings_7d` AS DOUBLE), 0e0)) AS `share_143h_ago`,
  (CAST(`__ago_518400s_bookings` AS DOUBLE) / NULLIF(CAST(`bookings_7d` AS DOUBLE), 0e0)) AS `share_144h_ago`,
  (CAST(`__ago_522000s_bookings` AS DOUBLE) / NULLIF(CAST(`bookings_7d` AS DOUBLE), 0e0)) AS `share_145h_ago`,
  (CAST(`__ago_597600s_bookings` AS DOUBLE) / NULLIF(CAST(`bookings_7d` AS DOUBLE), 0e0)) AS `share_166h_ago`,
  (CAST(`__ago_601200s_bookings` AS DOUBLE) / NULLIF(CAST(`bookings_7d` AS DOUBLE), 0e0)) AS `share_167h_ago`,
  (CAST(`__ago_604800s_bookings` AS DOUBLE) / NULLIF(CAST(`bookings_7d` AS DOUBLE), 0e0)) AS `share_168h_ago`,
  (CAST(`__ago_1202400s_bookings` AS DOUBLE) / NULLIF(CAST(`bookings_7d` AS DOUBLE), 0e0)) AS `share_334h_ago`,
  (CAST(`__ago_1206000s_bookings` AS DOUBLE) / NULLIF(CAST(`bookings_7d` AS DOUBLE), 0e0)) AS `share_335h_ago`
FROM `level_2_3600000ms`;

CREATE TEMPORARY VIEW `features` AS
SELECT `tenant`, `region`, `window_start`, `window_end`, `bookings`, `bookings_7d`, `bookings_3h`, `bookings_24h`, `share_3h`, `share_24h`, `share_now`, `share_1h_ago`, `share_2h_ago`, `share_3h_ago`, `share_5h_ago`, `share_11h_ago`, `share_22h_ago`, `share_23h_ago`, `share_24h_ago`, `share_46h_ago`, `share_47h_ago`, `share_143h_ago`, `share_144h_ago`, `share_145h_ago`, `share_166h_ago`, `share_167h_ago`, `share_168h_ago`, `share_334h_ago`, `share_335h_ago`
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
  `bookings_7d` AS `bookings_7d`,
  `bookings_3h` AS `bookings_3h`,
  `bookings_24h` AS `bookings_24h`,
  `share_3h` AS `share_3h`,
  `share_24h` AS `share_24h`,
  `share_now` AS `share_now`,
  `share_1h_ago` AS `share_1h_ago`,
  `share_2h_ago` AS `share_2h_ago`,
  `share_3h_ago` AS `share_3h_ago`,
  `share_5h_ago` AS `share_5h_ago`,
  `share_11h_ago` AS `share_11h_ago`,
  `share_22h_ago` AS `share_22h_ago`,
  `share_23h_ago` AS `share_23h_ago`,
  `share_24h_ago` AS `share_24h_ago`,
  `share_46h_ago` AS `share_46h_ago`,
  `share_47h_ago` AS `share_47h_ago`,
  `share_143h_ago` AS `share_143h_ago`,
  `share_144h_ago` AS `share_144h_ago`,
  `share_145h_ago` AS `share_145h_ago`,
  `share_166h_ago` AS `share_166h_ago`,
  `share_167h_ago` AS `share_167h_ago`,
  `share_168h_ago` AS `share_168h_ago`,
  `share_334h_ago` AS `share_334h_ago`,
  `share_335h_ago` AS `share_335h_ago`
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
