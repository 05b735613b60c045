"""A model is served only when digests, signature and golden outputs are right; else the last one stays."""

from collections.abc import Callable

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from core.errors import ModelRefused
from models import golden
from models.load import StoredModels, load
from models.store import BOOSTER, CHAMPION, GOLDEN, MANIFEST, MODEL, SIGNATURE, ModelStore, StoredModel
from tests.models import made


def test_a_good_model_scores_like_its_booster(store: ModelStore) -> None:
    model = load(store.resolve("small"))
    matrix = model.encode(made.rows(300, seed=5))
    np.testing.assert_allclose(model.score(matrix), made.booster().inplace_predict(matrix), atol=1e-6)
    assert (model.name, model.version) == ("small", "1")
    assert list(model.inputs) == ["amount_cents", "count_1h", "mean_1h", "product"]
    assert model.digest == store.resolve("small").manifest.digest
    model.check()


def test_no_rows_give_no_scores(store: ModelStore) -> None:
    model = load(store.resolve("small"))
    assert model.score(model.encode(made.rows(0))).shape == (0,)
    assert model.contributions(model.encode(made.rows(0))).shape == (0, 4)


@pytest.mark.parametrize("file", [MODEL, BOOSTER, SIGNATURE, GOLDEN])
@pytest.mark.parametrize("where", [0.0, 0.5, 0.999])
def test_one_flipped_bit_is_refused(store: ModelStore, file: str, where: float) -> None:
    path = store.resolve("small").folder / file
    data = bytearray(path.read_bytes())
    data[int(where * len(data))] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelRefused, match=f"{file} has SHA-256"):
        load(store.resolve("small"))


@pytest.mark.parametrize("file", [MODEL, BOOSTER, SIGNATURE, GOLDEN])
def test_a_cut_or_missing_file_is_refused(store: ModelStore, file: str) -> None:
    path = store.resolve("small").folder / file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelRefused, match=f"{file} has .* bytes"):
        load(store.resolve("small"))
    path.unlink()
    with pytest.raises(ModelRefused, match=f"{file} is missing"):
        load(store.resolve("small"))


def test_a_wrong_digest_in_the_manifest_is_refused(store: ModelStore) -> None:
    stored = store.resolve("small")
    path = stored.folder / MANIFEST
    right = stored.manifest.files[MODEL].sha256
    path.write_bytes(path.read_bytes().replace(right.encode(), b"0" * 64))
    with pytest.raises(ModelRefused, match="alias was set on"):
        load(store.resolve("small"))
    with pytest.raises(ModelRefused, match=r"model\.onnx has SHA-256"):
        load(store.resolve("small", "1"))


def _another_model(files: dict[str, bytes]) -> dict[str, bytes]:
    return {**files, MODEL: made.files(made.booster(seed=3))[MODEL]}


def _turned_vocabulary(files: dict[str, bytes]) -> dict[str, bytes]:
    *rest, product = made.SIGNED.inputs
    turned = msgspec.structs.replace(product, vocabulary=("W", "C", "H"))
    return {**files, SIGNATURE: msgspec.structs.replace(made.SIGNED, inputs=(*rest, turned)).to_json()}


def _swapped_inputs(files: dict[str, bytes]) -> dict[str, bytes]:
    amount, count, mean, product = made.SIGNED.inputs
    return {
        **files,
        SIGNATURE: msgspec.structs.replace(made.SIGNED, inputs=(amount, mean, count, product)).to_json(),
    }


@pytest.mark.parametrize("change", [_another_model, _turned_vocabulary, _swapped_inputs])
def test_a_golden_mismatch_is_refused(
    store: ModelStore,
    files: dict[str, bytes],
    change: Callable[[dict[str, bytes]], dict[str, bytes]],
) -> None:
    """Every digest is right here; only the golden rows can tell."""
    stored = store.publish("small", change(files), made.DESCRIPTION)
    with pytest.raises(ModelRefused, match="golden outputs differ"):
        load(stored)


