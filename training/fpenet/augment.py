"""Training crops, made in batches on the training device: warp, occlude, degrade.

All geometry is continuous: the stored crop spans 0..200, the network's 0..80. Every function takes the
generator, so a step is a function of (seed, step number) and training can be resumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from training.fpenet.layout import MIRROR
from training.fpenet.model import CROP
from training.fpenet.occlude import occlude

STORED = 200.0
# Degrees from the camera, round the head's axis, beyond which the head hides a point; between the two it may.
HIDDEN, DOUBTFUL = 118.0, 98.0


@dataclass(frozen=True, slots=True)
class Faces:
    """Everything about N faces, on one device, in the stored crop's pixels; see `dataset`.

    images (N, 200, 200) uint8, points (N, K, 2) without the shift with the yaw, hidden (N, K) -1/0/1, azimuth
    (N, K) degrees, box (N, 4), weight (N,), axis (N, 2), unit (N,), yaw (N,) radians, depth (N, 1, D, D),
    shifts (2, 68, 2).
    """

    images: Tensor
    points: Tensor
    hidden: Tensor
    azimuth: Tensor
    box: Tensor
    weight: Tensor
    axis: Tensor
    unit: Tensor
    yaw: Tensor
    depth: Tensor
    shifts: Tensor


@dataclass(frozen=True, slots=True)
class Crops:
    """Network input (B, 1, 80, 80) 0..255, target points (B, K, 2), hidden (B, K) -1/0/1, weight (B, K) of
    the points.
    """

    image: Tensor
    points: Tensor
    hidden: Tensor
    weight: Tensor


class Dice:
    """Random numbers of one step."""

    def __init__(self, seed: int, n: int, device: torch.device) -> None:
        self.n, self.device = n, device
        self.g = torch.Generator(device).manual_seed(seed)

    def uniform(self, low: float = 0.0, high: float = 1.0, *shape: int) -> Tensor:
        """(n, *shape) uniform."""
        return torch.rand((self.n, *shape), generator=self.g, device=self.device) * (high - low) + low

    def normal(self, scale: float, *shape: int) -> Tensor:
        """(n, *shape) normal."""
        return torch.randn((self.n, *shape), generator=self.g, device=self.device) * scale

    def chance(self, p: float) -> Tensor:
        """(n,) True with probability p."""
        return self.uniform() < p


def rotation(angle: Tensor) -> Tensor:
    """(n, 2, 2) from radians."""
    c, s = angle.cos(), angle.sin()
    return torch.stack([torch.stack([c, -s], 1), torch.stack([s, c], 1)], 1)


def crop_side(box: Tensor, angle: Tensor) -> Tensor:
    """(n,) longer side of the upright box round a head turned by `angle`: that of the turned ellipse in
    the box.
    """
    w, h = box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]
    c, s = angle.cos(), angle.sin()
    wide = ((w * c).square() + (h * s).square()).sqrt()
    tall = ((w * s).square() + (h * c).square()).sqrt()
    return torch.maximum(wide, tall)


def geometry(box: Tensor, d: Dice, c: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Matrix (n, 2, 2) and shift (n, 2) from crop to stored pixels, and the roll (n,) in radians."""
    rad = torch.pi / 180
    wide = d.uniform(-c["roll_max"], c["roll_max"])
    roll = torch.where(d.chance(c["roll_wide"]), wide, d.normal(c["roll_sigma"])) * rad
    flipped = d.chance(c["upside_down"])
    roll = torch.where(flipped, roll + torch.pi, roll)
    side = crop_side(box, roll) * c["enlarge"] * d.normal(c["scale"]).exp().clamp(0.75, 1.4)
    stretch = d.normal(c["stretch"]).exp()
    shear = d.normal(c["shear"])
    zero, one = torch.zeros_like(shear), torch.ones_like(shear)
    warp = torch.stack([torch.stack([stretch, shear], 1), torch.stack([zero, one], 1)], 1)
    matrix = rotation(roll) @ warp * (side / CROP)[:, None, None]
    centre = (box[:, :2] + box[:, 2:]) / 2 + d.normal(c["shift"], 2).clamp(-0.2, 0.2) * side[:, None]
    return matrix, centre - (matrix @ torch.full((2, 1), CROP / 2.0, device=box.device)).squeeze(2), roll


