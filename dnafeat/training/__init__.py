"""What all training shares: run, checkpoints, batches, artifact files."""
