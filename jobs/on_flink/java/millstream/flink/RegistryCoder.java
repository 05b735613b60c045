package millstream.flink;

import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.io.Serializable;
import java.nio.ByteBuffer;
import java.util.HashMap;
import java.util.Objects;
import org.apache.flink.avro.registry.confluent.shaded.io.confluent.kafka.schemaregistry.ParsedSchema;
import org.apache.flink.avro.registry.confluent.shaded.io.confluent.kafka.schemaregistry.avro.AvroSchema;
import org.apache.flink.avro.registry.confluent.shaded.io.confluent.kafka.schemaregistry.client.CachedSchemaRegistryClient;
import org.apache.flink.avro.registry.confluent.shaded.io.confluent.kafka.schemaregistry.client.SchemaRegistryClient;
import org.apache.flink.avro.registry.confluent.shaded.io.confluent.kafka.schemaregistry.client.rest.exceptions.RestClientException;
import org.apache.flink.avro.shaded.org.apache.avro.Schema;
import org.apache.flink.formats.avro.SchemaCoder;

/**
 * The five bytes before an Avro value: a zero and the id of the writer's schema.
 *
 * <p>Reading tells an unknown id (404: this message will never be readable) from a registry that is away
 * (any other failure: the same message is readable later). Writing looks the id up and never registers.
 */
final class RegistryCoder implements SchemaCoder {
    static final int HEADER_BYTES = 5;
    private static final int CACHED_SCHEMAS = 1_000;
    private static final int NOT_FOUND = 404;

    private final SchemaRegistryClient client;
    private final String subject;
    private byte[] written;

    private RegistryCoder(String url, String subject) {
        this.client = new CachedSchemaRegistryClient(url, CACHED_SCHEMAS, new HashMap<>());
        this.subject = subject;
    }

    /** The id in front of a message; throws when there is none. */
    static int schemaId(byte[] message) throws IOException {
        if (message.length < HEADER_BYTES || message[0] != 0) {
            throw new IOException("no Confluent wire format");
        }
        int id = ByteBuffer.wrap(message, 1, 4).getInt();
        if (id < 0) {
            throw new IOException("negative schema id " + id);
        }
        return id;
    }

    /** The writer's schema of that id, cached. */
    Schema schema(int id) throws IOException {
        ParsedSchema schema;
        try {
            schema = client.getSchemaById(id);
        } catch (RestClientException error) {
            if (error.getStatus() == NOT_FOUND) {
                throw new IOException("unknown schema id " + id, error);
            }
            throw new RegistryAway("schema " + id + " cannot be read", error);
        } catch (IOException | RuntimeException error) {
            throw new RegistryAway("schema " + id + " cannot be read", error);
        }
        if (schema instanceof AvroSchema) {
            return ((AvroSchema) schema).rawSchema();
        }
        throw new IOException("schema " + id + " is no Avro schema");
    }

    @Override
    public Schema readSchema(InputStream in) throws IOException {
        return schema(schemaId(in.readNBytes(HEADER_BYTES)));
    }

    @Override
    public void writeSchema(Schema schema, OutputStream out) throws IOException {
        if (written == null) {
            int id;
            try {
                id = client.getId(subject, new AvroSchema(schema));
            } catch (RestClientException | RuntimeException error) {
                throw new RegistryAway("no registered schema of " + subject + "; apply the plan", error);
            }
            written = ByteBuffer.allocate(HEADER_BYTES).put((byte) 0).putInt(id).array();
        }
        out.write(written);
    }

    /** The registry cannot be asked now; the job fails and starts again from its checkpoint. */
    static final class RegistryAway extends IOException {
        private static final long serialVersionUID = 1L;

        RegistryAway(String what, Throwable cause) {
            super(what, cause);
        }
    }

    /** Makes the coder on the machine that needs it. */
    static final class Provider implements SchemaCoder.SchemaCoderProvider, Serializable {
        private static final long serialVersionUID = 1L;
        private final String url;
        private final String subject;

        Provider(String url, String subject) {
            this.url = url;
            this.subject = subject;
        }

        @Override
        public RegistryCoder get() {
            return new RegistryCoder(url, subject);
        }

        @Override
        public boolean equals(Object other) {
            return other instanceof Provider
                    && url.equals(((Provider) other).url)
                    && subject.equals(((Provider) other).subject);
        }

        @Override
        public int hashCode() {
            return Objects.hash(url, subject);
        }
    }
}
