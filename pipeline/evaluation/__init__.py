"""What evaluation says of a model beyond its metrics: baselines, the best possible, remarks."""
