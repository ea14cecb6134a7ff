"""Muon on the regularized matrices, AdamW on all other parameters, with one learning rate."""

from collections.abc import Callable
from typing import Any

import timm.optim

from tasks.engine.config import Config


class Muon(timm.optim.Muon):
    """timm's Muon, whose AdamW part has a learning rate of its own: here it follows the group's `lr`."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Do a step at each group's `lr`. Return the closure's loss, if one is given."""
        for group in self.param_groups:
            group["adamw_lr"] = group["lr"]
        return super().step(closure)


def muon(cfg: Config, groups: list[dict[str, Any]], momentum: float, nesterov: bool) -> Muon:
    """Return Muon for groups with `regularize`.

    An update of Muon is scaled to the size of AdamW's (arXiv 2502.16982), so both parts take the
    task's lr. A convolution counts as the matrix of its filters. The orthogonalization is torch's, with
    Jordan's coefficients. With Nesterov's momentum timm's AdamW would become NAdamW, so only the
    matrices have it.
    """
    adamw = {"use_muon": False, "nesterov": False, "eps": cfg.task.eps}
    split = [group | ({"use_muon": True, "nesterov": nesterov} if group["regularize"] else adamw) for group in groups]
    return Muon(
        split,
        lr=cfg.lr,
        momentum=momentum,
        betas=cfg.task.betas,
        ns_coefficients="original",
        adjust_lr_fn="match_rms_adamw",
    )
