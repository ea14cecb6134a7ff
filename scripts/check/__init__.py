"""The stages of scripts/check_gpu.py."""
