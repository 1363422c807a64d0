"""What of a log or its splits makes metrics doubtful: sentences in the features' manifest."""

WARNINGS = "warnings"
"""The key of the manifest that holds them."""
