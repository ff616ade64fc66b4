"""Encoder architectures, one per file, and `checkpoint`, which finds, checks and loads their weights."""
