"""What the scripts stand on: one folder a stage of the way from images to numbers, lowest first in `ORDER`."""

# a folder imports those before it, and `appearance/*.py`; never one after it, never a script
ORDER = ("drawn", "data", "networks", "measure", "pictures", "training")
