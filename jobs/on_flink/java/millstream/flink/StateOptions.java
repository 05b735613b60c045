package millstream.flink;

import java.util.Collection;
import org.apache.flink.state.rocksdb.RocksDBOptionsFactory;
import org.rocksdb.BlockBasedTableConfig;
import org.rocksdb.ColumnFamilyOptions;
import org.rocksdb.DBOptions;
import org.rocksdb.IndexType;
import org.rocksdb.TableFormatConfig;

/**
 * RocksDB's options that Flink has no settings for.
 *
 * <p>The dedupe asks for every id once, and nearly always for one that is not there. The filters of the files say so
 * at once; without a filter of its own the write buffer is searched for it.
 *
 * <p>A file's filter and index are cut into blocks as the rows are. In one piece a filter is as long as its file has
 * ids: from a million and a half on it did not fit into its part of the cache any more, and was read again from the
 * file for every event, at ten times the CPU.
 *
 * <p>At its first row every state takes a block of memory, an eighth of its write buffer unless told otherwise. Most
 * states are small and share one memory with the few large ones.
 */
public final class StateOptions implements RocksDBOptionsFactory {
    private static final long serialVersionUID = 1L;
    /** Of the write buffer: a dozen bits for each row of the dedupe. */
    private static final double FILTER = 0.02;
    private static final long BLOCK_BYTES = 256 * 1024;

    @Override
    public DBOptions createDBOptions(DBOptions given, Collection<AutoCloseable> closing) {
        return given;
    }

    @Override
    public ColumnFamilyOptions createColumnOptions(ColumnFamilyOptions given, Collection<AutoCloseable> closing) {
        final TableFormatConfig format = given.tableFormatConfig();
        final BlockBasedTableConfig table =
                format instanceof BlockBasedTableConfig ? (BlockBasedTableConfig) format : new BlockBasedTableConfig();
        table.setIndexType(IndexType.kTwoLevelIndexSearch).setPartitionFilters(true).setPinTopLevelIndexAndFilter(true);
        return given.setTableFormatConfig(table)
                .setMemtablePrefixBloomSizeRatio(FILTER)
                .setMemtableWholeKeyFiltering(true)
                .setArenaBlockSize(Math.min(given.writeBufferSize() / 8, BLOCK_BYTES));
    }
}
