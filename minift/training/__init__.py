"""Options, optimiser, the loop, checkpoints and reports."""
