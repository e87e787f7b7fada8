"""Graph writers: an eager metric in, a file for an inference runtime out."""
