"""nnU-Net's own validation of a fold: whole cases from overlapping patches, Dice of every label, and pictures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tasks.segmentation import nnunet, raw

TRAINER = "nnunetv2.training.nnUNetTrainer.nnUNetTrainer"
METRICS = "nnunetv2.evaluation.evaluate_predictions"
# Colours of Okabe and Ito, in 255ths, for colour-blind readers too. Labels after the seventh reuse
# them.
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))


def dice(trainer: Any, processes: int) -> dict[str, float]:
    """Return Dice in percent over the fold's validation cases: `dice` and `dice_<label>`.

    `dice` is the mean over labels without the background. A label's Dice is the mean over the cases
    that have it or in which it was found. A label without such a case is left out.
    """
    benchmark = torch.backends.cudnn.benchmark
    with nnunet.quietly(), nnunet.pools(processes, TRAINER, METRICS):
        trainer.perform_actual_validation()
    # nnU-Net's predictor turns it on.
    torch.backends.cudnn.benchmark = benchmark
    means = json.loads((predictions(trainer) / "summary.json").read_text())["mean"]
    names = {str(number): name for name, number in trainer.dataset_json["labels"].items()}
    found = {names[number]: 100 * float(mean["Dice"]) for number, mean in means.items()}
    found = {name: value for name, value in found.items() if not np.isnan(value)}
    return {"dice": float(np.mean(list(found.values()))) if found else 0.0} | {
        f"dice_{name}": value for name, value in found.items()
    }


def online_dice(trainer: Any, batches: int) -> dict[str, float]:
    """Return nnU-Net's "pseudo Dice" in percent: `online_dice` and `online_dice_<label>`.

    It uses `batches` batches of patches of the validation cases. As for `dice`, the mean is over
    labels, but voxels of all patches are counted together. A label that is in no patch is left out.
    """
    trainer.network.eval()
    with torch.no_grad():
        counted = [trainer.validation_step(trainer.validation_batch_at(number)) for number in range(batches)]
    right, too_many, missed = (
        np.sum([counts[kind] for counts in counted], axis=0) for kind in ("tp_hard", "fp_hard", "fn_hard")
    )
    names = [name for name, number in trainer.dataset_json["labels"].items() if number]
    voxels = 2 * right + too_many + missed
    found = {
        name: 200 * float(hit) / float(total) for name, hit, total in zip(names, right, voxels, strict=True) if total
    }
    mean = float(np.mean(list(found.values()))) if found else 0.0
    return {"online_dice": mean} | {f"online_dice_{name}": value for name, value in found.items()}


def predictions(trainer: Any) -> Path:
    """Return the folder of nnU-Net's predicted labels for the fold's validation cases."""
    return Path(trainer.output_folder) / "validation"


def write_overlays(trainer: Any, raw_folder: Path, folder: Path) -> None:
    """Write a picture of each validation case, <folder>/<case>.png.

    It shows the slice with most of its labels, plain, with the label, and with the prediction.
    """
    import nibabel

    folder.mkdir(exist_ok=True)
    for path in sorted(predictions(trainer).glob(f"*{raw.SUFFIX}")):
        case = path.name.removesuffix(raw.SUFFIX)
        files = (raw_folder / "imagesTr" / f"{case}_0000{raw.SUFFIX}", raw_folder / "labelsTr" / path.name, path)
        image, label, predicted = (np.asarray(nibabel.Nifti1Image.from_filename(file).dataobj) for file in files)
        level = int((label > 0).sum(axis=(0, 1)).argmax())
        overlay(image[..., level], label[..., level], predicted[..., level]).save(folder / f"{case}.png")


def overlay(image: np.ndarray, label: np.ndarray, predicted: np.ndarray, height: int = 320) -> Image.Image:
    """Return one slice three times, side by side: plain, with its label, with the prediction.

    The last axis points up.
    """
    low, high = np.percentile(image, (1, 99))
    grey = np.clip((image - low) / max(high - low, 1e-6), 0, 1)[..., None].repeat(3, axis=-1) * 255
    panels = [grey, *(_coloured(grey, labels) for labels in (label, predicted))]
    pixels = np.concatenate([np.rot90(panel) for panel in panels], axis=1).round().astype(np.uint8)
    scale = max(1, height // pixels.shape[0])
    return Image.fromarray(pixels).resize((pixels.shape[1] * scale, pixels.shape[0] * scale), Image.Resampling.NEAREST)


def _coloured(grey: np.ndarray, labels: np.ndarray, share: float = 0.45) -> np.ndarray:
    picture = grey.copy()
    for number in np.unique(labels[labels > 0]):
        colour = np.array(COLOURS[(int(number) - 1) % len(COLOURS)])
        picture[labels == number] = (1 - share) * grey[labels == number] + share * colour
    return picture
