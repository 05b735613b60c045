package millstream.flink;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.configuration.ConfigOption;
import org.apache.flink.configuration.ConfigOptions;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.connectors.kafka.table.KafkaDynamicTableFactory;
import org.apache.flink.table.api.DataTypes;
import org.apache.flink.table.api.ValidationException;
import org.apache.flink.table.connector.ChangelogMode;
import org.apache.flink.table.connector.ProviderContext;
import org.apache.flink.table.connector.source.DataStreamScanProvider;
import org.apache.flink.table.connector.source.DynamicTableSource;
import org.apache.flink.table.connector.source.ScanTableSource;
import org.apache.flink.table.connector.source.abilities.SupportsReadingMetadata;
import org.apache.flink.table.connector.source.abilities.SupportsWatermarkPushDown;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.factories.DynamicTableSourceFactory;
import org.apache.flink.table.factories.FactoryUtil;
import org.apache.flink.table.types.DataType;

/**
 * The connector {@code millstream-events}: Flink's own Kafka source with one column of metadata more, {@code late}.
 *
 * <p>Late is a row that is at or behind the highest watermark that its partition ever gave. {@code late.time} names
 * the column of the event time; {@code late.disorder-ms} is how far the watermark is behind it. A row whose time
 * is null is a tick: it is never late, and the timestamp of its message is a watermark itself.
 */
public final class EventsTableFactory implements DynamicTableSourceFactory {
    private static final String LATE = "late";
    private static final String PARTITION = "partition";
    private static final String TIMESTAMP = "timestamp";
    private static final ConfigOption<String> TIME = ConfigOptions.key("late.time").stringType().noDefaultValue();
    private static final ConfigOption<Long> DISORDER =
            ConfigOptions.key("late.disorder-ms").longType().noDefaultValue();

    private final KafkaDynamicTableFactory kafka = new KafkaDynamicTableFactory();

    @Override
    public String factoryIdentifier() {
        return "millstream-events";
    }

    @Override
    public Set<ConfigOption<?>> requiredOptions() {
        return Set.of(TIME, DISORDER);
    }

    @Override
    public Set<ConfigOption<?>> optionalOptions() {
        return Set.of();
    }

    @Override
    public DynamicTableSource createDynamicTableSource(Context context) {
        Map<String, String> kafkas = new HashMap<>(context.getCatalogTable().getOptions());
        String time = kafkas.remove(TIME.key());
        String disorder = kafkas.remove(DISORDER.key());
        List<String> columns = DataType.getFieldNames(context.getPhysicalRowDataType());
        if (time == null || disorder == null || !columns.contains(time)) {
            throw new ValidationException("a table of events needs " + DISORDER.key() + ", and in " + TIME.key()
                    + " one of " + columns + ", not " + time);
        }
        DynamicTableSource source = kafka.createDynamicTableSource(new FactoryUtil.DefaultDynamicTableContext(
                context.getObjectIdentifier(), context.getCatalogTable().copy(kafkas), Map.of(),
                context.getConfiguration(), context.getClassLoader(), context.isTemporary()));
        return new Source((ScanTableSource) source, columns.size(), columns.indexOf(time), Long.parseLong(disorder));
    }

    private static final class Source implements ScanTableSource, SupportsReadingMetadata, SupportsWatermarkPushDown {
        private final ScanTableSource kafka;
        private final int columns;
        private final int time;
        private final long disorder;
        private List<String> read = List.of();
        private DataType produced;

        Source(ScanTableSource kafka, int columns, int time, long disorder) {
            this.kafka = kafka;
            this.columns = columns;
            this.time = time;
            this.disorder = disorder;
        }

        @Override
        public Map<String, DataType> listReadableMetadata() {
            Map<String, DataType> all = new LinkedHashMap<>(((SupportsReadingMetadata) kafka).listReadableMetadata());
            all.put(LATE, DataTypes.BOOLEAN().notNull());
            return all;
        }

        /** Kafka's source reads the partition in place of what is made of it. */
        @Override
        public void applyReadableMetadata(List<String> keys, DataType type) {
            read = keys;
            produced = type;
            List<String> kafkas = new ArrayList<>(keys);
            kafkas.replaceAll(key -> key.equals(LATE) ? PARTITION : key);
            List<DataTypes.Field> fields = new ArrayList<>(DataType.getFields(type));
            int late = keys.indexOf(LATE);
            if (late >= 0) {
                String name = fields.get(columns + late).getName();
                fields.set(columns + late, DataTypes.FIELD(name, DataTypes.INT().notNull()));
            }
            ((SupportsReadingMetadata) kafka).applyReadableMetadata(
                    kafkas, DataTypes.ROW(fields).notNull());
        }

        @Override
        public void applyWatermark(WatermarkStrategy<RowData> strategy) {
            ((SupportsWatermarkPushDown) kafka).applyWatermark(strategy);
        }

        @Override
        public ChangelogMode getChangelogMode() {
            return kafka.getChangelogMode();
        }

        @Override
        public ScanRuntimeProvider getScanRuntimeProvider(ScanContext context) {
            DataStreamScanProvider events = (DataStreamScanProvider) kafka.getScanRuntimeProvider(context);
            if (!read.contains(LATE)) {
                return events;
            }
            if (!read.contains(TIMESTAMP)) {
                throw new ValidationException("metadata " + LATE + " is read together with " + TIMESTAMP);
            }
            Lateness lateness = new Lateness(
                    time, columns + read.indexOf(TIMESTAMP), columns + read.indexOf(LATE), disorder);
            TypeInformation<RowData> type = context.createTypeInformation(produced);
            return new DataStreamScanProvider() {
                @Override
                public DataStream<RowData> produceDataStream(
                        ProviderContext provider, StreamExecutionEnvironment environment) {
                    return events.produceDataStream(provider, environment).process(lateness, type);
                }

                @Override
                public boolean isBounded() {
                    return events.isBounded();
                }
            };
        }

        @Override
        public DynamicTableSource copy() {
            Source copy = new Source((ScanTableSource) kafka.copy(), columns, time, disorder);
            copy.read = read;
            copy.produced = produced;
            return copy;
        }

        @Override
        public String asSummaryString() {
            return kafka.asSummaryString();
        }
    }
}
