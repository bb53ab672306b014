"""Synthetic occluders: blobs and boxes, borders, face masks, dark glasses, filled with texture, flat
colour or a ramp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from training.fpenet.augment import Dice

SIZE = 80


def pixels(device: torch.device) -> Tensor:
    """(6400, 2) pixel centres x, y."""
    g = torch.arange(SIZE, device=device) + 0.5
    return torch.stack([g.repeat(SIZE), g.repeat_interleave(SIZE)], 1)


def blob(centre: Tensor, half: Tensor, angle: Tensor, power: Tensor, at: Tensor) -> Tensor:
    """(n, 6400) soft mask of a turned superellipse: power 2 an ellipse, more a box."""
    c, s = angle.cos()[:, None], angle.sin()[:, None]
    dx, dy = at[None, :, 0] - centre[:, :1], at[None, :, 1] - centre[:, 1:]
    u = ((dx * c + dy * s).abs() / half[:, :1]).clamp(1e-4, 9)
    v = ((dy * c - dx * s).abs() / half[:, 1:]).clamp(1e-4, 9)
    r = (u ** power[:, None] + v ** power[:, None]) ** (1 / power[:, None])
    return torch.sigmoid((1 - r) * half.amin(1, keepdim=True) * 4)


def random_blob(points: Tensor, d: Dice, at: Tensor) -> Tensor:
    """A blob near a random point of the face."""
    pick = (d.uniform() * 68).long()
    centre = points[torch.arange(d.n, device=at.device), pick] + d.normal(8, 2)
    half = d.uniform(0.05, 0.33, 2) * SIZE
    power = torch.where(d.chance(0.5), torch.full_like(half[:, 0], 2.0), torch.full_like(half[:, 0], 16.0))
    return blob(centre, half, d.uniform(0, 3.1416) * d.chance(0.6), power, at)


def border(d: Dice, at: Tensor) -> Tensor:
    """A half plane that reaches in from outside."""
    angle = d.uniform(0, 6.2832)
    direction = torch.stack([angle.cos(), angle.sin()], 1)
    depth = (at - SIZE / 2) @ direction.T
    return torch.sigmoid((depth.T - d.uniform(8, 34)[:, None]) * 1.5)


def inside(polygon: Tensor, at: Tensor) -> Tensor:
    """(n, 6400) True inside the polygons (n, m, 2), by crossings."""
    out = torch.zeros((len(polygon), len(at)), dtype=torch.bool, device=at.device)
    x, y = at[None, :, 0], at[None, :, 1]
    for i in range(polygon.shape[1]):
        a, b = polygon[:, i - 1], polygon[:, i]
        rise = b[:, 1:] - a[:, 1:]
        cross = a[:, :1] + (y - a[:, 1:]) * (b[:, :1] - a[:, :1]) / torch.where(rise.abs() < 1e-6, 1e-6, rise)
        out ^= ((a[:, 1:] > y) != (b[:, 1:] > y)) & (x < cross)
    return out


def face_mask(points: Tensor, d: Dice, at: Tensor) -> Tensor:
    """A mask over nose, mouth and chin, its upper edge anywhere from the bridge to the lip."""
    top = points[:, 27:31][torch.arange(d.n, device=at.device), (d.uniform() * 4).long()]
    lip = points[:, 51]
    edge = top + (lip - top) * (d.uniform(0, 0.7) * d.chance(0.3))[:, None]
    polygon = torch.cat([points[:, 2:15], edge[:, None]], 1)
    middle = polygon.mean(1, keepdim=True)
    polygon = middle + (polygon - middle) * d.uniform(0.95, 1.12, 1, 1) + d.normal(0.6, 14, 2)
    return inside(polygon, at).float()


def glasses(points: Tensor, d: Dice, at: Tensor) -> Tensor:
    """Two dark lenses."""
    left, right = points[:, 36:42].mean(1), points[:, 42:48].mean(1)
    axis = right - left
    reach = axis.norm(dim=1, keepdim=True).clamp(6, 60)
    half = torch.cat([reach * d.uniform(0.3, 0.48, 1), reach * d.uniform(0.22, 0.4, 1)], 1)
    angle = torch.atan2(axis[:, 1], axis[:, 0])
    power = d.uniform(2, 5)
    return torch.maximum(blob(left, half, angle, power, at), blob(right, half, angle, power, at))


def noise(d: Dice) -> Tensor:
    """(n, 1, 80, 80) noise round a random gray, fine or coarse, weak or strong."""
    fine = d.normal(1.0, 1, SIZE, SIZE)
    coarse = F.interpolate(d.normal(1.0, 1, SIZE // 4, SIZE // 4), (SIZE, SIZE), mode="nearest")
    grain = torch.where(d.uniform(0, 1, 1, 1, 1) < 0.5, fine, coarse)
    return (d.uniform(0.2, 0.8, 1, 1, 1) + grain * d.uniform(0.05, 0.4, 1, 1, 1)).clamp(0, 1)


def filling(image: Tensor, d: Dice) -> Tensor:
    """(n, 1, 80, 80) what the occluder looks like: part of another crop, flat, a ramp or noise."""
    order = torch.randperm(d.n, generator=d.g, device=image.device)
    other = image[order].roll((23, 31), (2, 3))
    other = torch.where(d.uniform(0, 1, 1, 1, 1) < 0.5, other.flip(2), other)
    other = F.interpolate(other[:, :, 10:60, 10:60], (SIZE, SIZE), mode="bilinear")
    flat = d.uniform(-0.15, 1.15, 1, 1, 1).clamp(0, 1).expand_as(image)
    other = other + (flat - other) * 0.2 * d.chance(0.5).float()[:, None, None, None]
    g = torch.linspace(-0.5, 0.5, SIZE, device=image.device)
    ramp = (
        flat + d.normal(0.4, 1, 1, 1) * g[None, None, None] + d.normal(0.4, 1, 1, 1) * g[None, None, :, None]
    )
    kind = d.uniform(0, 1, 1, 1, 1)
    smooth = torch.where(kind < 0.65, flat, ramp) + F.interpolate(
        d.normal(0.03, 1, 20, 20), (SIZE, SIZE), mode="bilinear"
    )
    return torch.where(kind < 0.4, other, torch.where(kind < 0.8, smooth, noise(d)))


def paste(image: Tensor, total: Tensor, mask: Tensor, fill: Tensor, on: Tensor) -> tuple[Tensor, Tensor]:
    """Lay `fill` over the image where `mask`, for the crops in `on`."""
    m = (mask * on[:, None].float()).view(-1, 1, SIZE, SIZE)
    return image * (1 - m) + fill * m, torch.maximum(total, m)


def occlude(image: Tensor, points: Tensor, d: Dice, c: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Occlude a share of the crops; returns the crops and (n, k) how covered each point is, 0..1."""
    at = pixels(image.device)
    total = torch.zeros_like(image)
    any_of = d.chance(c["occluded"])
    fill = filling(image, d)
    for chance in (0.7, 0.35, 0.15):
        image, total = paste(image, total, random_blob(points, d, at), fill, any_of & d.chance(chance))
        fill = fill.roll(1, 0)
    image, total = paste(image, total, border(d, at), fill, any_of & d.chance(0.12))
    image, total = paste(image, total, face_mask(points, d, at), fill.roll(1, 0), d.chance(c["face_mask"]))
    image, total = paste(
        image, total, glasses(points, d, at), d.uniform(0, 0.25, 1, 1, 1), d.chance(c["glasses"])
    )
    where = (points / (SIZE / 2) - 1)[:, :, None]
    covered = F.grid_sample(total, where, align_corners=False, padding_mode="border")
    return image, covered[:, 0, :, 0]
