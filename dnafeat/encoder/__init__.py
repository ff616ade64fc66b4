"""Sequences to vectors: windows, packing, pooling, projection, version."""