def test_a_signature_of_another_width_is_refused(store: ModelStore, files: dict[str, bytes]) -> None:
    narrow = msgspec.structs.replace(made.SIGNED, inputs=made.SIGNED.inputs[:3])
    stored = store.publish("small", {**files, SIGNATURE: narrow.to_json()}, made.DESCRIPTION)
    with pytest.raises(ModelRefused, match="signature says"):
        load(stored)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"{}", "cannot be read"),
        (b"not json", "cannot be read"),
        (SIGNATURE.encode(), "cannot be read"),
        (made.SIGNED.to_json().replace(b'"count_1h"', b'"mean_1h"'), "there twice"),
        (made.SIGNED.to_json().replace(b'"W"', b'"C"'), "word 'C' twice"),
    ],
)
def test_a_bad_signature_is_refused(
    store: ModelStore, files: dict[str, bytes], text: bytes, reason: str
) -> None:
    stored = store.publish("small", {**files, SIGNATURE: text}, made.DESCRIPTION)
    with pytest.raises(ModelRefused, match=reason):
        load(stored)


@pytest.mark.parametrize(
    ("file", "reason"), [(MODEL, "ONNX Runtime"), (BOOSTER, "XGBoost"), (GOLDEN, "golden")]
)
def test_rubbish_with_the_right_digest_is_refused(
    store: ModelStore, files: dict[str, bytes], file: str, reason: str
) -> None:
    stored = store.publish("small", {**files, file: b"rubbish" * 40}, made.DESCRIPTION)
    with pytest.raises(ModelRefused, match=reason):
        load(stored)


def test_golden_rows_that_do_not_fit_the_signature_are_refused(
    store: ModelStore, files: dict[str, bytes]
) -> None:
    rows, expected = golden.unpack(files[GOLDEN], where="test")
    holed = pa.table(rows).set_column(0, "amount_cents", pa.nulls(rows.num_rows, pa.int64()))
    bad = {**files, GOLDEN: golden.pack(holed, expected, made.SIGNED)}
    with pytest.raises(ModelRefused, match="do not go through"):
        load(store.publish("small", bad, made.DESCRIPTION))


def test_the_previous_model_stays_when_the_next_is_refused(
    store: ModelStore, files: dict[str, bytes]
) -> None:
    source = StoredModels(store, "small")
    serving = source.load(source.champion())
    batch = made.rows(50)
    before = serving.score(serving.encode(batch))
    damaged: StoredModel = store.publish("small", files, made.DESCRIPTION)
    (damaged.folder / MODEL).write_bytes(b"\0" * len(files[MODEL]))
    store.set_alias("small", CHAMPION, "2")
    assert source.champion() == "2"
    with pytest.raises(ModelRefused):
        source.load("2")
    serving.check()
    np.testing.assert_array_equal(serving.score(serving.encode(batch)), before)
    assert serving.version == "1"


def test_reasons_name_what_raised_the_score(store: ModelStore) -> None:
    model = load(store.resolve("small"))
    rich = pa.record_batch(
        {
            "amount_cents": pa.array([9_900, 100]),
            "count_1h": pa.array([None, 1], pa.int32()),
            "mean_1h": pa.array([50.0, 50.0]),
            "product": pa.array(["H", "C"]),
        }
    )
    first, second = model.reasons(model.encode(rich), k=1)
    assert [(share.input, share.value) for share in first] == [("amount", 9_900.0)]
    assert [(share.input, share.value) for share in second] == [("product", "C")]
    assert first[0].contribution > 0


def test_contributions_add_up_to_the_score(store: ModelStore) -> None:
    """With the constant part, which is the same for every row, they are the log-odds."""
    model = load(store.resolve("small"))
    matrix = model.encode(made.rows(100))
    odds = model.score(matrix).astype(np.float64)
    rest = np.log(odds / (1 - odds)) - model.contributions(matrix).sum(axis=1)
    np.testing.assert_allclose(rest, rest[0], atol=1e-4)
