"""The real server and its doors, as the tests use them."""
