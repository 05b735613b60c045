package millstream.flink;

import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import org.apache.flink.api.common.serialization.DeserializationSchema;
import org.apache.flink.configuration.ConfigOption;
import org.apache.flink.configuration.ConfigOptions;
import org.apache.flink.configuration.ReadableConfig;
import org.apache.flink.table.api.ValidationException;
import org.apache.flink.table.connector.format.DecodingFormat;
import org.apache.flink.table.connector.source.DynamicTableSource;
import org.apache.flink.table.connector.source.LookupTableSource;
import org.apache.flink.table.connector.source.lookup.LookupFunctionProvider;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.factories.DeserializationFormatFactory;
import org.apache.flink.table.factories.DynamicTableSourceFactory;
import org.apache.flink.table.factories.FactoryUtil;
import org.apache.flink.table.runtime.typeutils.RowDataSerializer;
import org.apache.flink.table.types.DataType;
import org.apache.flink.table.types.logical.LogicalType;
import org.apache.flink.table.types.logical.RowType;

/**
 * The connector {@code millstream-reference}: a compacted topic as a table to look up in, by {@code tenant} and
 * {@code entity}, the column that the topic is compacted by. The newest record of a key is its row; a message
 * without a value deletes it.
 */
public final class ReferenceTableFactory implements DynamicTableSourceFactory {
    private static final String TENANT = "tenant";
    private static final String KAFKA = "properties.";
    private static final ConfigOption<String> TOPIC = ConfigOptions.key("topic").stringType().noDefaultValue();
    private static final ConfigOption<String> ENTITY = ConfigOptions.key("entity").stringType().noDefaultValue();
    private static final ConfigOption<Integer> MOST_ROWS =
            ConfigOptions.key("most-rows").intType().noDefaultValue();
    private static final ConfigOption<String> FORMAT =
            ConfigOptions.key("value.format").stringType().noDefaultValue();

    @Override
    public String factoryIdentifier() {
        return "millstream-reference";
    }

    @Override
    public Set<ConfigOption<?>> requiredOptions() {
        return Set.of(TOPIC, ENTITY, MOST_ROWS, FORMAT);
    }

    @Override
    public Set<ConfigOption<?>> optionalOptions() {
        return Set.of();
    }

    @Override
    public DynamicTableSource createDynamicTableSource(Context context) {
        FactoryUtil.TableFactoryHelper helper = FactoryUtil.createTableFactoryHelper(this, context);
        DecodingFormat<DeserializationSchema<RowData>> format =
                helper.discoverDecodingFormat(DeserializationFormatFactory.class, FORMAT);
        helper.validateExcept(KAFKA);
        ReadableConfig given = helper.getOptions();
        Properties kafka = new Properties();
        for (Map.Entry<String, String> option : context.getCatalogTable().getOptions().entrySet()) {
            if (option.getKey().startsWith(KAFKA)) {
                kafka.setProperty(option.getKey().substring(KAFKA.length()), option.getValue());
            }
        }
        return new Source(
                given.get(TOPIC), given.get(ENTITY), given.get(MOST_ROWS), kafka, format,
                context.getPhysicalRowDataType());
    }

    private static final class Source implements LookupTableSource {
        private final String topic;
        private final String entity;
        private final int mostRows;
        private final Properties kafka;
        private final DecodingFormat<DeserializationSchema<RowData>> format;
        private final DataType type;

        Source(String topic, String entity, int mostRows, Properties kafka,
                DecodingFormat<DeserializationSchema<RowData>> format, DataType type) {
            this.topic = topic;
            this.entity = entity;
            this.mostRows = mostRows;
            this.kafka = kafka;
            this.format = format;
            this.type = type;
        }

        @Override
        public LookupRuntimeProvider getLookupRuntimeProvider(LookupContext context) {
            List<String> names = DataType.getFieldNames(type);
            int tenant = names.indexOf(TENANT);
            int key = names.indexOf(entity);
            int tenantAsked = -1;
            int keyAsked = -1;
            Set<String> asked = new HashSet<>();
            int[][] keys = context.getKeys();
            for (int i = 0; i < keys.length; i++) {
                asked.add(names.get(keys[i][0]));
                tenantAsked = keys[i][0] == tenant ? i : tenantAsked;
                keyAsked = keys[i][0] == key ? i : keyAsked;
            }
            if (keys.length != 2 || tenantAsked < 0 || keyAsked < 0) {
                throw new ValidationException(
                        "topic " + topic + " is looked up by " + TENANT + " and " + entity + ", not by " + asked);
            }
            List<LogicalType> types = type.getLogicalType().getChildren();
            ReferenceKey inRow = new ReferenceKey(types.get(tenant), tenant, types.get(key), key);
            ReferenceKey inLookup = new ReferenceKey(types.get(tenant), tenantAsked, types.get(key), keyAsked);
            return LookupFunctionProvider.of(new ReferenceLookup(
                    topic, kafka, mostRows, format.createRuntimeDecoder(context, type),
                    new RowDataSerializer((RowType) type.getLogicalType()), inRow, inLookup));
        }

        @Override
        public DynamicTableSource copy() {
            return new Source(topic, entity, mostRows, kafka, format, type);
        }

        @Override
        public String asSummaryString() {
            return "reference " + topic;
        }
    }
}
