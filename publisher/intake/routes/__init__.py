"""The resources, one module each. A route translates and decides nothing."""
