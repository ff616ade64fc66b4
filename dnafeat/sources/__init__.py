"""Read files of sequences into one stream of entries."""
