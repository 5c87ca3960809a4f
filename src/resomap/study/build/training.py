"""Device, precision, the trainer and what listens to it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resomap.config.schema import ResoMapConfig
from resomap.errors import ConfigError, DeviceError
from resomap.records import Cell

if TYPE_CHECKING:
    from torch import nn

    from resomap.training.callbacks import Callback
    from resomap.training.trainer import Trainer


def device_name(config: ResoMapConfig) -> str:
    """The device asked for."""
    return config.system.device


def settle_process(config: ResoMapConfig) -> None:
    """Apply system.threads and system.keep_memory to this process."""
    import torch

    from resomap.allocator import keep_freed_memory, release_freed_memory

    if keeps_memory(config):
        keep_freed_memory()
    else:
        release_freed_memory()
    if config.system.threads is not None:
        torch.set_num_threads(config.system.threads)


def keeps_memory(config: ResoMapConfig) -> bool:
    """Whether freed memory stays with a process."""
    return config.system.keep_memory


def processes_per_run(config: ResoMapConfig) -> int:
    """Processes that a run is spread over."""
    return config.system.processes_per_run


def threads_of_a_process(config: ResoMapConfig) -> int:
    """CPU threads of each process of a run."""
    return config.system.threads or max(1, usable_cores() // config.system.processes_per_run)


def runs_at_once(config: ResoMapConfig) -> int | None:
    """Runs side by side that were asked for; None: as many as pay."""
    return config.system.runs_at_once


def may_run_side_by_side(config: ResoMapConfig) -> bool:
    """Whether more than one run at once may be chosen where none was asked for: on CPU, where one process runs cells.

    Helpers are told what to do through pipes that Windows has not, and cannot import what was typed into a notebook.
    successive_halving compares runs with those before them, so their order counts.
    """
    system = config.system
    alone = system.executor == "local" and system.processes_per_run == 1 and not config.training.successive_halving
    typed = any(name.startswith("__main__:") for name in config.sweep.models)
    return alone and not typed and os.name == "posix" and device_type(config) == "cpu"


def runs_on_a_device(config: ResoMapConfig, runs: int) -> int:
    """Of so many runs at once, those that share the memory of one device, at most."""
    import torch

    return runs if device_type(config) == "cpu" else math.ceil(runs / torch.accelerator.device_count())


def threads_of_a_run(config: ResoMapConfig, runs: int) -> int:
    """CPU threads of each of several runs at once."""
    return config.system.threads or max(1, usable_cores() // runs)


def with_threads(config: ResoMapConfig, threads: int) -> ResoMapConfig:
    """The configuration with its number of threads named."""
    return config.model_copy(update={"system": config.system.model_copy(update={"threads": threads})})


def config_of_a_run(config: ResoMapConfig, number: int, *, threads: int) -> ResoMapConfig:
    """The configuration of the helper with that number, from 1: its threads named, on an accelerator of its own."""
    import torch

    from resomap.training.device import select_device

    changed: dict[str, Any] = {"threads": threads}
    device = select_device(config.system.device)
    if device.type != "cpu":
        changed["device"] = f"{device.type}:{((device.index or 0) + number) % torch.accelerator.device_count()}"
    return config.model_copy(update={"system": config.system.model_copy(update=changed)})


@contextmanager
def threads_of_runs(config: ResoMapConfig, runs: int) -> Iterator[None]:
    """Inside, this process has the threads of one of several runs at once; where it is one, those that it had."""
    import torch

    before = torch.get_num_threads()
    if runs > 1:
        torch.set_num_threads(threads_of_a_run(config, runs))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def usable_cores() -> int:
    """CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_threads(config: ResoMapConfig) -> int:
    """Threads of each process of a run on CPU, after settle_process; without torch where the configuration says it."""
    if config.system.threads is not None or config.system.processes_per_run > 1:
        return threads_of_a_process(config)
    import torch

    return torch.get_num_threads()


def check_processes(config: ResoMapConfig, *, launched: int) -> None:
    """system.executor goes with the training, processes_per_run with the device and with how this process was started.

    Args:
        launched: processes that torchrun or accelerate started, this one included.
    Raises:
        ConfigError: a launcher has started another number already; runs on a cluster were to be compared on the way; or
            there are several ways at once to use several processes.
        DeviceError: fewer accelerators.
    """
    import torch

    from resomap.training.device import select_device

    if config.system.executor == "ray" and config.training.successive_halving:
        raise ConfigError(
            "training.successive_halving compares runs on the way, which workers of system.executor ray cannot: they "
            "see their own run alone; turn one of the two off"
        )
    wanted = config.system.processes_per_run
    if (config.system.runs_at_once or 1) > 1:
        _check_runs_at_once(config, launched=launched)
    if wanted == 1:
        return
    if launched not in (1, wanted):
        raise ConfigError(
            f"system.processes_per_run is {wanted}, but a launcher started {launched} processes; leave one of the two"
        )
    device = select_device(config.system.device)
    if device.type != "cpu" and (there := torch.accelerator.device_count()) < wanted:
        raise DeviceError(
            f"system.processes_per_run is {wanted}, but there are {there} {device.type} devices; lower it"
        )


