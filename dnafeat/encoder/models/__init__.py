"""Architectures, tokenizers, checkpoints, adapters and kernels."""
