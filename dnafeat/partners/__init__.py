"""Turn files of brain-imaging embeddings into a table that join reads."""
