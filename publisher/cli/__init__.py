"""The `publisher` command: one module a noun, and the programs that `publisher up` runs."""
