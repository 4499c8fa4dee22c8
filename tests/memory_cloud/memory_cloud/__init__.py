"""A package of somebody else's, as the publisher sees it: a plugin for a cloud in memory, and its platform."""
