"""From files to records, from features to batches."""
