"""Pretrain a small encoder by masked-language modelling."""
