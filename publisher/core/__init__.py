"""Values and rules: tickets, images, errors, settings. Imports none of the other packages."""
