"""OpenStack: Keystone v3 and v2.0 to sign in, Glance v2 to hold the images."""
