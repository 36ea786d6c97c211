"""What people have said to the routing: kept over a restart, and said by a file where nothing else works."""
