"""Programs for the interpreter of the cloud's own environment. Neither imports the other's modules."""
