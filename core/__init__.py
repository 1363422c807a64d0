"""What every room stands on: settings, artifacts, the console, Dask, and Merlin itself."""
