"""Would it pay to evaluate one run while the next one trains?

    python benchmarks/overlap.py [--rounds 5]

For each network: 20 updates of 32 images and the evaluation of 400 images, one after the other on all cores, and both
at once on half of the cores each, in turn. Printed: the ratio of the two (above 1: overlapping pays), and the share
that the evaluation at its end has of a usual run (30 epochs on 1200 images, 300 for validation, 600 for test): the most
that overlapping could save if it cost nothing.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from functools import partial

import torch
from torch import nn

from resomap.allocator import keep_freed_memory
from resomap.models.registry import build_model

JOBS = (("tiny_cnn", 96), ("mobilenet_v3_small", 128), ("resnet18", 96))
UPDATES, BATCH, EVALUATED = 20, 32, 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    keep_freed_memory()  # as the command line does
    cores = torch.get_num_threads()
    for model, side in JOBS:
        train, evaluate = training(model, side), evaluation(model, side)
        ratios, shares = [], []
        for round_ in range(rounds + 1):
            trained, evaluated = seconds(train), seconds(evaluate)
            together = seconds(partial(at_once, train, evaluate, cores=max(1, cores // 2)))
            if round_:
                ratios.append((trained + evaluated) / together)
                epoch = trained / (UPDATES * BATCH) * 1200 + evaluated / EVALUATED * 300
                last = evaluated / EVALUATED * 900
                shares.append(last / (30 * epoch + last))
        print(
            f"{model:20s} {side:4d} px  one after the other / at once {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f}-{max(ratios):.2f})  evaluation at the end: {statistics.median(shares):.1%} of a run"
        )


def training(model: str, side: int):  # type: ignore[no-untyped-def]
    network = build_model(model, num_classes=2, seed=0).train().to(memory_format=torch.channels_last)
    images_BCHW = torch.rand(BATCH, 3, side, side).contiguous(memory_format=torch.channels_last)
    labels_B = torch.arange(BATCH) % 2
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)

    def work() -> None:
        for _ in range(UPDATES):
            nn.functional.cross_entropy(network(images_BCHW), labels_B).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return work


def evaluation(model: str, side: int):  # type: ignore[no-untyped-def]
    network = build_model(model, num_classes=2, seed=0).eval().to(memory_format=torch.channels_last)
    images_BCHW = torch.rand(BATCH, 3, side, side).contiguous(memory_format=torch.channels_last)

    def work() -> None:
        with torch.inference_mode():
            for _ in range(EVALUATED // BATCH):
                network(images_BCHW)

    return work


def at_once(*works, cores: int) -> None:  # type: ignore[no-untyped-def]
    def limited(work) -> None:  # type: ignore[no-untyped-def]
        torch.set_num_threads(cores)  # of the thread that calls it
        work()

    threads = [threading.Thread(target=limited, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def seconds(work) -> float:  # type: ignore[no-untyped-def]
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
