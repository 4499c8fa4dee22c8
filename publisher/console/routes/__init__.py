"""The console's pages, one module for each noun. A route only translates and decides nothing."""
