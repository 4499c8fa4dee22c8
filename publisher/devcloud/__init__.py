"""A real Keystone and Glance on loopback, in a virtual environment of their own."""
