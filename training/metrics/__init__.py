"""Pooled, exact metrics: computed over all rows together, never averaged over batches."""
