package millstream.flink;

import java.io.Serializable;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.types.logical.LogicalType;

/** The key of a row as the Kafka key of its message is written: tenant and entity, escaped, joined. */
final class ReferenceKey implements Serializable {
    private static final long serialVersionUID = 1L;

    private final RowData.FieldGetter tenant;
    private final RowData.FieldGetter entity;

    ReferenceKey(LogicalType tenantType, int tenant, LogicalType entityType, int entity) {
        this.tenant = RowData.createFieldGetter(tenantType, tenant);
        this.entity = RowData.createFieldGetter(entityType, entity);
    }

    /** Null where the tenant or the entity is. */
    String of(RowData row) {
        Object whose = tenant.getFieldOrNull(row);
        Object which = entity.getFieldOrNull(row);
        return whose == null || which == null ? null : escaped(whose) + '|' + escaped(which);
    }

    private static String escaped(Object part) {
        return part.toString().replace("%", "%25").replace("|", "%7C");
    }
}
