"""ImageNet with DeiT-Small and DeiT-Base (Table 1 of the paper), and with the suite's own ResNet-50."""
