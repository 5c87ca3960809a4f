"""A study whose passes are launched as graphs (imitated on the CPU) is the study whose passes are not."""

import pandas as pd
import torch
from safetensors.torch import load_file


def test_a_study_is_the_same(tmp_path, cli, small_run, make_images, graphs):
    data = make_images(tmp_path / "data", splits={"train": 20, "val": 8, "test": 8})
    options = ("--models", "tiny_cnn,mobilenet_v3_small", "--resolutions", "64,96", "--epochs", "3")
    stages = ("--set", "analysis.matrix=true", "--set", "explainability.enabled=true",
              "--set", "explainability.faithfulness=false", "--set", "explainability.gallery=0")  # fmt: skip
    plain = cli(*small_run(data, *options, "--set", "system.cuda_graphs=false", output="plain"))
    assert (plain.status, graphs) == (0, [])
    graphed = cli(*small_run(data, *options, *stages, output="graphed"))
    assert graphed.status == 0, graphed.err
    assert len(graphs) == 4  # one a run
    assert all(graph.replays for graph in graphs)
    compared = {".safetensors": 0, ".parquet": 0}
    for path in sorted((tmp_path / "plain").rglob("*")):
        other = tmp_path / "graphed" / path.relative_to(tmp_path / "plain")
        if path.name == "best_model.safetensors":
            ours, theirs = load_file(path), load_file(other)
            assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []
        elif path.suffix == ".parquet":
            pd.testing.assert_frame_equal(pd.read_parquet(path), pd.read_parquet(other), check_exact=True)
        else:
            continue
        compared[path.suffix] += 1
    assert compared[".safetensors"] == 4
    assert compared[".parquet"] >= 4
