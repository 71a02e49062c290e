"""Sources of prompts: files, URLs and datasets, read a row at a time, and what of them is used."""
