"""CLIP's image tower fine-tuned to classify: Table 2 of the paper, ViT-B/32 on ImageNet."""

import warnings

# From a model of timm 1.0.22, which open_clip brings; it is older than torch 2.14, and none of its models is used here.
warnings.filterwarnings("ignore", message=r"`torch\.jit\.interface` is deprecated", category=FutureWarning)
