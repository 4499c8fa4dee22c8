"""The routes of the API. A route translates between HTTP and a service, and decides nothing."""
