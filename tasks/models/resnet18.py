"""ResNet18 in its CIFAR form: 3x3 stem, no max-pool (He et al. 2016, adapted to small images)."""

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

BLOCKS_PER_STAGE = (2, 2, 2, 2)


class ResNet18(nn.Module):
    """ResNet18 with stages of width w, 2w, 4w and 8w.

    Width 64 and 100 classes give the paper's 11,220,132 parameters. PyTorch's default
    initialization is kept, as in the paper's code. torchvision's ResNet would re-initialize (He,
    fan-out).
    """

    def __init__(self, num_classes: int, width: int = 64, in_channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        stages, channels = [], width
        for index, blocks in enumerate(BLOCKS_PER_STAGE):
            out, stride = width * 2**index, 1 if index == 0 else 2
            stages.append(_stage(channels, out, blocks, stride))
            channels = out
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [batch, num_classes] of images [batch, in_channels, height, width]."""
        return self.head(self.stages(self.stem(images)).mean(dim=(2, 3)))


def _stage(channels: int, out: int, blocks: int, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1 or channels != out:
        shortcut = nn.Sequential(
            nn.Conv2d(channels, out, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(out)
        )
    layers = [BasicBlock(channels, out, stride, shortcut)]
    layers += [BasicBlock(out, out) for _ in range(blocks - 1)]
    return nn.Sequential(*layers)
