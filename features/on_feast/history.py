"""The history of views for Feast: materializing and historical joins over the Delta tables of the offline
store, at their newest version and without a download.

    offline_store:
        type: features.on_feast.history.MillstreamOfflineStore

Reads are Feast's own for DuckDB (through ibis); only how a table is opened is ours:

    windowed  the event time is the end of the window, and its microseconds are the row's `sequence`, so that
              of two rows of one window the correction is the later one, also in the online store. Sequences
              from 999 on count as 999.
    rolling   rows that came late have no features and are left out.

Feast's historical joins know no disorder bound and no time to live of single features: training sets are
`features.offline.training`'s. Nothing is written: the tables are the stream's, whose Kafka offsets they hold.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

import ibis
import pandas as pd
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError
from feast import FeatureView, FileSource, RepoConfig
from feast.data_source import DataSource
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore
from feast.infra.offline_stores.ibis import (
    get_historical_features_ibis,
    pull_all_from_table_or_query_ibis,
    pull_latest_from_table_or_query_ibis,
)
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel

from core.errors import InvalidInput
from features.feature_rows import SEQUENCE, WINDOW_END

LATE = "late"
_MOST_MICROSECONDS = 999
_WHERE = "Feast offline store"


class MillstreamOfflineStoreConfig(FeastConfigBaseModel):
    """The section `offline_store` of a feature_store.yaml."""

    type: Literal["features.on_feast.history.MillstreamOfflineStore"] = (
        "features.on_feast.history.MillstreamOfflineStore"
    )


class MillstreamOfflineStore(DuckDBOfflineStore):
    """Raises InvalidInput for a source that is no Delta table of ours."""

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """Per entity the newest row with start_date <= event time <= end_date."""
        return pull_latest_from_table_or_query_ibis(
            config=config,
            data_source=data_source,
            join_key_columns=join_key_columns,
            feature_name_columns=feature_name_columns,
            timestamp_field=timestamp_field,
            created_timestamp_column=created_timestamp_column,
            start_date=start_date,
            end_date=end_date,
            data_source_reader=open_history,
            data_source_writer=_refuse_writing,
        )

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Every row with start_date <= event time <= end_date."""
        return pull_all_from_table_or_query_ibis(
            config=config,
            data_source=data_source,
            join_key_columns=join_key_columns,
            feature_name_columns=feature_name_columns,
            timestamp_field=timestamp_field,
            created_timestamp_column=created_timestamp_column,
            start_date=start_date,
            end_date=end_date,
            data_source_reader=open_history,
            data_source_writer=_refuse_writing,
        )

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> RetrievalJob:
        """Feast's point-in-time join of these entities and times."""
        return get_historical_features_ibis(
            config=config,
            feature_views=feature_views,
            feature_refs=feature_refs,
            entity_df=entity_df,
            registry=registry,
            project=project,
            full_feature_names=full_feature_names,
            data_source_reader=open_history,
            data_source_writer=_refuse_writing,
            filter_by_created_timestamp=filter_by_created_timestamp,
        )

    @staticmethod
    def offline_write_batch(
        config: RepoConfig,
        feature_view: FeatureView,
        table: pa.Table,
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Raises InvalidInput."""
        _refuse_writing(table, feature_view.batch_source, "")


def open_history(source: DataSource, repo_path: str) -> ibis.Table:
    """The rows of the Delta table at the source's path, as the module says."""
    if not isinstance(source, FileSource):
        raise InvalidInput(
            f"{source.name} is no Delta table",
            where=_WHERE,
            mend="apply the views with features.on_feast.repository",
        )
    path = FileSource.get_uri_for_file_path(repo_path, source.path)
    try:
        table = DeltaTable(path)
    except TableNotFoundError as problem:
        raise InvalidInput(
            f"{path} is no Delta table yet",
            where=_WHERE,
            mend="let the stream write it, or backfill the view",
        ) from problem
    files = table.file_uris()
    if files:
        rows = ibis.read_parquet(files, union_by_name=True, hive_partitioning=True)
    else:
        rows = ibis.memtable(pa.schema(table.schema().to_arrow()).empty_table())
    if LATE in rows.columns:
        rows = rows.filter(~rows[LATE].fill_null(False))
    if SEQUENCE in rows.columns and source.timestamp_field == WINDOW_END:
        later = ibis.least(rows[SEQUENCE], _MOST_MICROSECONDS).as_interval("us")
        rows = rows.mutate(**{WINDOW_END: rows[WINDOW_END] + later})
    return rows


def _refuse_writing(table: object, source: object, repo_path: str, *_: object) -> None:
    raise InvalidInput(
        "Feast cannot write the offline store",
        where=_WHERE,
        mend="the stream and backfills write it, with their offsets; push to the online store only",
    )
