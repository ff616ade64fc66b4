"""Join DNA vectors with the vectors of other modalities."""
