"""What the numbers in the README come from, each a command."""
