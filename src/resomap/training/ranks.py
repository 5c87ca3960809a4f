"""One process or many: who writes, who waits, and how a decision of the first reaches the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that `torchrun` or `accelerate launch` started."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def broadcast(self, value: Any) -> Any:
        """The first rank's `value`, on every rank."""
        if self.world_size == 1:
            return value
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world_size > 1:
            import torch.distributed as dist

            dist.barrier()

    def gather(self, value: Any) -> list[Any]:
        """Every rank's `value`, in rank order, on every rank."""
        if self.world_size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values


def connect_ranks(device: str) -> Ranks:
    """Join the processes that a launcher started; alone without one.

    Args:
        device: system.device; 'cpu' makes the processes talk over gloo.
    Raises:
        DeviceError: no such device.
    """
    from resomap.training.device import select_device
    from resomap.training.engine import process_ranks

    return Ranks(*process_ranks(select_device(device)))
