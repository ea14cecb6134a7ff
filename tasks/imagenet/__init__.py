"""ImageNet with DeiT-Small and DeiT-Base (Table 1 of the paper), and with the suite's own ResNet-50."""

import warnings

# Caused by a model of timm 1.0.22, which is older than torch 2.14 and imports all its models. That
# model is not used here.
warnings.filterwarnings("ignore", message=r"`torch\.jit\.interface` is deprecated", category=FutureWarning)
