package millstream.flink;

import java.util.Set;
import org.apache.flink.api.common.serialization.DeserializationSchema;
import org.apache.flink.api.common.serialization.SerializationSchema;
import org.apache.flink.avro.shaded.org.apache.avro.Schema;
import org.apache.flink.configuration.ConfigOption;
import org.apache.flink.configuration.ConfigOptions;
import org.apache.flink.configuration.ReadableConfig;
import org.apache.flink.formats.avro.AvroRowDataDeserializationSchema;
import org.apache.flink.formats.avro.AvroRowDataSerializationSchema;
import org.apache.flink.formats.avro.AvroToRowDataConverters;
import org.apache.flink.formats.avro.RegistryAvroSerializationSchema;
import org.apache.flink.formats.avro.RowDataToAvroConverters;
import org.apache.flink.table.connector.ChangelogMode;
import org.apache.flink.table.connector.format.DecodingFormat;
import org.apache.flink.table.connector.format.EncodingFormat;
import org.apache.flink.table.connector.sink.DynamicTableSink;
import org.apache.flink.table.connector.source.DynamicTableSource;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.factories.DeserializationFormatFactory;
import org.apache.flink.table.factories.DynamicTableFactory;
import org.apache.flink.table.factories.FactoryUtil;
import org.apache.flink.table.factories.SerializationFormatFactory;
import org.apache.flink.table.types.DataType;
import org.apache.flink.table.types.logical.RowType;

/**
 * The format {@code millstream-avro}: Avro values with the id of their schema in front.
 *
 * <p>Differs from {@code avro-confluent} in three things: a value that cannot be read is skipped and
 * counted instead of failing the job, a message without a value is a row of nulls, and the schema that is
 * written must be registered already. Columns are matched by position with the given reader schema, so the
 * reader's defaults fill what an older writer left out.
 */
public final class TolerantAvroFormatFactory implements DeserializationFormatFactory, SerializationFormatFactory {
    private static final ConfigOption<String> URL = ConfigOptions.key("url").stringType().noDefaultValue();
    private static final ConfigOption<String> SUBJECT = ConfigOptions.key("subject").stringType().noDefaultValue();
    private static final ConfigOption<String> SCHEMA = ConfigOptions.key("schema").stringType().noDefaultValue();

    @Override
    public String factoryIdentifier() {
        return "millstream-avro";
    }

    @Override
    public Set<ConfigOption<?>> requiredOptions() {
        return Set.of(URL, SUBJECT, SCHEMA);
    }

    @Override
    public Set<ConfigOption<?>> optionalOptions() {
        return Set.of();
    }

    @Override
    public DecodingFormat<DeserializationSchema<RowData>> createDecodingFormat(
            DynamicTableFactory.Context context, ReadableConfig options) {
        FactoryUtil.validateFactoryOptions(this, options);
        Schema schema = new Schema.Parser().parse(options.get(SCHEMA));
        RegistryCoder.Provider coder = new RegistryCoder.Provider(options.get(URL), options.get(SUBJECT));
        return new DecodingFormat<DeserializationSchema<RowData>>() {
            @Override
            public DeserializationSchema<RowData> createRuntimeDecoder(
                    DynamicTableSource.Context source, DataType type) {
                RowType row = row(type, schema);
                return new TolerantDeserialization(
                        new AvroRowDataDeserializationSchema(
                                new WireDeserialization(schema, coder),
                                AvroToRowDataConverters.createRowConverter(row),
                                source.createTypeInformation(type)),
                        row.getFieldCount());
            }

            @Override
            public ChangelogMode getChangelogMode() {
                return ChangelogMode.insertOnly();
            }
        };
    }

    @Override
    public EncodingFormat<SerializationSchema<RowData>> createEncodingFormat(
            DynamicTableFactory.Context context, ReadableConfig options) {
        FactoryUtil.validateFactoryOptions(this, options);
        Schema schema = new Schema.Parser().parse(options.get(SCHEMA));
        RegistryCoder.Provider coder = new RegistryCoder.Provider(options.get(URL), options.get(SUBJECT));
        return new EncodingFormat<SerializationSchema<RowData>>() {
            @Override
            public SerializationSchema<RowData> createRuntimeEncoder(DynamicTableSink.Context sink, DataType type) {
                RowType row = row(type, schema);
                return new AvroRowDataSerializationSchema(
                        row,
                        RegistryAvroSerializationSchema.forGeneric(schema, coder),
                        RowDataToAvroConverters.createConverter(row));
            }

            @Override
            public ChangelogMode getChangelogMode() {
                return ChangelogMode.insertOnly();
            }
        };
    }

    private static RowType row(DataType type, Schema schema) {
        RowType row = (RowType) type.getLogicalType();
        for (int i = 0; i < Math.max(row.getFieldCount(), schema.getFields().size()); i++) {
            if (i >= row.getFieldCount()
                    || i >= schema.getFields().size()
                    || !row.getFieldNames().get(i).equals(schema.getFields().get(i).name())) {
                throw new IllegalArgumentException("columns " + row.getFieldNames() + " are not the fields of "
                        + schema.getFullName() + ", in order");
            }
        }
        return row;
    }
}
