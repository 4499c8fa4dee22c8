"""Image files on this machine: their formats, their hashes, and how they are written."""
