"""The interpreter's own standard library as a data set of prompts and responses."""
