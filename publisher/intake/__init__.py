"""The HTTP API: it accepts publish requests, answers with tickets, and shows their status."""
