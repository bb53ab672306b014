"""The network: a Recombinator (Honari et al., CVPR 2016) small enough for a CPU.

Four encoder scales (40, 20, 10, 5 cells a side); each finer branch concatenates the upsampled coarser
features with its own scale's and convolves. Concatenation followed by a 1 x 1 convolution is written as the
sum of two 1 x 1 convolutions, the coarse one before the upsampling: the same map for less work. Blocks are
depthwise separable with a residual.

The maps are 40 x 40 (one cell = 2 x 2 crop pixels). `conv_keypoints_m80` repeats every cell 2 x 2, so the
expectation over its softmax is exactly the soft-argmax. Coordinates are continuous: the crop spans 0..80, the
first pixel's centre is 0.5.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CROP, CELLS = 80, 40
LOCAL = (
    14  # channels of the finest features that visibility reads at the point; with x and y, one register row
)


class Output(NamedTuple):
    """logits (N, K, 1600), points (N, K, 2) crop pixels, peak (N, K) of the softmax, hidden (N, K) logit
    of occluded.
    """

    logits: Tensor
    points: Tensor
    peak: Tensor
    hidden: Tensor


def conv(i: int, o: int, k: int = 3, stride: int = 1, groups: int = 1, act: bool = True) -> nn.Sequential:
    """Convolution, batch norm and, if asked for, ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(i, o, k, stride, k // 2, groups=groups, bias=False),
        nn.BatchNorm2d(o),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if act else nn.Sequential(*layers)


class Block(nn.Module):
    """Depthwise k x k, pointwise, residual."""

    def __init__(self, c: int, k: int) -> None:
        super().__init__()
        self.depth, self.point = conv(c, c, k, groups=c), conv(c, c, 1, act=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.point(self.depth(x)))


class Down(nn.Module):
    """Depthwise 5 x 5 with stride 2, pointwise to more channels."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.net = nn.Sequential(conv(i, i, 5, 2, groups=i), conv(i, o, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


class Recombine(nn.Module):
    """ReLU(1 x 1 of [upsampled coarse features, own features])."""

    def __init__(self, coarse: int, own: int, out: int) -> None:
        super().__init__()
        self.coarse = nn.Conv2d(coarse, out, 1, bias=False)
        self.own = conv(own, out, 1, act=False)

    def forward(self, coarse: Tensor, own: Tensor) -> Tensor:
        return F.relu(F.interpolate(self.coarse(coarse), scale_factor=2.0, mode="nearest") + self.own(own))


def blocks(c: int, kernels: list[int]) -> nn.Sequential:
    """One `Block` per kernel size."""
    return nn.Sequential(*(Block(c, k) for k in kernels))


class Fpenet(nn.Module):
    """Input (N, 1, 80, 80) gray 0..255."""

    grid: Tensor

    def __init__(self, points: int, c: dict[str, Any]) -> None:
        super().__init__()
        e, d, ke, kd = c["encoder"], c["decoder"], c["encoder_kernels"], c["decoder_kernels"]
        self.stem = nn.Sequential(conv(1, e[0], 5, 2), blocks(e[0], ke[0]))
        self.down = nn.ModuleList(
            nn.Sequential(Down(e[i], e[i + 1]), blocks(e[i + 1], ke[i + 1])) for i in range(3)
        )
        widths = [e[3], *d]
        self.mix = nn.ModuleList(Recombine(widths[i], e[2 - i], d[i]) for i in range(3))
        self.refine = nn.ModuleList(blocks(d[i], kd[i]) for i in range(3))
        self.head = nn.Parameter(torch.randn(points, d[2]) * 0.1)
        self.scene = nn.Sequential(
            conv(e[3], c["scene"], 1), nn.Flatten(), nn.Linear(c["scene"] * 25, c["hidden"]), nn.ReLU()
        )
        self.hidden = nn.Linear(c["hidden"], points)
        self.look = nn.Linear(LOCAL + 1, c["look"])
        self.seen = nn.Parameter(torch.randn(points, c["look"]) * 0.05)
        g = (torch.arange(CELLS) + 0.5) * (CROP / CELLS)
        self.register_buffer(
            "grid", torch.stack([g.repeat(CELLS), g.repeat_interleave(CELLS)], 1), persistent=False
        )

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Finest decoder features (N, C, 1600) and coarsest encoder features (N, C, 5, 5)."""
        mean = x.mean((2, 3), keepdim=True)
        std = (x - mean).square().mean((2, 3), keepdim=True).add(36.0).sqrt()
        own = [self.stem((x - mean) / std)]
        for down in self.down:
            own.append(down(own[-1]))
        y = own[3]
        for i in range(3):
            y = self.refine[i](self.mix[i](y, own[2 - i]))
        return y.flatten(2), own[3]

    def read(self, p: Tensor, fine: Tensor) -> Tensor:
        """(N, K, 2 + LOCAL): expectation of x, y and of the first features under the maps p (N, K, 1600)."""
        table = torch.cat(
            [self.grid.to(p.dtype).expand(p.shape[0], -1, -1), fine[:, :LOCAL].transpose(1, 2)], 2
        )
        return p @ table

    def occluded(self, read: Tensor, peak: Tensor, coarse: Tensor) -> Tensor:
        """(N, K) logit, from the whole scene and from what is seen at the point and how sharply it is
        placed.
        """
        local = torch.cat([read[:, :, 2:], peak[:, :, None].clamp_min(1e-6).log()], 2)
        out: Tensor = self.hidden(self.scene(coarse)) + (F.relu(self.look(local)) * self.seen).sum(2)
        return out

    def forward(self, x: Tensor) -> Output:
        fine, coarse = self.features(x)
        logits = (self.head.to(fine.dtype) @ fine).float()
        p = logits.softmax(2)
        points = p @ self.grid
        peak = p.amax(2)
        hidden = self.occluded(self.read(p.detach(), fine.float()), peak.detach(), coarse)
        return Output(logits, points, peak, hidden.float())
