"""Exports: the formats in which a trained result is handed on."""
