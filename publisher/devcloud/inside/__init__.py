"""Programs for the interpreter of the cloud's own environment. Nothing of ours imports them, nor they us."""
