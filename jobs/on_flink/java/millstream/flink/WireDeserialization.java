package millstream.flink;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
import java.util.Objects;
import org.apache.flink.api.common.serialization.DeserializationSchema;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.avro.shaded.org.apache.avro.Schema;
import org.apache.flink.avro.shaded.org.apache.avro.generic.GenericDatumReader;
import org.apache.flink.avro.shaded.org.apache.avro.generic.GenericRecord;
import org.apache.flink.avro.shaded.org.apache.avro.io.BinaryDecoder;
import org.apache.flink.avro.shaded.org.apache.avro.io.Decoder;
import org.apache.flink.avro.shaded.org.apache.avro.io.DecoderFactory;
import org.apache.flink.avro.shaded.org.apache.avro.util.Utf8;
import org.apache.flink.formats.avro.typeutils.GenericRecordAvroTypeInfo;

/**
 * Wire bytes to an Avro record by the reader's schema. Refuses what the Python codec refuses: bytes after the
 * record and text that is no UTF-8.
 *
 * <p>Flink's own class reads through one buffer that outlives a failed message, so that what was left of a
 * damaged value would be read as the beginning of the next one. Here every message starts afresh.
 */
final class WireDeserialization implements DeserializationSchema<GenericRecord> {
    private static final long serialVersionUID = 1L;

    private final String schema;
    private final RegistryCoder.Provider provider;
    private transient Schema expected;
    private transient RegistryCoder coder;
    private transient Map<Integer, GenericDatumReader<GenericRecord>> readers;
    private transient BinaryDecoder decoder;

    WireDeserialization(Schema schema, RegistryCoder.Provider provider) {
        this.schema = schema.toString();
        this.provider = provider;
    }

    @Override
    public GenericRecord deserialize(byte[] message) throws IOException {
        if (coder == null) {
            expected = new Schema.Parser().parse(schema);
            coder = provider.get();
            readers = new HashMap<>();
        }
        int id = RegistryCoder.schemaId(message);
        GenericDatumReader<GenericRecord> reader = readers.get(id);
        if (reader == null) {
            reader = new StrictReader(coder.schema(id), expected);
            readers.put(id, reader);
        }
        int head = RegistryCoder.HEADER_BYTES;
        decoder = DecoderFactory.get().binaryDecoder(message, head, message.length - head, decoder);
        GenericRecord record = reader.read(null, decoder);
        if (!decoder.isEnd()) {
            throw new IOException("bytes after the record");
        }
        return record;
    }

    @Override
    public boolean isEndOfStream(GenericRecord next) {
        return false;
    }

    @Override
    public TypeInformation<GenericRecord> getProducedType() {
        return new GenericRecordAvroTypeInfo(new Schema.Parser().parse(schema));
    }

    @Override
    public boolean equals(Object other) {
        return other instanceof WireDeserialization
                && schema.equals(((WireDeserialization) other).schema)
                && provider.equals(((WireDeserialization) other).provider);
    }

    @Override
    public int hashCode() {
        return Objects.hash(schema, provider);
    }

    /** Avro itself replaces what is no UTF-8 and says nothing. */
    private static final class StrictReader extends GenericDatumReader<GenericRecord> {
        StrictReader(Schema written, Schema expected) {
            super(written, expected);
        }

        @Override
        protected Object readString(Object old, Decoder in) throws IOException {
            Utf8 text = in.readString(null);
            byte[] bytes = text.getBytes();
            for (int i = 0; i < text.getByteLength(); i++) {
                if (bytes[i] < 0) {
                    StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(bytes, i, text.getByteLength() - i));
                    break;
                }
            }
            return text;
        }
    }
}
