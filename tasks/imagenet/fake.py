"""Fake data in ImageNet's files."""

from tasks.data.images.fake import imagenet, imagenet_parquet, imagenet_webdataset

FAKES = {"ImageNet": imagenet, "ImageNetParquet": imagenet_parquet, "ImageNetWebDataset": imagenet_webdataset}
