"""What spans mean, and the span processor behind the manager."""
