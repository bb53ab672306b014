"""Step 4: train. Resumable (`checkpoint.pt`), seeded per step, on a GPU if there is one.

Writes `log.csv`, `curve.png`, `checkpoint.pt` and, at the end, `weights.pt` (the averaged weights) into the
run's folder.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from training.fpenet.augment import Crops, Faces, make, plain
from training.fpenet.layout import POINTS
from training.fpenet.model import CELLS, CROP, Fpenet, Output
from training.fpenet.settings import Settings, load, parser


def read_faces(path: Path, device: torch.device, spread: float) -> tuple[Faces, Tensor, list[str]]:
    """All faces, their folds and sources."""
    z = np.load(path)
    blob, start = z["blob"], z["start"]
    images = np.stack([np.asarray(Image.open(io.BytesIO(blob[a:b].tobytes()))) for a, b in pairwise(start)])
    arrays = {
        "images": images, "hidden": z["hidden"].astype(np.int64), "azimuth": z["azimuth"].astype(np.float32),
        "weight": 1 / (1 + (z["spread"] / spread) ** 2), "depth": z["depth"][:, None].astype(np.float32),
    }  # fmt: skip
    arrays |= {k: z[k] for k in ("points", "box", "axis", "unit", "yaw", "shifts")}
    faces = Faces(**{k: torch.from_numpy(np.ascontiguousarray(a)).to(device) for k, a in arrays.items()})
    return faces, torch.from_numpy(z["fold"].astype(np.int64)).to(device), z["source"].tolist()


def wing(error: Tensor, w: float, eps: float) -> Tensor:
    """Feng et al. 2018: logarithmic below `w`, linear above."""
    e = error.abs()
    return torch.where(e < w, w * torch.log1p(e / eps), e - w + w * math.log1p(w / eps))


def heatmap_loss(logits: Tensor, points: Tensor, sigma: float) -> Tensor:
    """(N, K) cross entropy of the maps with a Gaussian at the point; sigma in cells."""
    g = torch.arange(CELLS, device=points.device) + 0.5
    at = points * (CELLS / CROP)
    x, y = (torch.softmax(-(g - at[..., i : i + 1]).square() / (2 * sigma**2), -1) for i in (0, 1))
    free = logits.logsumexp(2)
    fit = torch.einsum("nkij,nki,nkj->nk", logits.unflatten(2, (CELLS, CELLS)), y, x)
    return free - fit


def losses(out: Output, batch: Crops, c: dict[str, Any]) -> dict[str, Tensor]:
    """The three terms, each a scalar, and the mean error in crop pixels."""
    kind = torch.ones(POINTS, device=out.points.device)
    kind[68:] = c["extras"]
    weight = batch.weight * kind
    total = weight.sum().clamp_min(1)
    error = out.points - batch.points
    known = batch.hidden >= 0
    bce = F.binary_cross_entropy_with_logits(out.hidden, (batch.hidden == 1).float(), reduction="none")
    return {
        "wing": (wing(error, c["wing_w"], c["wing_eps"]).sum(2) * weight).sum() / total,
        "heatmap": (heatmap_loss(out.logits, batch.points, c["heatmap_sigma"]) * weight).sum() / total,
        "visibility": (bce * known).sum() / known.sum(),
        "pixels": (error.detach().norm(dim=2) * weight).sum() / total,
    }


class Average:
    """Exponential moving average of weights and buffers."""

    def __init__(self, net: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {k: v.detach().clone() for k, v in net.state_dict().items()}

    def update(self, net: torch.nn.Module, step: int) -> None:
        """Follow the net; faster in the beginning."""
        decay = min(self.decay, (1 + step) / (10 + step))
        mine, theirs = [], []
        for k, v in net.state_dict().items():
            if v.dtype.is_floating_point:
                mine.append(self.state[k])
                theirs.append(v.detach())
            else:
                self.state[k].copy_(v)
        torch._foreach_lerp_(mine, theirs, 1 - decay)


def learning_rate(step: int, steps: int, c: dict[str, Any]) -> float:
    """Linear warm-up, then a cosine to a thousandth."""
    rise = min(1.0, (step + 1) / c["warmup"])
    return float(c["lr"]) * rise * (0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * step / steps)))


@torch.no_grad()
def validate(net: Fpenet, faces: Faces, index: Tensor, enlarge: float, roll: float = 0.0) -> float:
    """Median NME (%, inter-ocular, 68 points) against the labels."""
    net.eval()
    found = []
    for part in index.split(512):
        batch = plain(faces, part, enlarge, roll)
        points, truth = net(batch.image).points[:, :68], batch.points[:, :68]
        unit = (truth[:, 36] - truth[:, 45]).norm(dim=1)
        found.append((points - truth).norm(dim=2).mean(1) / unit)
    net.train()
    return float(torch.cat(found).median() * 100)


class Run:
    """One training run: its state, its folder, its log."""

    def __init__(self, s: Settings, args: argparse.Namespace) -> None:
        self.c, self.a = s.section("train"), s.section("augment")
        self.c["lr"] = args.lr or self.c["lr"]
        self.seed, self.steps, self.batch = (
            s.seed,
            args.steps or self.c["steps"],
            args.batch or self.c["batch"],
        )
        self.out = Path(args.out) if args.out else s.work / "run"
        self.out.mkdir(parents=True, exist_ok=True)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # compiled bfloat16 learned nothing on a CPU: its gradients have a cosine of .7 with those of float32
        self.half = self.device.type == "cuda"
        torch.manual_seed(self.seed)
        self.net = Fpenet(POINTS, s.section("model")).to(self.device)
        self.opt = torch.optim.AdamW(
            self.net.parameters(),
            self.c["lr"],
            weight_decay=self.c["weight_decay"],
            fused=True,
        )
        self.ema = Average(self.net, self.c["ema"])
        self.faces, self.fold, _ = read_faces(
            args.dataset or s.work / "dataset.npz", self.device, self.c["spread"]
        )
        self.train_index = torch.nonzero(self.fold == 0).flatten()
        self.step = 0
        self.rows: list[dict[str, Any]] = []
        if args.init:
            self._begin_with(args.init)
        self._resume(args.resume or self.out / "checkpoint.pt")
        self.terms: Any = torch.compile(self._terms) if args.compile else self._terms

    def _terms(self, image: Tensor, points: Tensor, hidden: Tensor, weight: Tensor) -> dict[str, Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            out = self.net(image)
        return losses(out, Crops(image, points, hidden, weight), self.c)

    def _begin_with(self, path: Path) -> None:
        """Start from finished weights; layers that they lack keep their random ones."""
        lacking = self.net.load_state_dict(
            torch.load(path, map_location=self.device, weights_only=True), strict=False
        )
        print("not in the weights:", lacking.missing_keys, "not in the network:", lacking.unexpected_keys)
        self.ema = Average(self.net, self.c["ema"])

    def _resume(self, path: Path) -> None:
        if path.exists():
            z = torch.load(path, map_location=self.device, weights_only=False)
            self.net.load_state_dict(z["net"])
            self.opt.load_state_dict(z["opt"])
            self.ema.state, self.step, self.rows = z["ema"], z["step"], z["rows"]

    def save(self) -> None:
        """Checkpoint, log and curve."""
        state = {
            "net": self.net.state_dict(),
            "opt": self.opt.state_dict(),
            "ema": self.ema.state,
            "step": self.step,
            "rows": self.rows,
        }
        torch.save(state, self.out / "checkpoint.tmp")
        (self.out / "checkpoint.tmp").rename(self.out / "checkpoint.pt")
        if self.rows:
            with (self.out / "log.csv").open("w") as f:
                keys = list(dict.fromkeys(k for r in self.rows for k in r))
                w = csv.DictWriter(f, keys)
                w.writeheader()
                w.writerows(self.rows)
            curve(self.rows, self.out / "curve.png")

    def one(self) -> dict[str, Tensor]:
        """One optimiser step."""
        g = torch.Generator(self.device).manual_seed(self.seed * 7919 + self.step)
        index = self.train_index[
            torch.randint(len(self.train_index), (self.batch,), generator=g, device=self.device)
        ]
        with torch.no_grad():
            batch = make(self.faces, index, self.seed * 104729 + self.step, self.a)
        for group in self.opt.param_groups:
            group["lr"] = learning_rate(self.step, self.steps, self.c)
        terms: dict[str, Tensor] = self.terms(batch.image, batch.points, batch.hidden, batch.weight)
        loss = (
            terms["wing"] + self.c["heatmap"] * terms["heatmap"] + self.c["visibility"] * terms["visibility"]
        )
        self.opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        self.opt.step()
        self.step += 1
        self.ema.update(self.net, self.step)
        return terms

    def score(self) -> dict[str, float]:
        """Validation medians of the averaged weights."""
        live = {k: v.clone() for k, v in self.net.state_dict().items()}
        self.net.load_state_dict(self.ema.state)
        val, held = (torch.nonzero(self.fold == k).flatten() for k in (1, 2))
        e = self.a["enlarge"]
        got = {
            "val": validate(self.net, self.faces, val, e),
            "val_roll45": validate(self.net, self.faces, val, e, 45.0),
            "held_out": validate(self.net, self.faces, held, e),
        }
        self.net.load_state_dict(live)
        return got

    def train(self, seconds: float) -> None:
        """Until the last step or until the time is up, whichever comes first."""
        end, c = time.monotonic() + seconds, self.c
        self.net.train()
        with tqdm(total=self.steps, initial=self.step, mininterval=5, dynamic_ncols=True) as bar:
            while self.step < self.steps and time.monotonic() < end:
                terms = self.one()
                bar.update()
                if self.step % 100 == 0:
                    row: dict[str, Any] = {"step": self.step} | {
                        k: round(float(v), 4) for k, v in terms.items()
                    }
                    if self.step % c["validate_every"] == 0 or self.step == self.steps:
                        row |= {k: round(v, 3) for k, v in self.score().items()}
                        bar.write(str(row))
                    self.rows.append(row)
                    bar.set_postfix(px=row["pixels"], vis=row["visibility"])
                if self.step % c["save_every"] == 0:
                    self.save()
        self.save()
        torch.save({k: v.cpu() for k, v in self.ema.state.items()}, self.out / "weights.pt")
        print(f"step {self.step} of {self.steps}", self.score())


def curve(rows: list[dict[str, Any]], path: Path) -> None:
    """Training error and validation NME over steps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, (a, b) = plt.subplots(1, 2, figsize=(11, 4))
    for key in ("wing", "pixels", "visibility"):
        a.plot([r["step"] for r in rows], [r[key] for r in rows], label=key, lw=0.8)
    a.set(xlabel="step", yscale="log", title="training batches")
    for key in ("val", "val_roll45", "held_out"):
        some = [r for r in rows if key in r]
        b.plot([r["step"] for r in some], [r[key] for r in some], label=key, marker=".")
    b.set(xlabel="step", ylabel="median NME, %", title="against the teacher")
    for axis in (a, b):
        axis.legend()
        axis.grid(alpha=0.3)
    fig.tight_layout()
    fig.savefig(path, dpi=90)
    plt.close(fig)


def main() -> None:
    """Parse, resume, train."""
    p = parser(__doc__)
    p.add_argument("--steps", type=int)
    p.add_argument("--batch", type=int)
    p.add_argument("--out", help="run folder, default <work>/run")
    p.add_argument("--dataset", type=Path)
    p.add_argument("--init", type=Path, help="weights to start from")
    p.add_argument("--lr", type=float, help="learning rate, default the config's")
    p.add_argument("--resume", type=Path, help="checkpoint to go on from, default the run folder's")
    p.add_argument("--seconds", type=float, default=1e9, help="stop (and save) after this long")
    p.add_argument("--compile", action="store_true", help="torch.compile the network")
    args = p.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    Run(load(args), args).train(args.seconds)


if __name__ == "__main__":
    main()
