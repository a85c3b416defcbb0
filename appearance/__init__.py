"""The package behind the scripts. One folder per stage, from rendering data to training; `ORDER` lists them."""

# a folder may import the folders before it and `appearance/*.py`, but no later folder and no script
ORDER = ("drawn", "data", "networks", "measure", "pictures", "training")
