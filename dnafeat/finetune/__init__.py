"""Fine-tune an encoder on labelled sequences, and predict with the result."""
