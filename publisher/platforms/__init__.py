"""What each cloud platform is: the elements that it adds to requests, and what it requires of them."""
