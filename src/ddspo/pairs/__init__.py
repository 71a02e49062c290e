"""Pairs on disk and in memory: parquet shards with an index, how they are written, checked, and shuffled."""
