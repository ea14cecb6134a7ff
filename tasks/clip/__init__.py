"""CLIP's image tower fine-tuned to classify: Table 2 of the paper, ViT-B/32 on ImageNet."""

import warnings

# Caused by a model of timm 1.0.22, which open_clip imports and which is older than torch 2.14. None
# of timm's models is used here.
warnings.filterwarnings("ignore", message=r"`torch\.jit\.interface` is deprecated", category=FutureWarning)
