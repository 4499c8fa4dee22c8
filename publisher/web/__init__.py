"""What the API and the console share: requests, sign-ins, limits, uploads."""
