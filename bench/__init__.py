"""The benchmarks of `make bench`: each program runs in the same rounds as other programs that do its work."""