def _check_runs_at_once(config: ResoMapConfig, *, launched: int) -> None:
    system = config.system
    if launched > 1 or system.processes_per_run > 1 or system.executor == "ray":
        raise ConfigError(
            f"system.runs_at_once is {system.runs_at_once}, which goes with one process a run on this machine: "
            "not with a launcher, system.processes_per_run or system.executor ray; leave one of the two"
        )
    if config.training.successive_halving:
        raise ConfigError(
            f"training.successive_halving compares runs with those before them, of which system.runs_at_once "
            f"{system.runs_at_once} has several at the same time; turn one of the two off"
        )
    if os.name != "posix":
        raise ConfigError(f"system.runs_at_once: expected 1 on this system, got {system.runs_at_once}")


def device_and_precision(config: ResoMapConfig) -> tuple[str, str]:
    """(device, precision) that the runs will use; DeviceError where they are not there."""
    from resomap.training.device import resolve_precision, select_device

    device = select_device(config.system.device)
    return str(device), resolve_precision(config.system.mixed_precision, device)


def device_type(config: ResoMapConfig) -> str:
    """'cpu', 'cuda', ... that the runs will use; without torch where that is the CPU by configuration."""
    return "cpu" if config.system.device == "cpu" else device_and_precision(config)[0].partition(":")[0]


def memory_format(config: ResoMapConfig) -> bool:
    """channels_last of training."""
    return config.system.channels_last is not False


def uses_graphs(config: ResoMapConfig, model: str) -> bool:
    """Whether a model's passes are launched as graphs where the device can."""
    from resomap.models.names import model_source

    asked = config.system.cuda_graphs
    if asked is not None:
        return asked
    # What must repeat to the bit shall not hang on when a pass was captured.
    return model_source(model).kind != "callable" and not config.system.deterministic


def trainer(
    config: ResoMapConfig,
    network: nn.Module,
    loaders: tuple[Any, Any],
    *,
    cell: Cell,
    state_path: Path | None = None,
    weights: Sequence[float] | None = None,
    callbacks: Sequence[Callback] = (),
) -> Trainer:
    """A Trainer for one cell, on (training, validation) loaders; nothing is saved without a state_path."""
    from resomap.training.trainer import Trainer

    training, system = config.training, config.system
    return Trainer(
        network,
        loaders[0],
        loaders[1],
        epochs=training.epochs,
        optimizer=training.optimizer,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        momentum=training.momentum,
        schedule=training.schedule,
        warmup_epochs=training.warmup_epochs,
        step_epochs=training.step_epochs,
        gamma=training.gamma,
        plateau_patience=training.plateau_patience,
        label_smoothing=training.label_smoothing,
        class_weights=weights,
        clip_grad_norm=training.clip_grad_norm,
        monitor=training.monitor,
        monitor_mode=training.monitor_mode,
        save_every_s=training.save_every_s,
        state_path=state_path,
        seed=cell.seed,
        device=system.device,
        mixed_precision=system.mixed_precision,
        channels_last=memory_format(config),
        cudnn_benchmark=system.cudnn_benchmark,
        deterministic=system.deterministic,
        non_blocking=config.data.non_blocking,
        cuda_graphs=uses_graphs(config, cell.model),
        callbacks=callbacks,
    )


def timing_trainer(config: ResoMapConfig, network: nn.Module, batches: Sequence[Any], *, cell: Cell) -> Trainer:
    """The Trainer of a run on `batches`, without validation, so that its updates can be timed."""
    # 'plateau' would ask for a validation loss; the schedule does not change what an update costs.
    training = config.training.model_copy(update={"schedule": "constant"})
    return trainer(config.model_copy(update={"training": training}), network, (batches, None), cell=cell)


def keep_best(config: ResoMapConfig, run_dir: Path, fields: Mapping[str, object]) -> list[Callback]:
    """The callbacks that keep the best weights and, where asked, stop early."""
    from resomap.training.callbacks import EarlyStopping, ModelCheckpoint

    training = config.training
    kept: list[Callback] = [
        ModelCheckpoint(
            run_dir,
            monitor=training.monitor,
            mode=training.monitor_mode,
            top_k=training.top_k,
            metadata=fields,
        )
    ]
    if training.early_stopping_patience is not None:
        kept.append(
            EarlyStopping(
                monitor=training.monitor,
                mode=training.monitor_mode,
                patience=training.early_stopping_patience,
            )
        )
    return kept


def kept_checkpoints(config: ResoMapConfig) -> int:
    """Weights files that each run leaves behind."""
    return config.training.top_k
