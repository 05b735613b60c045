"""MLflow's client and Feast's SDK, as they are, on our registry and our stores."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import feast
import httpx
import mlflow
import numpy as np
import onnxruntime
import pytest
from mlflow import MlflowClient

from features.on_feast.repository import repository
from models.store import MODEL
from tests.contract.clients.conftest import OTHER, TENANT, Site

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]
NAMES = ("count_1h", "amount_sum_24h")


@pytest.fixture
def registry(site: Site) -> Iterator[MlflowClient]:
    uri = f"sqlite:///{site.settings.root / 'mlflow' / 'mlflow.db'}"
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    yield MlflowClient(uri)
    mlflow.set_tracking_uri(before)


def test_mlflow_finds_what_serves_and_its_files_score_the_same(
    site: Site, registry: MlflowClient, tmp_path: Path
) -> None:
    assert [model.name for model in registry.search_registered_models()] == ["fraud"]
    version = registry.get_model_version_by_alias("fraud", "champion")
    with httpx.Client(base_url=site.url, headers=site.headers, timeout=30) as client:
        served = client.get("/v2/models/fraud").raise_for_status().json()
        assert served["versions"] == [str(version.version)]
        folder = mlflow.artifacts.download_artifacts(version.source, dst_path=str(tmp_path))
        (file,) = Path(folder).rglob(MODEL)
        session = onnxruntime.InferenceSession(str(file))
        matrix = (
            np.random.default_rng(3).normal(size=(5, len(site.model.signature.inputs))).astype(np.float32)
        )
        for at, item in enumerate(site.model.signature.inputs):
            if item.vocabulary is not None:
                matrix[:, at] = 0.0
        outputs = session.run(None, {session.get_inputs()[0].name: matrix})
        tensor = {"name": "inputs", "shape": list(matrix.shape), "datatype": "FP32", "data": matrix.tolist()}
        answer = client.post("/v2/models/fraud/infer", json={"inputs": [tensor]}).raise_for_status().json()
    scores = answer["outputs"][0]["data"]
    assert any(np.allclose(np.asarray(one).reshape(5, -1)[:, -1], scores, atol=1e-5) for one in outputs)


def test_mlflow_reads_how_a_version_came_to_be(registry: MlflowClient) -> None:
    version = registry.get_model_version_by_alias("fraud", "champion")
    run = registry.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics
    assert version.tags


def test_feast_reads_what_the_stream_wrote(site: Site) -> None:
    """By a store of a user's own, of the repository alone; the gateway's read of the same is the judge."""
    store = feast.FeatureStore(repo_path=str(repository(site.settings)))
    assert "card_activity" in [view.name for view in store.list_feature_views()]
    cards = list(dict.fromkeys(event["card_id"] for event in site.events))[:5]
    features = [f"card_activity:{name}" for name in NAMES]
    rows = [{"tenant": TENANT, "card_id": card} for card in (*cards, "0-0-0")]
    found = store.get_online_features(features, rows).to_dict()
    with httpx.Client(base_url=site.url, headers=site.headers, timeout=30) as client:
        for at, card in enumerate(cards):
            told = client.get(f"/api/v1/features/card_activity/{card}").raise_for_status().json()["features"]
            for name in NAMES:
                assert found[name][at] == told[name]["value"], (card, name)
    assert max(found["count_1h"][:-1]) >= 1
    others = store.get_online_features(features, [{"tenant": OTHER, "card_id": cards[0]}]).to_dict()
    assert not others["count_1h"][0]


def test_feasts_command_lists_the_views(site: Site) -> None:
    command = [str(Path(sys.executable).with_name("feast")), "-c", str(repository(site.settings))]
    root = str(Path(__file__).resolve().parents[3])
    done = subprocess.run(
        [*command, "feature-views", "list"],
        env={"PYTHONPATH": root, "PATH": "/usr/bin:/bin", "HOME": str(site.settings.root)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "card_activity" in done.stdout
