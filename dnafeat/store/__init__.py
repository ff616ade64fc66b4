"""The feature store: Delta tables, reading, export, maintenance, erasure."""
