"""Evaluation over daily windows: train up to a day, evaluate on the next."""
