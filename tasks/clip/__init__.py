"""CLIP's image tower fine-tuned to classify: Table 2 of the paper, ViT-B/32 on ImageNet."""
