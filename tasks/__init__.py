"""The experiments: a folder for each task, the engine that trains them, and the rooms that they share."""

import warnings

# timm 1.0.22 is older than torch 2.14 and imports all its models. The one that causes this warning
# is not used here.
warnings.filterwarnings("ignore", message=r"`torch\.jit\.interface` is deprecated", category=FutureWarning)
