"""From images to scores, and from scores to comparisons: the same for a recipe, a folder, labels and validation."""
