"""Per-image predictions on disk: parquet, one row an image.

Columns: image_id (text), label and prediction (int64), probabilities (list of K float32). The schema's metadata holds
the class names, the condition and the run, so that a file found alone can be understood.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from resomap.errors import StudyError, printable
from resomap.records import Cell, Condition, Predictions
from resomap.serialize import to_json, write_atomic

_KEY = b"resomap"


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
            "image_id": pa.array(_encodable(predictions.image_ids), pa.string()),
            "label": pa.array(predictions.labels, pa.int64()),
            "prediction": pa.array(predictions.predicted, pa.int64()),
            "probabilities": pa.FixedSizeListArray.from_arrays(flat, num_classes),
        }
    ).replace_schema_metadata({_KEY: to_json(about, indent=None).encode("utf-8", "backslashreplace")})
    return write_atomic(path, lambda stream: pq.write_table(table, stream, compression="zstd"))


def _encodable(image_ids: np.ndarray) -> list[str]:
    """Names that are no valid UTF-8 on disk, with the odd bytes shown."""
    return [str(i).encode("utf-8", "backslashreplace").decode() for i in image_ids]


def read_predictions(path: str | Path) -> Predictions:
    """Read what write_predictions stored.

    Raises:
        StudyError: missing, damaged, or not written by ResoMap.
    """
    with _readable(path) as known:
        table = pq.read_table(known)
        names = tuple(str(name) for name in json.loads(table.schema.metadata[_KEY])["class_names"])
        flat = table["probabilities"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return Predictions(
            image_ids=np.array(table["image_id"].to_pylist()),
            labels=table["label"].to_numpy(),
            probabilities=flat.reshape(-1, len(names)),
            class_names=names,
        )


def read_answers(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """(labels, predictions), both (N,) int64: without probabilities and names, which are most of a file.

    Raises:
        StudyError: as read_predictions.
    """
    with _readable(path) as known:
        table = pq.read_table(known, columns=["label", "prediction"])
        return table["label"].to_numpy(), table["prediction"].to_numpy()


@contextmanager
def _readable(path: str | Path) -> Iterator[Path]:
    """What goes wrong while the file is read, as one line."""
    try:
        yield Path(path)
    except FileNotFoundError:
        raise StudyError(f"{printable(path)} is missing; run the study again to evaluate that run") from None
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as damage:
        first = printable(str(damage).splitlines()[0] if str(damage) else repr(damage))
        raise StudyError(
            f"{printable(path)} is damaged ({first}); delete the run's folder under checkpoints/ and run again"
        ) from damage
