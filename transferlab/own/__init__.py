"""A person's own images: look at a folder, train on it, and get the network with its evidence."""
