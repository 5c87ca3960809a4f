"""Per-image predictions on disk: parquet, one row an image.

Columns: image_id (text), label and prediction (int64), probabilities (list of K float32). The schema's metadata holds
the class names, the condition and the run, so that a file found alone can be understood, and a checksum of it all.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from resomap.errors import StudyError
from resomap.printable import printable
from resomap.records import Cell, Condition, Predictions
from resomap.serialize import DAMAGE, check_regular, digest, to_json, write_atomic

_KEY, _CHECKSUM = b"resomap", b"resomap.sha256"
_MOST_PROBABILITIES = 2**31


def write_predictions(path: Path, predictions: Predictions, *, cell: Cell, condition: Condition) -> Path:
    """Store predictions atomically.

    Raises:
        StorageError: it cannot be written.
    """
    num_classes = predictions.probabilities.shape[1]
    flat = pa.array(predictions.probabilities.astype(np.float32).reshape(-1))
    about = {"class_names": predictions.class_names, "cell": asdict(cell), "condition": asdict(condition)}
    table = pa.table(
        {
            "image_id": pa.array(stored_names(predictions.image_ids), pa.string()),
            "label": pa.array(predictions.labels, pa.int64()),
            "prediction": pa.array(predictions.predicted, pa.int64()),
            "probabilities": pa.FixedSizeListArray.from_arrays(flat, num_classes),
        }
    )
    text = to_json(about, indent=None).encode("utf-8", "backslashreplace")
    table = table.replace_schema_metadata({_KEY: text, _CHECKSUM: _checksum(table, text)})
    return write_atomic(
        path, lambda stream: pq.write_table(table, stream, compression="zstd", write_page_checksum=True)
    )


def _checksum(table: pa.Table, text: bytes) -> bytes:
    """SHA-256 of every value and of the text about them; parquet itself would let a changed one pass."""
    checksum = hashlib.sha256(text)
    for name in table.column_names:
        column = table[name].combine_chunks()
        if isinstance(column.type, pa.FixedSizeListType):
            column = column.flatten()
        values = column.to_numpy(zero_copy_only=False)
        checksum.update("\n".join(values).encode() if column.type == pa.string() else values.tobytes())
    return checksum.hexdigest().encode()


def stored_names(image_ids: Iterable[str]) -> list[str]:
    """Image ids as they are stored: of names that are no valid UTF-8 on disk, with the odd bytes shown."""
    return [str(i).encode("utf-8", "backslashreplace").decode() for i in image_ids]


def _checked_names(opened: pq.ParquetFile) -> tuple[str, ...]:
    """The class names, from the header alone; ValueError unless the columns are those that write_predictions writes.

    Rows are cheap to promise (a run of equal values takes a few bytes), so they are counted before any is read.
    """
    schema = opened.schema_arrow
    names = tuple(str(name) for name in json.loads(schema.metadata[_KEY])["class_names"])
    wanted = {"image_id": pa.string(), "label": pa.int64(), "prediction": pa.int64()}
    wanted["probabilities"] = pa.list_(pa.float32(), len(names))
    for name, kind in wanted.items():
        if schema.names.count(name) != 1 or not schema.field(name).type.equals(kind):
            raise ValueError(f"expected one column {name} of {kind}")
    rows = opened.metadata.num_rows
    if len(schema.names) != len(wanted) or rows * max(1, len(names)) > _MOST_PROBABILITIES:
        raise ValueError(f"{len(schema.names)} columns of {rows:,} rows for {len(names):,} classes")
    return names


def read_predictions(path: str | Path) -> Predictions:
    """Read what write_predictions stored.

    Raises:
        StudyError: missing, damaged, or not written by ResoMap.
    """
    with _opened(path) as (file, names):
        table = file.read()
        text, stated = table.schema.metadata[_KEY], table.schema.metadata.get(_CHECKSUM)
        if stated is not None and stated != _checksum(table, text):  # files of earlier versions have none
            raise ValueError("its checksum differs from the one that was written")
        flat = table["probabilities"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return Predictions(
            image_ids=np.array(table["image_id"].to_pylist()),
            labels=table["label"].to_numpy(),
            probabilities=flat.reshape(-1, len(names)),
            class_names=names,
        )


def read_answers(path: str | Path) -> tuple[np.ndarray, np.ndarray, str]:
    """(labels (N,), predictions (N,), hash of classes and image ids): without probabilities, which are most of a file.

    Raises:
        StudyError: as read_predictions.
    """
    with _opened(path) as (file, class_names):
        table = file.read(columns=["label", "prediction", "image_id"])
        whose = digest([class_names, table["image_id"].to_pylist()])
        return table["label"].to_numpy(), table["prediction"].to_numpy(), whose


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[pq.ParquetFile, tuple[str, ...]]]:
    """The file and its class names, its header checked; what goes wrong inside, as one line."""
    path = Path(path)
    check_regular(path, most_bytes=sys.maxsize, error=StudyError)
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file, _checked_names(file)
    except FileNotFoundError:
        raise StudyError(f"{printable(path)} is missing; run the study again to evaluate that run") from None
    except (*DAMAGE, pa.ArrowException) as damage:
        first = printable(str(damage).splitlines()[0] if str(damage) else repr(damage))
        raise StudyError(
            f"{printable(path)} is damaged ({first}); delete the run's folder under checkpoints/ and run again"
        ) from damage
