"""Build the workload: ResNet18 on CIFAR-100 (paper scale) or a part of Fashion-MNIST (mini scale)."""

from tasks.recipes.resnet18 import build, model

__all__ = ["build", "model"]