def final_points(faces: Faces, index: Tensor, points: Tensor, turn: Tensor) -> Tensor:
    """Add the shift with the yaw to the first 68 points of heads that were turned by `turn` (n,) radians."""
    limit = 0.5**0.5
    sine = (faces.yaw[index] - turn).sin().clamp(-limit, limit)
    features = torch.stack([sine.clamp_min(0), (-sine).clamp_min(0)], 1)
    own = torch.einsum("nf,fpc->npc", features, faces.shifts) * faces.unit[index][:, None, None]
    axis = faces.axis[index][:, None]
    normal = torch.stack([-axis[..., 1], axis[..., 0]], 2)
    moved = points[:, :68] + own[..., :1] * axis + own[..., 1:] * normal
    return torch.cat([moved, points[:, 68:]], 1)


def turned_away(azimuth: Tensor) -> Tensor:
    """1 where the head itself hides a point, -1 where it may, else 0."""
    away = azimuth.abs()
    return torch.where(away > HIDDEN, 1, torch.where(away > DOUBTFUL, -1, 0))


def field(faces: Faces, index: Tensor, yaw: Tensor, pitch: Tensor) -> Tensor:
    """(n, 2, D, D) stored pixels by which the surface moves when the head turns about the middle of its
    box.
    """
    depth = faces.depth[index]
    cells = depth.shape[-1]
    g = (torch.arange(cells, device=depth.device) + 0.5) * (STORED / cells)
    box, axis = faces.box[index], faces.axis[index]
    at = torch.stack([g.expand(cells, cells), g[:, None].expand(cells, cells)])[None]
    at = at - ((box[:, :2] + box[:, 2:]) / 2)[:, :, None, None]
    inside = (at.abs() < ((box[:, 2:] - box[:, :2]) / 2)[:, :, None, None]).all(1, keepdim=True)
    deep = depth - (depth * inside).sum((2, 3), keepdim=True) / inside.sum((2, 3), keepdim=True).clamp_min(1)
    normal = torch.stack([-axis[:, 1], axis[:, 0]], 1)
    move = torch.zeros_like(at)
    for way, angle, sign in ((axis, yaw, 1.0), (normal, pitch, -1.0)):
        way, angle = way[:, :, None, None], angle[:, None, None, None]
        along = (at * way).sum(1, keepdim=True)
        move = move + way * (along * (angle.cos() - 1) + sign * deep * angle.sin())
    return move


def sample(move: Tensor, at: Tensor) -> Tensor:
    """The field (n, 2, D, D) at stored pixels (n, m, 2), as (n, m, 2)."""
    where = (at * (2 / STORED) - 1)[:, :, None]
    return F.grid_sample(move, where, padding_mode="border", align_corners=False)[..., 0].transpose(1, 2)


def unturn(move: Tensor, at: Tensor, rounds: int = 6) -> Tensor:
    """Where what is seen at `at` (n, m, 2) lay before the turn, by fixed-point iteration."""
    source = at
    for _ in range(rounds):
        source = at - sample(move, source)
    return source


def grid(n: int, device: torch.device) -> Tensor:
    """(n * n, 2) x, y in crop pixels of the centres of n x n cells."""
    g = (torch.arange(n, device=device) + 0.5) * (CROP / n)
    return torch.stack([g.repeat(n), g.repeat_interleave(n)], 1)


def warp(images: Tensor, matrix: Tensor, shift: Tensor, move: Tensor | None = None, over: int = 2) -> Tensor:
    """(n, 1, 80, 80) crops, `over` x `over` samples a pixel; matrix and shift map crop to stored pixels;
    `move` see `field`.
    """
    n, half = CROP * over, CROP // 2
    at = grid(n, images.device) @ matrix.transpose(1, 2) + shift[:, None]
    if move is not None:
        coarse = grid(half, images.device) @ matrix.transpose(1, 2) + shift[:, None]
        back = (unturn(move, coarse) - coarse).transpose(1, 2).unflatten(2, (half, half))
        at = at + F.interpolate(back, (n, n), mode="bilinear").flatten(2).transpose(1, 2)
    at = (at * (2 / STORED) - 1).view(-1, n, n, 2)
    out = F.grid_sample(images, at, mode="bilinear", padding_mode="border", align_corners=False)
    return F.avg_pool2d(out, over) if over > 1 else out


def to_crop(points: Tensor, matrix: Tensor, shift: Tensor) -> Tensor:
    """Stored points to crop points; (n, k, 2)."""
    return (points - shift[:, None]) @ torch.linalg.inv(matrix).transpose(1, 2)


