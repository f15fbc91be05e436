"""A page on which the original and the tuned model answer side by side."""
