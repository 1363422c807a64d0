"""What every room stands on: settings, artifacts, the console, Dask, and Merlin itself."""

import warnings

# torch imports NVML's bindings under their old name wherever both are installed.
warnings.filterwarnings("ignore", message="The pynvml package is deprecated")