def mirror(image: Tensor, points: Tensor, hidden: Tensor, which: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Flip the faces in `which` (n,) left to right and renumber their points."""
    order = torch.as_tensor(MIRROR, device=points.device)
    image = torch.where(which[:, None, None, None], image.flip(3), image)
    turned = points[:, order] * torch.tensor([-1.0, 1.0], device=points.device) + torch.tensor(
        [float(CROP), 0.0], device=points.device
    )
    points = torch.where(which[:, None, None], turned, points)
    return image, points, torch.where(which[:, None], hidden[:, order], hidden)


def photometric(x: Tensor, d: Dice) -> Tensor:
    """Exposure, contrast, gamma and a lighting ramp; x (n, 1, 80, 80) in 0..1."""

    def col(t: Tensor) -> Tensor:
        return t[:, None, None, None]

    x = x.clamp(1e-3, 1) ** col(d.normal(0.35).exp())
    mean = x.mean((2, 3), keepdim=True)
    x = (x - mean) * col(d.normal(0.3).exp()) + mean + col(d.normal(0.12))
    g = torch.linspace(-1, 1, CROP, device=x.device)
    ramp = d.normal(0.15, 1, 1, 1) * g[None, None, None] + d.normal(0.15, 1, 1, 1) * g[None, None, :, None]
    return x + ramp * col(d.chance(0.4).float())


def blur(x: Tensor, d: Dice, radius: int = 4) -> Tensor:
    """Oriented Gaussians, long ones like camera shake, for two fifths of the crops."""
    a = torch.arange(-radius, radius + 1, device=x.device, dtype=torch.float32)
    yx = torch.stack(torch.meshgrid(a, a, indexing="ij"), -1).view(1, -1, 2) @ rotation(d.uniform(0, 3.1416))
    on = d.chance(0.4)
    tiny = torch.full_like(d.uniform(), 0.2)
    s1 = torch.where(on, d.uniform(0.2, 1.3), tiny)
    s2 = torch.where(on & d.chance(0.3), s1 + d.uniform(0.0, 1.7), s1)
    k = (-(yx[..., 0] / s1[:, None]).square() / 2 - (yx[..., 1] / s2[:, None]).square() / 2).exp()
    k = (k / k.sum(1, keepdim=True)).view(-1, 1, 2 * radius + 1, 2 * radius + 1)
    pad = F.pad(x, (radius,) * 4, mode="replicate")
    return F.conv2d(pad.transpose(0, 1), k, groups=len(x)).transpose(0, 1)


_LUMA = [
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
]  # fmt: skip


def jpeg(x: Tensor, quality: Tensor) -> Tensor:
    """Quantise 8 x 8 DCT blocks as JPEG's luminance does; x (n, 1, h, w) 0..1, h and w multiples of 8;
    quality (n,).
    """
    n, _, h, w = x.shape
    i = torch.arange(8, device=x.device, dtype=torch.float32)
    dct = (((i[None] + 0.5) * i[:, None]) * (torch.pi / 8)).cos() * 0.5
    dct[0] *= 0.5**0.5
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality) / 100
    table = torch.tensor(_LUMA, device=x.device, dtype=torch.float32).view(8, 8)
    q = (table[None] * scale[:, None, None]).round().clamp(1, 255)[:, None, None]
    b = x.mul(255).sub(128).view(n, h // 8, 8, w // 8, 8).transpose(2, 3)
    b = dct.T @ ((dct @ b @ dct.T / q).round() * q) @ dct
    return b.transpose(2, 3).reshape(n, 1, h, w).add(128).div(255)


def degrade(x: Tensor, d: Dice, c: dict[str, Any], seed: int) -> Tensor:
    """Sensor noise, low resolution and JPEG. The batch is cut in slices, every other one shrunk to a size
    of its own.
    """
    strength = d.uniform().square() * d.chance(0.5) * c["noise"]
    x = x + d.normal(1.0, 1, CROP, CROP) * strength[:, None, None, None]
    quality = torch.where(d.chance(0.5), d.uniform(12, 95), torch.full_like(d.uniform(), 99))
    sizes = torch.Generator().manual_seed(seed)
    out = []
    for i, (part, q) in enumerate(zip(x.chunk(c["slices"]), quality.chunk(c["slices"]), strict=True)):
        if i % 2:
            small = 8 * int(torch.randint(c["smallest"] // 8, 9, (), generator=sizes))
            part = F.interpolate(part, (small, small), mode="bilinear", antialias=True)
        part = jpeg(part, q)
        if part.shape[-1] != CROP:
            part = F.interpolate(part, (CROP, CROP), mode=("bilinear", "bicubic")[i // 2 % 2])
        out.append(part)
    return torch.cat(out)


def jigsaw(x: Tensor, which: Tensor, order: Tensor) -> Tensor:
    """Shuffle the 4 x 4 tiles of the crops in `which`: pictures with a face's texture that are no face."""
    t = CROP // 4
    tiles = x.view(-1, 4, t, 4, t).transpose(2, 3).reshape(-1, 16, t, t)[:, order]
    mixed = tiles.view(-1, 4, 4, t, t).transpose(2, 3).reshape(-1, 1, CROP, CROP)
    return torch.where(which[:, None, None, None], mixed, x)


def turn(faces: Faces, index: Tensor, d: Dice, c: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Turn some heads in space: the field, the points (n, K, 2) and hidden (n, K) afterwards, in stored
    pixels.

    Heads that look away already are turned back rather than on, for what would come into view is not in the
    picture.
    """
    rad = torch.pi / 180
    on = d.chance(c["turned"])
    yaw = d.normal(c["turn_sigma"]).clamp(-c["turn_max"], c["turn_max"]) * rad * on
    pitch = d.normal(c["nod_sigma"]).clamp(-c["turn_max"], c["turn_max"]) * rad * on
    far = (faces.yaw[index] - yaw).abs() > c["turn_limit"] * rad
    yaw = torch.where(far & (faces.yaw[index] * yaw < 0), -yaw, yaw)
    move = field(faces, index, yaw, pitch)
    points = faces.points[index]
    points = final_points(faces, index, points + sample(move, points), yaw)
    away = turned_away(faces.azimuth[index] - yaw[:, None] / rad)
    hidden = torch.where(
        away == 1, 1, torch.where((away == -1) & (faces.hidden[index] == 0), -1, faces.hidden[index])
    )
    return move, points, hidden


def make(faces: Faces, index: Tensor, seed: int, c: dict[str, Any]) -> Crops:
    """The training batch of one step."""
    d = Dice(seed, len(index), index.device)
    matrix, shift, roll = geometry(faces.box[index], d, c)
    move, points, hidden = turn(faces, index, d, c)
    image = warp(faces.images[index][:, None].float() / 255, matrix, shift, move)
    points = to_crop(points, matrix, shift)
    image, points, hidden = mirror(image, points, hidden, d.chance(0.5))
    image, covered = occlude(image, points, d, c)
    hidden = torch.where(covered > 0.8, 1, torch.where((covered > 0.2) & (hidden == 0), -1, hidden))
    scrambled = d.chance(c["jigsaw"])
    image = jigsaw(image, scrambled, torch.randperm(16, generator=d.g, device=index.device))
    nonsense = scrambled | (roll.cos() < -0.3)
    out = torch.relu(-points).amax(2) + torch.relu(points - CROP).amax(2)
    hidden = torch.where(nonsense[:, None] | (out > 1), 1, hidden)
    weight = faces.weight[index][:, None] * (1 - out / 4).clamp(0, 1) * (~nonsense)[:, None]
    image = degrade(blur(photometric(image, d), d), d, c, seed).clamp(0, 1).mul(255).round()
    return Crops(image, points.clamp(0.5, CROP - 0.5), hidden, weight)


def plain(faces: Faces, index: Tensor, enlarge: float, roll: float = 0.0) -> Crops:
    """Undisturbed crops for validation, turned by `roll` degrees."""
    box = faces.box[index]
    angle = torch.full((len(index),), roll * torch.pi / 180, device=index.device)
    side = crop_side(box, angle) * enlarge
    matrix = rotation(angle) * (side / CROP)[:, None, None]
    centre = (box[:, :2] + box[:, 2:]) / 2
    shift = centre - (matrix @ torch.full((2, 1), CROP / 2.0, device=box.device)).squeeze(2)
    image = warp(faces.images[index][:, None].float() / 255, matrix, shift).mul(255).round()
    none = torch.zeros_like(angle)
    points = to_crop(final_points(faces, index, faces.points[index], none), matrix, shift)
    away = turned_away(faces.azimuth[index])
    return Crops(
        image,
        points,
        torch.where(away == 0, faces.hidden[index], away),
        faces.weight[index][:, None].expand(-1, points.shape[1]),
    )
