"""CIFAR-100 with ResNet18: Figures 2, C.1 and E.1 to E.8 of the paper."""
