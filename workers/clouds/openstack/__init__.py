"""OpenStack: sign-in to Keystone v3 and v2.0, images in Glance v2."""
