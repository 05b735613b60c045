package millstream.flink;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ConcurrentHashMap;
import java.util.stream.Collectors;
import org.apache.flink.api.common.serialization.DeserializationSchema;
import org.apache.flink.kafka.shaded.org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.flink.kafka.shaded.org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.flink.kafka.shaded.org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.flink.kafka.shaded.org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.flink.kafka.shaded.org.apache.kafka.common.TopicPartition;
import org.apache.flink.kafka.shaded.org.apache.kafka.common.errors.WakeupException;
import org.apache.flink.kafka.shaded.org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.flink.metrics.Counter;
import org.apache.flink.metrics.Gauge;
import org.apache.flink.metrics.MetricGroup;
import org.apache.flink.metrics.SimpleCounter;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.functions.FunctionContext;
import org.apache.flink.table.functions.LookupFunction;
import org.apache.flink.table.runtime.typeutils.RowDataSerializer;
import org.apache.flink.util.SimpleUserCodeClassLoader;
import org.apache.flink.util.UserCodeClassLoader;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * A compacted topic, held in memory and followed.
 *
 * <p>{@code open} returns once everything that was on the topic when it was called has been read: no event is
 * looked up before that. Then a thread follows the topic. What cannot be decoded is skipped and counted. When
 * the thread ends with an error (the registry is away, or there are more rows than declared) the next lookup
 * throws it, and the job starts again from its checkpoint. While Kafka is away lookups go by what was read.
 *
 * <p>Each parallel instance holds the whole table, its rows as bytes. The partitions are those there were at {@code open}.
 */
public final class ReferenceLookup extends LookupFunction {
    private static final long serialVersionUID = 1L;
    private static final Logger LOG = LoggerFactory.getLogger(ReferenceLookup.class);
    private static final Duration POLL = Duration.ofMillis(500);
    private static final Duration STALLED = Duration.ofSeconds(60);

    private final String topic;
    private final Properties kafka;
    private final int mostRows;
    private final DeserializationSchema<RowData> values;
    private final RowDataSerializer packed;
    private final ReferenceKey inRow;
    private final ReferenceKey inLookup;
    private transient Map<String, RowData> rows;
    private transient Counter messages;
    private transient KafkaConsumer<byte[], byte[]> consumer;
    private transient Thread follower;
    private transient volatile boolean closing;
    private transient volatile Throwable failure;

    ReferenceLookup(String topic, Properties kafka, int mostRows, DeserializationSchema<RowData> values,
            RowDataSerializer packed, ReferenceKey inRow, ReferenceKey inLookup) {
        this.topic = topic;
        this.kafka = kafka;
        this.mostRows = mostRows;
        this.values = values;
        this.packed = packed;
        this.inRow = inRow;
        this.inLookup = inLookup;
    }

    @Override
    public void open(FunctionContext context) throws Exception {
        values.open(new Opening(context.getMetricGroup()));
        MetricGroup metrics = context.getMetricGroup().addGroup("millstream").addGroup("reference", topic);
        rows = new ConcurrentHashMap<>();
        messages = metrics.counter("messages", new SimpleCounter());
        metrics.gauge("rows", (Gauge<Integer>) rows::size);
        consumer = new KafkaConsumer<>(clientProperties(), new ByteArrayDeserializer(), new ByteArrayDeserializer());
        long begun = System.nanoTime();
        readAll();
        LOG.info("reference topic {}: {} rows from {} messages in {} ms", topic, rows.size(), messages.getCount(),
                Duration.ofNanos(System.nanoTime() - begun).toMillis());
        follower = new Thread(this::follow, "reference " + topic);
        follower.setDaemon(true);
        follower.start();
    }

    @Override
    public Collection<RowData> lookup(RowData asked) throws IOException {
        if (failure != null) {
            throw new IOException("reference topic " + topic + " is not followed any more", failure);
        }
        String key = inLookup.of(asked);
        RowData row = key == null ? null : rows.get(key);
        return row == null ? List.of() : List.of(row);
    }

    @Override
    public void close() throws Exception {
        closing = true;
        if (consumer == null) {
            return;
        }
        if (follower != null) {
            consumer.wakeup();
            follower.join();
        }
        consumer.close();
        consumer = null;
    }

    private Properties clientProperties() {
        Properties all = new Properties();
        all.putAll(kafka);
        all.setProperty(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, "false");
        all.setProperty(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        all.setProperty(ConsumerConfig.ISOLATION_LEVEL_CONFIG, "read_committed");
        return all;
    }

    private void readAll() throws IOException {
        List<TopicPartition> partitions = consumer.partitionsFor(topic).stream()
                .map(one -> new TopicPartition(topic, one.partition()))
                .collect(Collectors.toList());
        if (partitions.isEmpty()) {
            throw new IOException("there is no reference topic " + topic + "; apply the plan");
        }
        consumer.assign(partitions);
        consumer.seekToBeginning(partitions);
        Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
        long reached = -1;
        long movedAt = System.nanoTime();
        while (ends.entrySet().stream().anyMatch(end -> consumer.position(end.getKey()) < end.getValue())) {
            apply(consumer.poll(POLL));
            long now = partitions.stream().mapToLong(consumer::position).sum();
            if (now != reached) {
                reached = now;
                movedAt = System.nanoTime();
            } else if (System.nanoTime() - movedAt > STALLED.toNanos()) {
                throw new IOException(
                        "reference topic " + topic + " delivers nothing for " + STALLED.toSeconds() + " s");
            }
        }
    }

    private void follow() {
        try {
            while (!closing) {
                apply(consumer.poll(POLL));
            }
        } catch (WakeupException stopped) {
            if (!closing) {
                failure = stopped;
            }
        } catch (Throwable error) {
            failure = error;
        }
    }

    private void apply(ConsumerRecords<byte[], byte[]> read) throws IOException {
        for (ConsumerRecord<byte[], byte[]> message : read) {
            if (message.value() == null) {
                if (message.key() != null) {
                    rows.remove(new String(message.key(), StandardCharsets.UTF_8));
                }
            } else {
                RowData row = values.deserialize(message.value());
                String key = row == null ? null : inRow.of(row);
                if (key != null && rows.put(key, packed.toBinaryRow(row).copy()) == null && rows.size() > mostRows) {
                    throw new IOException("reference topic " + topic + " has more than " + mostRows
                            + " rows; give its lookup a higher most_rows, or the job less to hold");
                }
            }
            messages.inc();
        }
    }

    /** What the format is opened with. */
    private static final class Opening implements DeserializationSchema.InitializationContext {
        private final MetricGroup metrics;

        Opening(MetricGroup metrics) {
            this.metrics = metrics;
        }

        @Override
        public MetricGroup getMetricGroup() {
            return metrics;
        }

        @Override
        public UserCodeClassLoader getUserCodeClassLoader() {
            return SimpleUserCodeClassLoader.create(ReferenceLookup.class.getClassLoader());
        }
    }
}
