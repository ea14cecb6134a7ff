"""ImageNet with DeiT-Small and DeiT-Base: Table 1 of the paper; and with ResNet-50, the suite's own."""

import warnings

# From a model of timm 1.0.22, which is older than torch 2.14 and imports all its models; none of them here has to do with it.
warnings.filterwarnings("ignore", message=r"`torch\.jit\.interface` is deprecated", category=FutureWarning)
