"""What a run will need, before it starts: counted from the recipe and the model's configuration, without weights."""
