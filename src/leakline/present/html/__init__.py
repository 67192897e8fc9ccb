"""The HTML report: one file with its own style, script and data, and nothing from anywhere else."""
