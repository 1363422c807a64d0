"""What is computed: one NVTabular workflow a file, pure functions from settings to a Workflow."""
