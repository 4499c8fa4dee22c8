"""The console's pages, one module a noun. A route translates and decides nothing."""
