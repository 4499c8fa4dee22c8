"""What `make bench` runs: each program beside what else does its work, in the same rounds."""
