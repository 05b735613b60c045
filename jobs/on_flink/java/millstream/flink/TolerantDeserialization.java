package millstream.flink;

import java.io.IOException;
import java.util.Objects;
import org.apache.flink.api.common.serialization.DeserializationSchema;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.metrics.Counter;
import org.apache.flink.metrics.SimpleCounter;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.util.Collector;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Reads values one by one; what will never be readable is dropped and counted, not thrown.
 *
 * <p>The dead-letter topic gets those messages from another reader of the same topic, which has the whole
 * message in hand. A message without a value is a tick: it comes out as a row of nulls, so that its
 * timestamp can move the clock. When the registry is away the error is thrown: the job restarts from its
 * checkpoint and reads the message again.
 */
final class TolerantDeserialization implements DeserializationSchema<RowData> {
    private static final long serialVersionUID = 1L;
    private static final Logger LOG = LoggerFactory.getLogger(TolerantDeserialization.class);
    private static final long LOG_EVERY_NANOS = 10_000_000_000L;
    /** No string, byte array or collection in a message can be longer than the largest message. */
    private static final String LONGEST = Integer.toString(16 * 1024 * 1024);

    private final DeserializationSchema<RowData> strict;
    private final int fields;
    private transient Counter undecodable;
    private transient long loggedAt;

    TolerantDeserialization(DeserializationSchema<RowData> strict, int fields) {
        this.strict = strict;
        this.fields = fields;
    }

    @Override
    public void open(InitializationContext context) throws Exception {
        // A damaged length would otherwise be allocated before it is missed: an OutOfMemoryError.
        String limits = "org.apache.flink.avro.shaded.org.apache.avro.limits.";
        for (String kind : new String[] {"string.maxLength", "bytes.maxLength", "collectionItems.maxLength"}) {
            if (System.getProperty(limits + kind) == null) {
                System.setProperty(limits + kind, LONGEST);
            }
        }
        strict.open(context);
        undecodable = context.getMetricGroup().addGroup("millstream").counter("undecodable", new SimpleCounter());
        loggedAt = System.nanoTime() - LOG_EVERY_NANOS;
    }

    @Override
    public void deserialize(byte[] message, Collector<RowData> out) throws IOException {
        RowData row = deserialize(message);
        if (row != null) {
            out.collect(row);
        }
    }

    @Override
    public RowData deserialize(byte[] message) throws IOException {
        if (message == null) {
            return new GenericRowData(fields);
        }
        try {
            return strict.deserialize(message);
        } catch (IOException | RuntimeException error) {
            for (Throwable cause = error; cause != null; cause = cause.getCause()) {
                if (cause instanceof RegistryCoder.RegistryAway) {
                    throw (RegistryCoder.RegistryAway) cause;
                }
            }
            undecodable.inc();
            long now = System.nanoTime();
            if (now - loggedAt >= LOG_EVERY_NANOS) {
                loggedAt = now;
                LOG.warn("skipped an undecodable value of {} bytes, {} so far", message.length,
                        undecodable.getCount(), error);
            }
            return null;
        }
    }

    @Override
    public boolean isEndOfStream(RowData next) {
        return false;
    }

    @Override
    public TypeInformation<RowData> getProducedType() {
        return strict.getProducedType();
    }

    @Override
    public boolean equals(Object other) {
        return other instanceof TolerantDeserialization
                && strict.equals(((TolerantDeserialization) other).strict)
                && fields == ((TolerantDeserialization) other).fields;
    }

    @Override
    public int hashCode() {
        return Objects.hash(strict, fields);
    }
}
