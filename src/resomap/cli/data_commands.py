"""resomap audit and resomap acuity."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resomap.cli.options import ConfigOption, ResolutionsOption, SetOption, configure


def audit(
    data: Annotated[str, typer.Argument(help="Folder of images, torchvision:NAME, or acuity.")],
    config: ConfigOption = None,
    overrides: SetOption = None,
    resolutions: ResolutionsOption = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write the report here.")] = None,
) -> None:
    """Look at images before training: sizes, classes, unreadable files, duplicates across splits."""
    from resomap.data.audit import audit_dataset
    from resomap.data.audit_text import format_audit
    from resomap.serialize import check_writable, write_json
    from resomap.study import build

    resolved = configure(config, overrides, {"data.source": data, "sweep.resolutions": resolutions})
    check_writable(json_path)
    report = audit_dataset(
        build.dataset(resolved),
        resolutions=tuple(resolved.sweep.resolutions),
        cache_dir=build.cache_dir(resolved),
        max_pixels=build.max_pixels(resolved),
    )
    print(format_audit(report))
    if json_path is not None:
        write_json(json_path, report)
    if report.bad_files:
        raise typer.Exit(1)


def acuity(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Write the generated data set with known answers (settings: data.acuity)."""
    from resomap.data.acuity import make_acuity
    from resomap.study import build

    resolved = configure(config, overrides, {})
    print(make_acuity(out, **build.acuity_options(resolved)))
