"""The keys of the task cifar100."""

from tasks.recipes.config import ResNet18Task as TASK

__all__ = ["TASK"]
