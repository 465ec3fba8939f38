"""What a request will take: tokens of a text, and what answers taught."""
