"""Evaluate, profile, explain and compare every checkpoint of a folder.

python scripts/resolution_explainability_analysis.py --checkpoint-dir checkpoints/ --output-dir analysis_results/ \
    [--data DIR] [--models vgg11,resnet18] [--resolutions 224,384] [--set explainability.images=32]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from resomap import ResolutionExplainabilityAnalyzer, ResoMapError, load_config


def main() -> int:
    """0, or 2 with one message where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint-dir", required=True, help="searched at any depth")
    parser.add_argument("--output-dir", required=True)
    parser.add_argument("--data", help="folder of images, torchvision:NAME, or acuity; default: the study's")
    parser.add_argument("--models", help="comma-separated; default: all found")
    parser.add_argument("--resolutions", help="comma-separated sides in pixels; default: all found")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any setting; repeatable")
    given = parser.parse_args()
    try:
        sides = [int(side) for side in given.resolutions.split(",")] if given.resolutions else None
    except ValueError:
        parser.error(f"--resolutions: expected comma-separated sides in pixels, got {given.resolutions!r}")
    try:
        study = Path(given.checkpoint_dir).resolve().parent / "study.yaml"
        config = load_config(
            study if study.is_file() else None, given.set, flags={"data.source": given.data} if given.data else {}
        )
        analyzer = ResolutionExplainabilityAnalyzer(
            given.checkpoint_dir,
            given.output_dir,
            models=given.models.split(",") if given.models else None,
            resolutions=sides,
            config=config,
            progress=lambda what: print(f"{what} ...", file=sys.stderr),
        )
        analyzer.run()
    except ResoMapError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(analyzer.layout.summary_text_path.read_text("utf-8"), end="")
    print(f"tables, maps and figures: {given.output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
