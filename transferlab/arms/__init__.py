"""What chapters of one paper share: their arms, and how these are named and drawn."""
