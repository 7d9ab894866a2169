"""One file per task, the whole story of that task."""
