"""ResNet18 trained as for Figure 2 and scored on corrupted test images: Figure E.5 of the paper."""
