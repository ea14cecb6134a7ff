"""Download CIFAR-100 and Fashion-MNIST."""

from tasks.data.images.torchvision_sets import DATA_SETS, prepare

__all__ = ["DATA_SETS", "prepare"]
