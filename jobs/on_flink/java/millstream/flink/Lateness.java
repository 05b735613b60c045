package millstream.flink;

import java.util.Arrays;
import org.apache.flink.api.common.state.ListState;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.runtime.state.FunctionInitializationContext;
import org.apache.flink.runtime.state.FunctionSnapshotContext;
import org.apache.flink.streaming.api.checkpoint.CheckpointedFunction;
import org.apache.flink.streaming.api.functions.ProcessFunction;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.util.Collector;

/**
 * Puts in place of a row's partition whether the row is late: at or behind the highest watermark that the partition
 * ever gave.
 *
 * <p>Those watermarks are state of the job: after a restart, also with another parallelism, every subtask has those
 * of all partitions and goes by the highest it ever saw, so that what was decided is decided again the same way.
 * They are in no keyed state, which would take an exchange, a read and a write of RocksDB for each row.
 *
 * <p>A row is changed in place: it comes from the source that it is chained to, which makes each anew.
 */
final class Lateness extends ProcessFunction<RowData, RowData> implements CheckpointedFunction {
    private static final long serialVersionUID = 1L;
    private static final String STATE = "watermarks";

    private final int time;
    private final int published;
    private final int late;
    private final long disorder;
    /** By partition, in epoch milliseconds. */
    private transient long[] watermarks;
    private transient ListState<long[]> state;

    Lateness(int time, int published, int late, long disorder) {
        this.time = time;
        this.published = published;
        this.late = late;
        this.disorder = disorder;
    }

    @Override
    public void processElement(RowData given, Context context, Collector<RowData> out) {
        GenericRowData row = (GenericRowData) given;
        int partition = row.getInt(late);
        if (partition >= watermarks.length) {
            watermarks = grown(watermarks, partition + 1);
        }
        long highest = watermarks[partition];
        long watermark;
        boolean isLate = false;
        if (row.isNullAt(time)) {
            watermark = row.getTimestamp(published, 3).getMillisecond();
        } else {
            long at = row.getTimestamp(time, 3).getMillisecond();
            watermark = at - disorder;
            isLate = at <= highest;
        }
        watermarks[partition] = Math.max(highest, watermark);
        row.setField(late, isLate);
        out.collect(row);
    }

    @Override
    public void initializeState(FunctionInitializationContext context) throws Exception {
        state = context.getOperatorStateStore().getUnionListState(
                new ListStateDescriptor<>(STATE, PrimitiveArrayTypeInfo.LONG_PRIMITIVE_ARRAY_TYPE_INFO));
        watermarks = new long[0];
        for (long[] of : state.get()) {
            watermarks = grown(watermarks, of.length);
            for (int partition = 0; partition < of.length; partition++) {
                watermarks[partition] = Math.max(watermarks[partition], of[partition]);
            }
        }
    }

    @Override
    public void snapshotState(FunctionSnapshotContext context) throws Exception {
        state.clear();
        state.add(watermarks.clone());
    }

    private static long[] grown(long[] given, int length) {
        if (given.length >= length) {
            return given;
        }
        long[] grown = Arrays.copyOf(given, length);
        Arrays.fill(grown, given.length, length, Long.MIN_VALUE);
        return grown;
    }
}
