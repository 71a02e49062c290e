"""`python -m ddspo`, and so `accelerate launch -m ddspo run recipe.yaml`."""

from ddspo.cli import main

main()
