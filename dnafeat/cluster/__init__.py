"""Everything that knows Ray: session, tasks, datasets, progress, metrics."""
