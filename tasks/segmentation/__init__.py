"""Medical segmentation with nnU-Net v2: Table J.1 and AMOS22."""
