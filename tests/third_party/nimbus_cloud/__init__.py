"""A cloud of another vendor, in a separate package that nothing in the publisher knows.

Behind it is a Glance, so that tests can examine the images. Its accounts do not look like OpenStack accounts.
"""
