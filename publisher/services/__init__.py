"""The use cases, which the API, the console and the command line call."""
