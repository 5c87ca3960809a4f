"""Whether images are those that a study was made from; where not, in words what differs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from resomap.config.schema import ResoMapConfig
from resomap.config.yaml_text import parse
from resomap.errors import StudyError
from resomap.evaluation.store import stored_names
from resomap.layout import StudyLayout
from resomap.printable import counted, listed, printable
from resomap.records import ImageDataset
from resomap.serialize import DAMAGE
from resomap.study import build
from resomap.study.runs import stored_runs

if TYPE_CHECKING:
    from resomap.study.load import Study


def open_images(config: ResoMapConfig, layout: StudyLayout | None = None) -> tuple[ImageDataset, StudyLayout]:
    """The configuration's images for a stage of the study that lies at `layout` (None: where the configuration says).

    Raises:
        DatasetError: there are no images.
        StudyError: the study was made from others.
    """
    images = build.dataset(config)
    layout = layout or build.layout(config, images)
    check_images(config, layout, images)
    return images, layout


def check_images(config: ResoMapConfig, layout: StudyLayout, images: ImageDataset) -> None:
    """Nothing where they are the study's own, or there is no study yet.

    Raises:
        StudyError: the study was made from others.
    """
    stored = stored_fingerprint(layout)
    if stored is not None and stored != build.fingerprint(config, images):
        raise StudyError(
            f"{printable(layout.root)} was not made from the images of {printable(images.root)} as they are now "
            f"(then -> now): {images_in_words(layout, images)}. Restore them, give the study's own images with --data, "
            "or start a study of these: `resomap run` with another --output"
        )


def stored_fingerprint(layout: StudyLayout) -> str | None:
    """Of the images that the study was made from; None where no study is, or it does not say."""
    try:
        return str(parse(layout.config_path.read_text("utf-8"))["provenance"]["data_fingerprint"])
    except DAMAGE:  # written by hand, or by an earlier version: its runs know
        for record in stored_runs(layout):
            found = record.determinants.get("protocol", {}).get("images")
            if found is not None:
                return str(found)
    return None


def images_in_words(layout: StudyLayout, images: ImageDataset) -> str:
    """What differs between the images of a study and these, as far as the study keeps it: classes, counts, names."""
    from resomap.study.load import Study  # brings pandas, which a study whose images are its own does not need

    study, found = Study(layout), list[str]()
    with contextlib.suppress(StudyError, *DAMAGE):  # what it kept is gone: less is said
        found += _classes(study.class_names, images.class_names)
        for split in dict.fromkeys([*study.about["images"], *images.splits]):
            found += _split(study, split, images)
    return "; ".join(found) or "as many images of the same classes, but the contents or names of some differ"


def _classes(then: Sequence[str], now: Sequence[str]) -> Iterator[str]:
    named = (("new", [n for n in now if n not in then]), ("gone", [n for n in then if n not in now]))
    told = [f"{listed(names)} {word}" for word, names in named if names]
    if told:
        yield f"classes: {len(then)} -> {len(now)} ({'; '.join(told)})"


def _split(study: Study, split: str, images: ImageDataset) -> Iterator[str]:
    """How many images, and, of the splits that were predicted, which came and went."""
    bad = [file["path"] for file in study.about["bad_files"].get(split, ())]
    before, after = study.about["images"].get(split, 0) + len(bad), len(images.splits.get(split, ()))
    now = {name: set(stored_names(r.image_id for r in records)) for name, records in images.splits.items()}
    then = set() if split == "train" or not before else set(study.read(study.runs[0].cell, split).image_ids)
    new = {name for name in now.get(split, ()) if then and name not in then and not any(b.endswith(name) for b in bad)}
    moved = (then - now.get(split, set())) & set().union(*now.values())
    gone = then - set().union(*now.values())
    told = [f"{len(names)} {word}, such as {printable(min(names))}"
            for word, names in (("new", new), ("gone", gone), ("in another split now", moved)) if names]  # fmt: skip
    if told or before != after:
        yield f"{split}: {before} -> {counted(after, 'image')}" + (f" ({'; '.join(told)})" if told else "")
