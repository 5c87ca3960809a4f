"""Our own small networks, built from their description in models.yaml.

Legend: B images, C channels, H W sides, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor, nn

from resomap.checks import is_whole

MAX_BLOCKS = 8
MAX_CHANNELS = 4096


@dataclass(frozen=True, slots=True)
class CnnSpec:
    """A plain network: per block convolution, batch norm, ReLU, 2x2 max pooling.

    Raises:
        ValueError: a value is out of range (descriptions also come from checkpoints of others).
    """

    channels: tuple[int, ...]
    """Output channels of each block; each block halves the side."""
    kernel_size: int = 3
    """Side of the convolution kernels; odd."""
    dropout: float = 0.0
    """Dropout before the classifier."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        if not 1 <= len(self.channels) <= MAX_BLOCKS:
            raise ValueError(f"channels: 1 to {MAX_BLOCKS} blocks, not {len(self.channels)}")
        if not all(is_whole(c) and 1 <= c <= MAX_CHANNELS for c in self.channels):
            raise ValueError(f"channels: whole numbers from 1 to {MAX_CHANNELS}, not {list(self.channels)}")
        if not is_whole(self.kernel_size) or self.kernel_size not in (1, 3, 5, 7):
            raise ValueError(f"kernel_size: 1, 3, 5 or 7, not {self.kernel_size!r}")
        if not isinstance(self.dropout, (int, float)) or not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout: 0 or more and below 1, not {self.dropout!r}")

    @property
    def stride(self) -> int:
        """Input pixels per cell of the last feature map."""
        return 2 ** len(self.channels)


DEFAULT_SPECS: Mapping[str, CnnSpec] = MappingProxyType(
    {
        "simple_cnn": CnnSpec((32, 64, 128, 256), dropout=0.2),
        "tiny_cnn": CnnSpec((16, 32, 64)),
    }
)


class SimpleCnn(nn.Module):
    """Blocks of conv, batch norm, ReLU and 2x2 max pooling; global average; linear.

    Takes (B, 3, H, W) float32 with H and W at least `spec.stride`; returns logits (B, K). No layer depends
    on H or W, so the parameters are the same at every resolution.
    """

    def __init__(self, spec: CnnSpec, *, num_classes: int) -> None:
        super().__init__()
        inputs = (3, *spec.channels[:-1])
        self.features = nn.Sequential(
            *(_block(i, o, spec.kernel_size) for i, o in zip(inputs, spec.channels, strict=True))
        )
        self.dropout = nn.Dropout(spec.dropout)
        self.classifier = nn.Linear(spec.channels[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images_BCHW: Tensor) -> Tensor:
        features_BCHW = self.features(images_BCHW)
        # A plain mean: the backward pass of adaptive pooling is not deterministic on CUDA.
        return self.classifier(self.dropout(features_BCHW.mean(dim=(2, 3))))


def _block(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    return nn.Sequential(
        # No bias: batch norm has its own.
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
    )
