"""The HTTP side: checks publish requests, answers with tickets, tells how they stand."""
