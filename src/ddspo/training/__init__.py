"""Training: one set of weights with several behaviours, batches, the step, and the only loop."""
