"""A cloud of another vendor, in a package of its own. Nothing in the publisher knows it.

Behind it is a Glance, so that what arrives can be examined; its accounts look like no OpenStack account.
"""
