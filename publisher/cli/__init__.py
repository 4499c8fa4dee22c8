"""The `publisher` command: one module for each noun, and the programs that `publisher up` runs."""
