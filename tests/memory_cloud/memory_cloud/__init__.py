"""A third-party package, from the publisher's view: a plugin for a cloud in memory, and its platform."""
