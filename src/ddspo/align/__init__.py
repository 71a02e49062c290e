"""`ddspo align`: a recipe for a person's own model, planned from what its device holds and how fast it is."""
