"""Fake data in CIFAR-100's files."""

from tasks.data.images.fake import cifar100

FAKES = {"CIFAR100": cifar100}
