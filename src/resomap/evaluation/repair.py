"""A trained network made ready for another input size: BatchNorm's statistics, and the classifier.

Larger or smaller images than those of the training change the statistics of the maps, and what the classifier gets
(FixRes, Touvron et al. 2019, arXiv:1906.06423).
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from resomap.data.loaders import EvalLoader, to_model_input
from resomap.models.weights import classifier_names

_BN_IMAGES = 1024
_HEAD_EPOCHS = 1
_HEAD_RATE = 1e-3


def reestimate_batch_norm(network: nn.Module, loader: EvalLoader, *, device: str, images: int = _BN_IMAGES) -> None:
    """Mean and variance of every BatchNorm as averages over training batches, each batch weighing as much as it has
    images; nothing for other networks.

    Side effects: the network is left in evaluation mode, also after an error.
    """
    layers = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    averaged: Counter[nn.Module] = Counter()

    def weigh(layer: nn.modules.batchnorm._BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        averaged[layer] += len(inputs[0])
        layer.momentum = len(inputs[0]) / averaged[layer]

    hooks = [layer.register_forward_pre_hook(weigh) for layer in layers]
    network.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.train()
    seen = 0
    try:
        with torch.no_grad():
            for batch in loader:
                inputs, labels = to_model_input(batch, torch.device(device), non_blocking=True, channels_last=True)
                if len(labels) > 1 or seen == 0:
                    network(inputs)
                seen += len(labels)
                if seen >= images:
                    break
    finally:
        for layer, momentum, hook in zip(layers, momenta, hooks, strict=True):
            layer.momentum = momentum
            hook.remove()
        network.eval()


def finetune_head(network: nn.Module, loader: EvalLoader, *, device: str) -> None:
    """One epoch of the classifier (every head, where there are several), and of BatchNorm's scales and shifts, on
    training images of the test resolution; all else stays, BatchNorm's statistics too (FixRes, arXiv:1906.06423,
    section 4). Gradients of an update's micro-batches are accumulated."""
    heads = [network.get_submodule(name) for name in classifier_names(network)]
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    network.requires_grad_(False)
    trained = list(dict.fromkeys(p for module in (*heads, *norms) for p in module.parameters()))
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr=_HEAD_RATE, weight_decay=0.0)
    optimizer.zero_grad(set_to_none=True)
    network.eval()
    for _ in range(_HEAD_EPOCHS):
        for batch in loader:
            inputs, labels = to_model_input(batch, torch.device(device), non_blocking=True, channels_last=True)
            loss = cross_entropy(network(inputs).float(), labels) * batch.share
            loss.backward()
            if batch.ends_update:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
